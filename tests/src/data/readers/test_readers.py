import json
import logging
import subprocess
import sys

import pytest

from common.config import ConfigError
from src.data.readers._files import camera_of
from src.data.readers.deepsportradar import deepsportradar
from src.data.readers.image_folder import image_folder
from src.data.readers.market1501 import market1501
from src.data.readers.synthetic import synthetic
from src.data.sample import DISTRACTOR, JUNK

READERS = [deepsportradar, image_folder, market1501]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def facts(samples):
    return [(sample.identity, sample.camera) for sample in samples]


def test_market1501_reads_identity_and_camera(tmp_path):
    touch(
        tmp_path, "0002_c1s1_000451_03.jpg", "1501_c6s4_001877_04.JPG", "0002_c3s2_000451_03.jpg", "Thumbs.db"
    )
    samples = market1501(tmp_path)
    assert facts(samples) == [(2, 1), (2, 3), (1501, 6)]
    assert [sample.path.name for sample in samples] == sorted(sample.path.name for sample in samples)
    assert {sample.modality for sample in samples} == {"visible"}


def test_market1501_keeps_junk_and_distractors_apart_from_people(tmp_path):
    touch(tmp_path, "-1_c1s1_000401_03.jpg", "0000_c2s1_000151_01.jpg", "0003_c2s1_000151_01.jpg")
    samples = market1501(tmp_path)
    assert facts(samples) == [(JUNK, 1), (DISTRACTOR, 2), (3, 2)]
    assert [sample.is_person for sample in samples] == [False, False, True]


def test_deepsportradar_takes_the_text_before_the_first_underscore(tmp_path):
    touch(tmp_path, "0000_game3_000451.jpeg", "MOT17-04x12_c7_000001.png", "12_c3s1_01.bmp", "12_card2.jpg")
    assert facts(deepsportradar(tmp_path)) == [("0000", 0), ("12", 3), ("12", 0), ("MOT17-04x12", 7)]
    assert all(sample.is_person for sample in deepsportradar(tmp_path))


def test_image_folder_takes_the_name_of_the_sub_folder(tmp_path):
    touch(tmp_path, "anna/1.jpg", "anna/x_c2_5.PNG", "ben/c4_1.jpg", "ben/notes.txt", ".hidden/1.jpg")
    assert facts(image_folder(tmp_path)) == [("anna", 0), ("anna", 2), ("ben", 4)]


@pytest.mark.parametrize(
    ("stem", "camera"),
    [("c3", 3), ("000_c12_1", 12), ("game_c2s1", 2), ("abc4_1", 0), ("x_cam4", 0), ("x_c4b", 0), ("", 0)],
)
def test_camera_is_a_token_of_the_name(stem, camera):
    assert camera_of(stem) == camera


@pytest.mark.parametrize("reader", READERS)
def test_missing_folder_is_named(reader, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere' does not exist; expected a folder with "):
        reader(tmp_path / "nowhere")


@pytest.mark.parametrize("reader", READERS)
def test_file_instead_of_a_folder_is_named(reader, tmp_path):
    with pytest.raises(ConfigError, match=r"a\.zip' is a file"):
        reader(touch(tmp_path, "a.zip") / "a.zip")


@pytest.mark.parametrize("reader", READERS)
def test_empty_folder_is_named(reader, tmp_path):
    with pytest.raises(ConfigError, match="found an empty folder"):
        reader(tmp_path)


@pytest.mark.parametrize(
    ("reader", "inside"),
    [(deepsportradar, "photo.jpg"), (market1501, "0001_05.jpg"), (image_folder, "photo.jpg")],
)
def test_another_layout_is_answered_with_an_example(reader, inside, tmp_path):
    with pytest.raises(ConfigError, match=rf"found 1 files \(1 images\), for example '{inside}'"):
        reader(touch(tmp_path, inside))


def test_folder_one_level_too_high_is_answered_with_an_example(tmp_path):
    with pytest.raises(ConfigError, match="for example 'query/0002_c1s1_000451_03.jpg'"):
        market1501(touch(tmp_path, "query/0002_c1s1_000451_03.jpg", "readme.txt"))


def test_strangers_are_left_out_and_counted(tmp_path, caplog):
    touch(tmp_path, "0002_c1s1_000451_03.jpg", "cover.jpg", "._0002_c1s1_000451_03.jpg")
    with caplog.at_level(logging.WARNING):
        assert len(market1501(tmp_path)) == 1
    assert "1 of 2 images" in caplog.text and "cover.jpg" in caplog.text


def make_synthetic(root, layout="market1501", **manifest):
    content = {"layout": layout, "cameras": {"1": "visible", "2": "thermal"}} | manifest
    touch(root, "bounding_box_train/0002_c1s1_000451_00.jpg", "bounding_box_train/0002_c2s1_000452_00.jpg")
    (root / "synthetic.json").write_text(json.dumps(content))
    return root / "bounding_box_train"


@pytest.mark.parametrize(("layout", "identity"), [("market1501", 2), ("deepsportradar", "0002")])
def test_synthetic_knows_the_modality_of_a_camera(tmp_path, layout, identity):
    samples = synthetic(make_synthetic(tmp_path, layout))
    assert [(s.identity, s.camera, s.modality, s.track) for s in samples] == [
        (identity, 1, "visible", None),
        (identity, 2, "thermal", None),
    ]


def test_synthetic_knows_tracks(tmp_path, monkeypatch):
    make_synthetic(tmp_path)
    (tmp_path / "tracks.csv").write_text(
        "file,split,track\nbounding_box_train/0002_c2s1_000452_00.jpg,train,0002s1t4\n"
    )
    monkeypatch.chdir(tmp_path)
    alone, tracked = synthetic("bounding_box_train")
    assert (alone.track, alone.moment, alone.scene) == (None, None, None)
    assert (tracked.track, tracked.moment, tracked.scene) == ("0002s1t4", None, None)
    (tmp_path / "tracks.csv").write_text(
        "file,track,camera,frame,party\nbounding_box_train/0002_c2s1_000452_00.jpg,0002s1t4,2,1,train-t4-17\n"
    )
    tracked = synthetic("bounding_box_train")[1]
    assert (tracked.moment, tracked.scene) == ("0002s1t4_1", "2_train-t4-17_1")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"cameras": {"1": "visible"}}, "is of camera 2, but"),
        ({"layout": "sysu"}, "layout must be one of market1501, deepsportradar, got 'sysu'"),
        ({"cameras": 3}, "is not what `python -m datasets.synthetic` writes"),
    ],
)
def test_synthetic_names_what_is_wrong_with_the_manifest(tmp_path, manifest, message):
    with pytest.raises(ConfigError, match=message):
        synthetic(make_synthetic(tmp_path, **manifest))


def test_synthetic_needs_its_manifest(tmp_path):
    with pytest.raises(ConfigError, match=r"not below a folder with a synthetic\.json"):
        synthetic(tmp_path)


def test_readers_leave_tensorflow_alone():
    program = "import sys; import src.data.readers.synthetic, src.data.checks, src.data.preprocessing; "
    program += "sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
