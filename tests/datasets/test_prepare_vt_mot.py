import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.prepare_vt_mot import main, read_sequence
from src.data.metadata import metadata_of
from src.data.readers.vt_mot import vt_mot

HEIGHT, WIDTH = 150, 200


def write_frames(folder: Path, frames: int = 4, sides: tuple[str, str] = ("visible", "infrared")) -> Path:
    """Visible frames are dark with a white right half; in thermal ones the right half is grey."""
    for side, value in zip(sides, (255, 128), strict=True):
        (folder / side).mkdir(parents=True)
        for frame in range(1, frames + 1):
            image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            image[:, 100:] = value
            cv2.imwrite(str(folder / side / f"{frame:07d}.jpg"), image)
    return folder


def mot(folder: Path, tracks: int = 2, frames: int = 4, visibility: str = ",0.9") -> Path:
    (folder / "gt").mkdir(parents=True)
    lines = [
        f"{frame},{track},101,11,40,100,1,1{visibility}"
        for track in range(1, tracks + 1)
        for frame in range(1, frames + 1)
    ]
    (folder / "gt" / "gt.txt").write_text("\n".join(lines) + "\n")
    return write_frames(folder, frames)


def videos(root: Path, count: int = 5, **settings) -> list[str]:
    return [str(mot(root / f"video_{number}", **settings)) for number in range(1, count + 1)]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_sequences_are_divided_and_both_sides_of_a_moment_stay_together(tmp_path, capsys):
    output = tmp_path / "out"
    options = ["--output", str(output), "--train-share", "0.4", "--val-share", "0.2", "--queries", "1"]
    assert main([*videos(tmp_path / "in"), *options]) == 0
    names = {
        part: [
            {path.name for path in (output / part / side).glob("*.jpg")} for side in ("visible", "thermal")
        ]
        for part in ("train", "val", "query", "gallery")
    }
    assert all(visible == thermal for visible, thermal in names.values())
    assert {part: len(visible) for part, (visible, _) in names.items()} == {
        "train": 16, "val": 8, "query": 4, "gallery": 12,
    }  # fmt: skip
    sequences = {part: {name.split("x")[0] for name in visible} for part, (visible, _) in names.items()}
    assert [len(sequences[part]) for part in ("train", "val", "query")] == [2, 1, 2]
    assert sequences["query"] == sequences["gallery"]
    assert not sequences["train"] & sequences["val"]
    assert not (sequences["train"] | sequences["val"]) & sequences["query"]
    assert not names["query"][0] & names["gallery"][0]
    assert f"{output / 'train'}: 16 pairs of 4 identities in 2 sequences" in capsys.readouterr().out
    assert {sample.identity.split("x")[0] for sample in vt_mot(output, "gallery")} == sequences["gallery"]


def test_people_of_one_track_number_in_two_sequences_are_two(tmp_path):
    assert main([*videos(tmp_path / "in", 2), "--output", str(tmp_path / "out")]) == 0
    found = {path.name.split("_")[0] for path in (tmp_path / "out").rglob("*.jpg")}
    assert found == {"video-1x1", "video-1x2", "video-2x1", "video-2x2"}


def test_the_same_box_is_cut_out_of_both_modalities(tmp_path):
    assert main([*videos(tmp_path / "in", 2), "--output", str(tmp_path / "out")]) == 0
    for side, low, high in (("visible", 240, 255), ("thermal", 118, 138)):
        for path in (tmp_path / "out").rglob(f"{side}/*.jpg"):
            crop = cv2.imread(str(path))
            assert crop.shape == (100, 40, 3)
            assert low <= crop.min()
            assert crop.max() <= high


def test_metadata_says_what_the_table_and_the_boxes_say(tmp_path):
    table = tmp_path / "info.csv"
    table.write_text("sequence,altitude,platform\nvideo_1,30,drone\nvideo_2,45,drone\n")
    output = tmp_path / "out"
    assert main([*videos(tmp_path / "in", 2), "--output", str(output), "--sequence-info", str(table)]) == 0
    found = rows(output / "train" / "thermal" / "metadata.csv")
    assert {(row["visibility"], row["platform"]) for row in found} == {("0.9", "drone")}
    assert len({row["altitude"] for row in found}) == 1
    known = metadata_of(vt_mot(output, "training"))
    assert set(known) == {"visibility", "altitude", "platform"}


def test_visibility_that_is_not_annotated_is_not_invented(tmp_path):
    output = tmp_path / "out"
    assert main([*videos(tmp_path / "in", 2, visibility=""), "--output", str(output)]) == 0
    assert {row["visibility"] for row in rows(output / "query" / "visible" / "metadata.csv")} == {""}
    assert metadata_of(vt_mot(output, "query")) == {}


