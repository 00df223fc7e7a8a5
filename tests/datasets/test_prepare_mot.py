from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.prepare_mot import Box, BoxFilter, choose_crops, main, read_sequence

INFO = (
    "[Sequence]\nname={name}\nimDir=img1\nframeRate=30\nseqLength=4\nimWidth=200\nimHeight=150\nimExt=.jpg\n"
)


def write_sequence(folder: Path, lines: list[str], name: str = "MOT17-04-FRCNN", frames: int = 4) -> Path:
    (folder / "img1").mkdir(parents=True)
    (folder / "gt").mkdir()
    (folder / "seqinfo.ini").write_text(INFO.format(name=name))
    (folder / "gt" / "gt.txt").write_text("\n".join(lines) + "\n")
    for frame in range(1, frames + 1):
        image = np.zeros((150, 200, 3), np.uint8)
        image[:, 100:] = 255
        cv2.imwrite(str(folder / "img1" / f"{frame:06d}.jpg"), image)
    return folder


def people(count: int, frames: int = 4) -> list[str]:
    return [
        f"{frame},{track},101,11,40,100,1,1,0.9"
        for track in range(1, count + 1)
        for frame in range(1, frames + 1)
    ]


def identities(folder: Path) -> set[str]:
    return {path.name.split("_")[0] for path in folder.glob("*.jpg")}


def test_writes_the_deepsportradar_layout(tmp_path, capsys):
    sequence = write_sequence(tmp_path / "seq", people(5))
    output = tmp_path / "out"
    assert main([str(sequence), "--output", str(output), "--train-share", "0.6", "--queries", "1"]) == 0
    train, query, gallery = (output / part for part in ("reid_train", "reid_test/query", "reid_test/gallery"))
    assert len(list(train.glob("*.jpg"))) == 3 * 4
    assert len(list(query.glob("*.jpg"))) == 2
    assert len(list(gallery.glob("*.jpg"))) == 2 * 3
    assert identities(query) == identities(gallery)
    assert not identities(train) & identities(query)
    assert identities(train) | identities(query) == {f"MOT17-04x{track}" for track in range(1, 6)}
    assert f"{train}: 12 crops of 3 identities" in capsys.readouterr().out
    header, *rows = (query / "metadata.csv").read_text().splitlines()
    assert header == "file,visibility"
    assert sorted(rows) == sorted(f"{path.name},0.9" for path in query.glob("*.jpg"))


def test_cuts_the_box_that_starts_at_pixel_one_and_stays_in_the_image(tmp_path):
    # Columns 100 to 139 (white), rows 10 to 109; the last person leaves the image at the left and the bottom
    lines = people(3, frames=2) + [f"{frame},4,-19,101,40,100,1,1,0.9" for frame in (1, 2)]
    sequence = write_sequence(tmp_path / "seq", lines)
    assert main([str(sequence), "--output", str(tmp_path / "out")]) == 0
    crops = {path.name: cv2.imread(str(path)) for path in (tmp_path / "out").rglob("*.jpg")}
    inside, outside = crops["MOT17-04x1_000001.jpg"], crops["MOT17-04x4_000001.jpg"]
    assert inside.shape == (100, 40, 3)
    assert inside.min() > 240
    assert outside.shape == (50, 20, 3)
    assert outside.max() < 15


def test_a_crop_that_cannot_be_encoded_leaves_no_data_set(tmp_path, monkeypatch):
    sequence = write_sequence(tmp_path / "seq", people(3))
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, None))
    with pytest.raises(
        RuntimeError, match=r"could not encode Box\(frame=1, .*000001.jpg, shape \(100, 40, 3\)"
    ):
        main([str(sequence), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_identities_of_two_sequences_stay_apart(tmp_path):
    first = write_sequence(tmp_path / "a", people(2), name="MOT17-02-DPM")
    second = write_sequence(tmp_path / "b", people(2), name="My_video")
    assert main([str(first), str(second), "--output", str(tmp_path / "out")]) == 0
    found = {path.name.split("_")[0] for path in (tmp_path / "out").rglob("*.jpg")}
    assert found == {"MOT17-02x1", "MOT17-02x2", "My-videox1", "My-videox2"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"considered": False}, "marked as ignored"),
        ({"category": 7}, "other class"),
        ({"visibility": 0.39}, "not visible enough"),
        ({"height": 95.0}, "too small"),
        ({"width": 0.4}, "too small"),
        ({"frame": 2}, "frame skipped"),
    ],
)
def test_filter_gives_its_reason(change, reason):
    values = {
        "frame": 1, "track": 1, "left": 1.0, "top": 1.0, "width": 40.0, "height": 96.0, "considered": True,
        "category": 1, "visibility": 0.4,
    }  # fmt: skip
    assert BoxFilter(every=2).refusal(Box(**{**values, **change})) == reason


