import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from src.data.sample import Sample
from src.tools._known_data_sets import KNOWN_DATA_SETS
from src.tools.doctor import main

LAYOUTS = ("sysu_mm01", "regdb", "llcm", "vt_mot")
DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def rendered(tiny_in):
    return {layout: tiny_in(layout) for layout in LAYOUTS}


@pytest.fixture
def doctor(tmp_path, capsys):
    """Run the doctor on a section `dataset`; its exit code and its lines."""

    def run(**dataset):
        raw = {
            "operation_mode": "training",
            "model": {"model_name": "mobilenetv1_a025"},
            "dataset": dataset,
            "training": {"batch_size": 8, "epochs": 1, "optimizer": "Adam"},
        }
        (tmp_path / "doctor_test.yaml").write_text(yaml.safe_dump(raw))
        code = main(["--config-dir", str(tmp_path), "--config-name", "doctor_test.yaml"])
        return code, capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def copy(rendered, tmp_path):
    """A data set that a test may damage."""
    return lambda layout: Path(shutil.copytree(rendered[layout], tmp_path / f"{layout}_copy"))


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((16, 8, 3), number, np.uint8))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_synthetic_set_is_well_in_every_layout(doctor, rendered, layout):
    code, lines = doctor(dataset_name=layout, root_path=str(rendered[layout]))
    assert code == 0, lines
    text = "\n".join(lines)
    assert f"note: these are synthetic people in the layout of {layout}" in text
    assert ("layout only" in text) == (layout in ("sysu_mm01", "llcm"))
    for line in (
        "ok: 186 images, as were rendered",
        "ok: 18 people, as were rendered",
        "ok: 186 files can be decoded",
        "ok: nobody is both trained on and tested",
        "ok: no two files are the same image",
        "ok: every query has a match in the gallery",
    ):
        assert line in lines
    assert any(line.endswith("people to train on have images of both modalities") for line in lines)


def test_the_table_counts_the_parts(doctor, rendered):
    _, lines = doctor(dataset_name="sysu_mm01", root_path=str(rendered["sysu_mm01"]))
    start = next(number for number, line in enumerate(lines) if line.startswith("part"))
    assert [line.split() for line in lines[start + 1 : start + 5]] == [
        ["training", "8", "64", "32", "1,", "2,", "3"],
        ["validation", "4", "24", "12", "1,", "2,", "3"],
        ["query", "6", "0", "18", "3"],
        ["gallery", "6", "36", "0", "1,", "2"],
    ]


def test_counts_that_differ_from_the_publication_are_problems(doctor, copy):
    root = copy("sysu_mm01")
    (root / "synthetic.json").unlink()
    code, lines = doctor(dataset_name="sysu_mm01", root_path=str(root))
    assert code == 1
    assert "problem: 12 people to train on and validate, but SYSU-MM01 has 395 by its publication" in lines
    assert "problem: 18 queries, but SYSU-MM01 has 3,803 by its publication" in lines


def test_published_counts_of_sysu_mm01_are_those_of_its_official_draws():
    """The layout holds the images of each test person and camera; the training part is made up to its sums."""
    layout = np.load(DATA / "sysu_mm01_layout.npz")
    parts: dict[str, list[Sample]] = {"query": [], "gallery": [], "validation": [], "training": []}
    for identity, row in zip(layout["identities"].tolist(), layout["images"].tolist(), strict=True):
        for camera, count in enumerate(row, 1):
            part = "query" if camera in (3, 6) else "gallery"
            parts[part] += [Sample(Path(f"{k}.jpg"), identity, camera) for k in range(count)]
    for part, people, visible, thermal in (("training", 296, 20284, 9929), ("validation", 99, 1974, 1980)):
        for modality, number in (("visible", visible), ("thermal", thermal)):
            parts[part] += [Sample(Path("x"), f"{part}{k % people}", 1, modality) for k in range(number)]
    counts = KNOWN_DATA_SETS["sysu_mm01"].counts
    assert [(count.what, count.counted(parts)) for count in counts] == [
        (count.what, count.published) for count in counts
    ]