def test_the_altitude_band_takes_stated_altitudes_only(tmp_path, capsys):
    table = tmp_path / "info.csv"
    table.write_text("sequence,altitude\nvideo_1,30\nvideo_2,50\nvideo_3,50.5\nvideo_4,\n")
    options = ["--output", str(tmp_path / "out"), "--sequence-info", str(table), "--altitude", "30", "50"]
    assert main([*videos(tmp_path / "in"), *options]) == 0
    found = {path.name.split("x")[0] for path in (tmp_path / "out").rglob("*.jpg")}
    assert found == {"video-1", "video-2"}
    assert "3 sequences left out: altitude not stated or outside the band" in capsys.readouterr().out


def test_three_forms_of_annotation_give_the_same_boxes(tmp_path):
    """The box from pixel 101, 11 (counted from 1) with 40 x 100 pixels, of track 7 in frames 1 and 2."""
    folder = write_frames(tmp_path / "walk", 2, ("rgb", "thermal"))
    (folder / "gt").mkdir()
    (folder / "gt" / "gt.txt").write_text("1,7,101,11,40,100,1,1\n2,7,101,11,40,100,1,1\n")
    by_table = read_sequence(folder).boxes
    (folder / "gt" / "gt.txt").unlink()
    (folder / "annotations.json").write_text(
        json.dumps({"7": {"boxes": {"0": [100, 10, 140, 110], "1": [100, 10, 140, 110]}}})
    )
    by_json = read_sequence(folder).boxes
    assert by_table == by_json
    assert [(box.frame, box.track, box.left, box.top) for box in by_table] == [
        (1, 7, 101, 11),
        (2, 7, 101, 11),
    ]


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    folder = mot(tmp_path / "walk", frames=4)
    for side in ("visible", "infrared"):
        for number in range(4, 0, -1):
            (folder / side / f"{number:07d}.jpg").rename(folder / side / f"frame_{3 * number}.jpg")
    assert [path.stem for path in read_sequence(folder).visible] == [
        "frame_3",
        "frame_6",
        "frame_9",
        "frame_12",
    ]


def coco(videos: dict[str, int], tracks: int = 2, frames: int = 4) -> dict[str, list[dict]]:
    images = [
        {"id": 100 * video + frame, "video_id": video, "frame_id": frame, "vi_file_name": "x"}
        for video in videos.values()
        for frame in range(1, frames + 1)
    ]
    annotations = [
        {
            "id": 1,
            "image_id": image["id"],
            "track_id": track,
            "category_id": category,
            "bbox": [100, 10, 40, 100],
        }
        for image in images
        for track, category in [*((track, 1) for track in range(1, tracks + 1)), (99, 2)]
    ]
    return {
        "videos": [{"id": video, "file_name": name} for name, video in videos.items()],
        "images": images,
        "annotations": annotations,
    }


def test_one_coco_file_annotates_all_sequences(tmp_path):
    folders = [write_frames(tmp_path / name) for name in ("a", "b")]
    (tmp_path / "train.json").write_text(json.dumps(coco({"a": 1, "b": 2, "c": 3})))
    options = ["--coco", str(tmp_path / "train.json"), "--output", str(tmp_path / "out")]
    assert main([*map(str, folders), *options]) == 0
    found = {path.name for path in (tmp_path / "out").rglob("visible/*.jpg")}
    assert found == {
        f"{name}x{track}_{frame:06d}.jpg" for name in "ab" for track in (1, 2) for frame in range(1, 5)
    }
    crop = cv2.imread(str(next((tmp_path / "out").rglob("visible/*.jpg"))))
    assert crop.shape == (100, 40, 3)
    assert crop.min() > 240


def test_size_and_visibility_filter_are_those_of_prepare_mot(tmp_path, capsys):
    assert main([*videos(tmp_path / "in", 2), "--output", str(tmp_path / "out"), "--min-height", "120"]) == 2
    assert "16 too small" in capsys.readouterr().err
    options = ["--output", str(tmp_path / "out"), "--min-visibility", "0.95"]
    assert main([*videos(tmp_path / "in2", 2), *options]) == 2
    assert "16 not visible enough" in capsys.readouterr().err


def break_nothing_to_test(root: Path) -> None:
    for frame in (root / "video_2" / "visible").iterdir():
        frame.rename(frame.with_suffix(".txt"))


def break_synchronisation(root: Path) -> None:
    (root / "video_2" / "visible" / "0000003.jpg").unlink()