def test_split_follows_the_seed_and_every_query_has_a_match(tmp_path):
    sequence = read_sequence(write_sequence(tmp_path / "seq", people(12, frames=3)))
    first, again, other = (choose_crops([sequence], BoxFilter(), 0.5, 9, seed) for seed in (0, 0, 1))
    assert first == again
    assert {crop.identity for crop in first if crop.part == "train"} != {
        crop.identity for crop in other if crop.part == "train"
    }
    parts = {part: {crop.identity for crop in first if crop.part == part} for part in ("query", "gallery")}
    assert parts["query"] == parts["gallery"]


def test_identities_with_one_crop_are_left_out(tmp_path):
    lines = [*people(3), "1,9,101,11,40,100,1,1,0.9"]
    sequence = read_sequence(write_sequence(tmp_path / "seq", lines))
    assert "MOT17-04x9" not in {crop.identity for crop in choose_crops([sequence], BoxFilter(), 0.5, 1, 0)}


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("gt/gt.txt", "no annotated MOTChallenge sequence"),
        ("seqinfo.ini", "no annotated MOTChallenge sequence"),
        ("img1", "has no folder of images"),
    ],
)
def test_names_a_missing_file(tmp_path, capsys, missing, message):
    sequence = write_sequence(tmp_path / "seq", people(3))
    (sequence / missing).rename(tmp_path / "elsewhere")
    assert main([str(sequence), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert missing in error


def test_names_incomplete_info(tmp_path, capsys):
    sequence = write_sequence(tmp_path / "seq", people(3))
    (sequence / "seqinfo.ini").write_text("[Sequence]\nname=x\n")
    assert main([str(sequence), "--output", str(tmp_path / "out")]) == 2
    assert "expected [Sequence] with name, imDir and imExt" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["1,2,3", "1,1,a,11,40,100,1,1,0.9", "nan,1,101,11,40,100,1,1,0.9", "1,1,nan,11,40,100,1,1,0.9"]
)
def test_names_the_line_of_malformed_ground_truth(tmp_path, capsys, line):
    sequence = write_sequence(tmp_path / "seq", [*people(3), line])
    assert main([str(sequence), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "gt.txt, line 13" in error
    assert line in error


def test_tells_why_no_box_is_left(tmp_path, capsys):
    sequence = write_sequence(tmp_path / "seq", people(3))
    assert main([str(sequence), "--output", str(tmp_path / "out"), "--min-height", "120"]) == 2
    assert "0 identities" in (error := capsys.readouterr().err)
    assert "12 too small" in error


def test_refuses_the_same_video_twice(tmp_path, capsys):
    first = write_sequence(tmp_path / "a", people(3), name="MOT17-04-DPM")
    second = write_sequence(tmp_path / "b", people(3), name="MOT17-04-SDP")
    assert main([str(first), str(second), "--output", str(tmp_path / "out")]) == 2
    assert "more than once" in capsys.readouterr().err


def test_a_missing_frame_leaves_no_output(tmp_path, capsys):
    sequence = write_sequence(tmp_path / "seq", people(3), frames=3)
    output = tmp_path / "out"
    assert main([str(sequence), "--output", str(output)]) == 2
    assert "000004.jpg" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seq"]


def test_refuses_a_folder_with_files(tmp_path, capsys):
    sequence = write_sequence(tmp_path / "seq", people(3))
    assert main([str(sequence), "--output", str(sequence)]) == 2
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--train-share=1", "--every=0", "--min-visibility=1.5", "--queries=0"])
def test_refuses_values_out_of_range(tmp_path, capsys, option):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--output", str(tmp_path / "out"), option])
    assert option.split("=")[0] in capsys.readouterr().err