def test_published_counts_of_regdb_look_at_the_right_half():
    parts = {"training": [], "validation": [], "query": [], "gallery": []}
    for part, modality, first in (
        ("training", "visible", 0), ("training", "thermal", 0), ("query", "visible", 206), ("gallery", "thermal", 206),
    ):  # fmt: skip
        parts[part] += [Sample(Path("x"), first + k // 10, 1, modality) for k in range(2060)]
    assert all(count.counted(parts) == count.published for count in KNOWN_DATA_SETS["regdb"].counts)


@pytest.mark.parametrize(
    ("layout", "trained", "queries", "gallery"),
    [
        # Images and people of each part, from the publications
        ("llcm", (30_921, 713), (7_166, 351), (8_680, 351)),
        ("market1501", (12_936, 751), (3_368, 750), (19_732, 752)),
    ],
)
def test_published_counts_of_other_sets_look_at_the_right_part(layout, trained, queries, gallery):
    sizes = {"training": trained, "validation": (0, 1), "query": queries, "gallery": gallery}
    parts = {
        part: [Sample(Path("x"), f"{part == 'training'} {k % people}", 1 + k % 9) for k in range(images)]
        for part, (images, people) in sizes.items()
    }
    counts = KNOWN_DATA_SETS[layout].counts
    assert {c.what: c.counted(parts) for c in counts} == {c.what: c.published for c in counts}


def test_a_missing_data_set_is_explained_and_not_downloaded(doctor, tmp_path):
    for layout, link in (
        ("sysu_mm01", "https://github.com/wuancong/SYSU-MM01"),
        ("regdb", "http://dm.dongguk.edu"),
        ("llcm", "https://github.com/ZYK100/LLCM"),
        ("vt_mot", "https://github.com/wqw123wqw/PFTrack"),
    ):
        code, lines = doctor(dataset_name=layout, root_path=str(tmp_path / "nowhere"))
        assert code == 1
        assert sum(line.startswith("problem: ") for line in lines) == 1
        assert any(line.startswith("note: how to obtain") and link in line for line in lines)
        assert any(f"--layout {layout} " in line for line in lines)
    assert not (tmp_path / "nowhere").exists()


def test_unreadable_files_are_listed(doctor, copy):
    root = copy("sysu_mm01")
    (root / "cam1/0001/0001.jpg").write_bytes(b"")
    (root / "cam3/0013/0001.jpg").write_text("no image")
    code, lines = doctor(dataset_name="sysu_mm01", root_path=str(root))
    text = "\n".join(lines)
    assert code == 1
    assert "problem: 2 of 186 images cannot be decoded:" in text
    assert "cam1/0001/0001.jpg: empty file" in text
    assert "cam3/0013/0001.jpg: not a JPEG, PNG or BMP file" in text


def test_listed_files_that_are_missing_are_listed(doctor, copy):
    root = copy("regdb")
    image = next((root / "Thermal/1").iterdir())
    image.unlink()
    code, lines = doctor(dataset_name="regdb", root_path=str(root))
    assert code == 1
    assert any(str(image) in line and "No such file" in line for line in lines)


def test_people_who_are_trained_on_and_tested_are_named(doctor, copy):
    root = copy("sysu_mm01")
    (root / "exp/train_id.txt").write_text("1,2,3,4,5,6,7,8,14,15")
    code, lines = doctor(dataset_name="sysu_mm01", root_path=str(root))
    assert code == 1
    assert any(
        line.startswith("problem: 2 people are both trained on and tested: 14, 15; a score") for line in lines
    )


def test_people_who_are_trained_on_and_validate_are_named(doctor, copy):
    root = copy("sysu_mm01")
    validation = (root / "exp/val_id.txt").read_text().strip()
    (root / "exp/train_id.txt").write_text(f"1,2,3,{validation.split(',')[0]}")
    code, lines = doctor(dataset_name="sysu_mm01", root_path=str(root))
    assert code == 1
    assert any(
        "validation people are trained on" in line and line.startswith("problem: 1 of ") for line in lines
    )


@pytest.mark.parametrize(
    ("source", "target", "level", "says"),
    [
        ("cam1/0001/0001.jpg", "cam1/0014/0009.jpg", "problem", "1 images are both trained on and tested"),
        ("cam1/0001/0001.jpg", "cam1/0002/0009.jpg", "problem", "1 images are under more than one identity"),
        ("cam3/0014/0001.jpg", "cam1/0014/0009.jpg", "problem", "1 images are both query and gallery"),
        ("cam1/0001/0001.jpg", "cam1/0001/0009.jpg", "note", "1 images are there more than once"),
    ],
)
def test_exact_copies_are_told_by_their_harm(doctor, copy, source, target, level, says):
    root = copy("sysu_mm01")
    shutil.copy(root / source, root / target)
    _, lines = doctor(dataset_name="sysu_mm01", root_path=str(root))
    [line] = [line for line in lines if line.startswith(f"{level}: {says}")]
    assert source in line
    assert target in line


def test_people_of_one_modality_are_counted(doctor, copy):
    root = copy("sysu_mm01")
    shutil.rmtree(root / "cam3/0002")
    _, lines = doctor(dataset_name="sysu_mm01", root_path=str(root))
    assert "note: 7 of 8 people to train on have images of both modalities: 2" in lines


def test_queries_without_a_match_are_counted(doctor, copy):
    root = copy("sysu_mm01")
    for camera in (1, 2):
        shutil.rmtree(root / f"cam{camera}/0013")
    _, lines = doctor(dataset_name="sysu_mm01", root_path=str(root))
    assert "note: 3 queries have no match in the gallery, people 13: they do not count" in lines


def test_moments_of_vt_mot_have_two_sides(doctor, tmp_path):
    for number, part in enumerate(("train", "query", "gallery")):
        for side in ("visible", "thermal"):
            who = "ax1" if part == "train" else "bx1"
            picture(tmp_path / "vt" / part / side / f"{who}_{number:06d}.jpg", 10 * number + len(side))
    code, lines = doctor(dataset_name="vt_mot", root_path=str(tmp_path / "vt"))
    assert code == 0, lines
    assert "ok: 3 moments, each in both modalities" in lines
    (tmp_path / "vt/train/thermal/ax1_000000.jpg").rename(tmp_path / "vt/train/thermal/ax1_000009.jpg")
    _, lines = doctor(dataset_name="vt_mot", root_path=str(tmp_path / "vt"))
    assert any(
        "2 moments are in both modalities, 2 images without partner: ax1_000000.jpg" in line for line in lines
    )


def test_folders_by_path_are_examined_too(doctor, tiny):
    code, lines = doctor(
        dataset_name="market1501",
        training_path=str(tiny / "bounding_box_train"),
        test_query_path=str(tiny / "query"),
        test_gallery_path=str(tiny / "bounding_box_test"),
    )
    assert code == 0, lines
    assert "note: these are synthetic people: counts of a public data set do not apply" in lines


def test_parts_that_are_not_named_are_not_missed(doctor, tmp_path):
    for number in range(3):
        picture(tmp_path / "train" / f"000{number}_c1s1_000001_00.jpg", number)
    code, lines = doctor(dataset_name="market1501", training_path=str(tmp_path / "train"))
    problems = [line for line in lines if line.startswith("problem")]
    assert code == 1
    assert problems == [
        "problem: 3 people to train on, but Market-1501 has 751 by its publication",
        "problem: 3 training images, but Market-1501 has 12,936 by its publication",
    ]


def test_a_preset_that_is_not_rendered_yet_is_no_problem(doctor, monkeypatch, tmp_path):
    monkeypatch.setattr("src.data.selection._PROJECT", tmp_path)
    code, lines = doctor(dataset_name="synthetic", synthetic_preset="tiny")
    assert code == 0
    assert lines == ["note: the synthetic people of this configuration are rendered when it first runs"]


def test_a_mistake_in_the_configuration_ends_with_2(capsys):
    assert main(["--config-name", "nothing.yaml"]) == 2
    assert "nothing" in capsys.readouterr().err


def test_the_manifest_of_a_damaged_set_is_held_against_it(doctor, copy):
    root = copy("llcm")
    manifest = json.loads((root / "synthetic.json").read_text())
    next((root / "test_nir").rglob("*.jpg")).unlink()
    code, lines = doctor(dataset_name="llcm", root_path=str(root))
    assert code == 1
    assert f"problem: 185 images, but {sum(manifest['images'].values())} were rendered" in lines