def break_names(root: Path) -> None:
    (root / "video_2" / "visible" / "0000003.jpg").rename(root / "video_2" / "visible" / "0000009.jpg")


def break_alignment(root: Path) -> None:
    cv2.imwrite(str(root / "video_2" / "infrared" / "0000001.jpg"), np.zeros((75, 100, 3), np.uint8))


def break_boxes(root: Path) -> None:
    (root / "video_2" / "gt" / "gt.txt").unlink()


def break_frame_number(root: Path) -> None:
    (root / "video_2" / "gt" / "gt.txt").write_text("5,3,101,11,40,100,1,1,0.9\n")


def break_line(root: Path) -> None:
    (root / "video_2" / "gt" / "gt.txt").write_text("1,3,101,11,40\n")


def break_json_number(root: Path) -> None:
    (root / "video_2" / "gt" / "gt.txt").unlink()
    (root / "video_2" / "annotations.json").write_text('{"7": {"boxes": {"0": [NaN, 1, 2, 3]}}}')


def break_json(root: Path) -> None:
    (root / "video_2" / "gt" / "gt.txt").unlink()
    (root / "video_2" / "annotations.json").write_text('{"7": [1, 2]}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_nothing_to_test, "has no frames in visible/ or rgb/"),
        (break_synchronisation, "3 visible and 4 thermal frames, without partner are for example 0000003"),
        (break_names, "4 visible and 4 thermal frames, without partner are for example 0000003, 0000009"),
        (break_alignment, "is not aligned: 0000001.jpg is (150, 200) and 0000001.jpg (75, 100)"),
        (break_boxes, "has no boxes: expected gt/gt.txt, annotations.json, or a COCO file"),
        (break_frame_number, "a box of track 3 is in frame 5, but there are 4 frames"),
        (break_line, "line 1: expected 8 numbers or more"),
        (break_json, "track '7': expected {\"boxes\""),
        (break_json_number, "position and size must be numbers"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_sequence_is_named(tmp_path, capsys, damage, message):
    folders = videos(tmp_path / "in", 2)
    damage(tmp_path / "in")
    assert main([*folders, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected an object, received a list"),
        ("{", "cannot be read as JSON"),
        ('{"videos": [], "images": []}', "is no COCO file of tracks: expected videos, images with video_id"),
        (json.dumps(coco({"z": 1})), "the COCO file has no video 'video_1'; it has z"),
    ],
)
def test_mistakes_in_a_coco_file_are_named(tmp_path, capsys, content, message):
    (tmp_path / "c.json").write_text(content)
    options = ["--coco", str(tmp_path / "c.json"), "--output", str(tmp_path / "out")]
    assert main([*videos(tmp_path / "in", 2), *options]) == 2
    assert message in capsys.readouterr().err


def test_one_sequence_cannot_be_divided(tmp_path, capsys):
    assert main([*videos(tmp_path / "in", 1, tracks=4), "--output", str(tmp_path / "out")]) == 2
    assert "1 of 1 sequences have people who pass the filter; expected 2 or more" in capsys.readouterr().err


def test_the_division_follows_the_seed(tmp_path):
    folders = videos(tmp_path / "in", 6, tracks=1)
    parts = []
    for number, seed in enumerate((0, 0, 1)):
        output = tmp_path / f"out{number}"
        assert main([*folders, "--output", str(output), "--seed", str(seed)]) == 0
        parts.append(sorted(path.name for path in (output / "train" / "visible").glob("*.jpg")))
    assert parts[0] == parts[1] != parts[2]


@pytest.mark.parametrize(
    "options", [["--val-share", "0.4"], ["--altitude", "30", "50"], ["--min-images", "1"]]
)
def test_refuses_options_that_cannot_be_meant(tmp_path, capsys, options):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--output", str(tmp_path / "out"), *options])
    assert options[0] in capsys.readouterr().err


def test_a_table_with_mistakes_is_refused(tmp_path, capsys):
    folders, table = videos(tmp_path / "in", 2), tmp_path / "info.csv"
    for content, message in (
        (
            "name,altitude\nvideo_1,3\n",
            "has no column sequence: expected sequence, separated by commas; its first line is 'name,altitude'",
        ),
        (
            "sequence,altitude\nvideo_1,high\n",
            "the altitude of video-1 must be a number of metres, received 'high'",
        ),
    ):
        table.write_text(content)
        options = ["--output", str(tmp_path / "out"), "--sequence-info", str(table), "--altitude", "1", "2"]
        assert main([*folders, *options]) == 2
        assert message in capsys.readouterr().err
