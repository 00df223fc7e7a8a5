import json
import shutil
from collections import Counter

import numpy as np
import pytest

from common.config import ConfigError, validate
from datasets.synthetic import generate
from src.data.readers._lists import PARTS
from src.data.readers.llcm import llcm
from src.data.readers.regdb import regdb
from src.data.readers.synthetic import synthetic
from src.data.readers.sysu_mm01 import sysu_mm01
from src.data.readers.vt_mot import vt_mot
from src.data.sample import UNKNOWN
from src.data.selection import data_set_name, read
from src.metrics import protocols
from src.registries import DATASETS
from src.schema import Config
from src.services._analysis import images_of

READERS = {"sysu_mm01": sysu_mm01, "regdb": regdb, "llcm": llcm, "vt_mot": vt_mot}
TRAINING = {"batch_size": 8, "epochs": 1, "optimizer": "Adam"}


@pytest.fixture(scope="module")
def roots(tiny_in):
    """The preset `tiny` (8, 4 and 6 people, cameras visible, visible, thermal) in every layout with lists."""
    return {layout: tiny_in(layout) for layout in READERS}


def write(root, **lists):
    for name, text in lists.items():
        path = root / name.replace("__", "/").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def facts(samples):
    return [(sample.identity, sample.camera, sample.modality, sample.path.name) for sample in samples]


def sysu(root):
    touch(root, "cam1/0002/0001.jpg", "cam1/0002/0010.jpg", "cam3/0002/0001.jpg", "cam6/0333/0001.jpg")
    touch(root, "cam2/0006/0001.jpg", "cam3/0006/0001.jpg", "cam4/0007/0001.jpg", "cam1/0001/0001.jpg")
    return write(root, exp__train_id_txt="2,333", exp__val_id_txt="7\n", exp__test_id_txt="6")


def test_sysu_mm01_takes_people_from_the_lists_and_cameras_from_the_folders(tmp_path):
    root = sysu(tmp_path)
    assert facts(sysu_mm01(root, "training")) == [
        (2, 1, "visible", "0001.jpg"),
        (2, 1, "visible", "0010.jpg"),
        (2, 3, "thermal", "0001.jpg"),
        (333, 6, "thermal", "0001.jpg"),
    ]
    assert facts(sysu_mm01(root, "validation")) == [(7, 4, "visible", "0001.jpg")]
    assert facts(sysu_mm01(root, "query")) == [(6, 3, "thermal", "0001.jpg")]
    assert facts(sysu_mm01(root, "gallery")) == [(6, 2, "visible", "0001.jpg")]


def test_cameras_2_and_3_of_sysu_mm01_are_one_place(tmp_path):
    root = touch(sysu(tmp_path), *(f"cam{camera}/0006/0001.jpg" for camera in range(1, 7)))
    found = {s.camera: s.place for part in ("query", "gallery") for s in sysu_mm01(root, part)}
    assert found == {1: 1, 2: 2, 3: 2, 4: 4, 5: 5, 6: 6}


def test_sysu_mm01_trains_on_the_validation_people_on_request(tmp_path):
    root = sysu(tmp_path)
    assert {sample.identity for sample in sysu_mm01(root, "training", train_val=True)} == {2, 7, 333}
    assert sysu_mm01(root, "validation", train_val=True) == []


def test_regdb_takes_identities_from_folders_because_labels_repeat_between_halves(tmp_path):
    root = write(
        tmp_path,
        idx__train_visible_2_txt="Visible/285/male_back_v_05528_285.bmp 0\n",
        idx__train_thermal_2_txt="Thermal/285/a b.bmp 0\n",
        idx__test_visible_2_txt="Visible/1/v.bmp 0\n",
        idx__test_thermal_2_txt="Thermal/1/t.bmp 0\n",
    )
    assert facts(regdb(root, "training", trial=2)) == [
        (285, 1, "visible", "male_back_v_05528_285.bmp"),
        (285, 2, "thermal", "a b.bmp"),
    ]
    assert facts(regdb(root, "query", trial=2)) == [(1, 1, "visible", "v.bmp")]
    assert facts(regdb(root, "gallery", trial=2)) == [(1, 2, "thermal", "t.bmp")]
    assert regdb(root, "validation", trial=2) == []
    with pytest.raises(ConfigError, match=r"expected idx/train_visible_1\.txt"):
        regdb(root, "training")


def test_llcm_reads_lists_for_training_and_folders_for_the_test(tmp_path):
    root = write(
        tmp_path,
        idx__train_vis_txt="vis/0005/0005_c09_s1_f1_vis.jpg 0\n",
        idx__train_nir_txt="nir/cam6/0005/x.jpg 0\n",
        idx__test_id_txt="351,12",
    )
    touch(
        root,
        "test_vis/cam3/0351/a.jpg",
        "test_nir/cam6/0012/0012_c06_s2_f4_nir.jpg",
        "test_nir/cam6/0005/no.jpg",
    )
    assert [sample[:3] for sample in facts(llcm(root, "training"))] == [(5, 9, "visible"), (5, 6, "thermal")]
    assert [sample[:3] for sample in facts(llcm(root, "gallery"))] == [(351, 3, "visible")]
    assert [sample[:3] for sample in facts(llcm(root, "query"))] == [(12, 6, "thermal")]


def test_vt_mot_reads_both_sides_of_a_moment(tmp_path):
    for part in ("train", "query", "gallery"):
        touch(tmp_path, f"{part}/visible/street-3x17_000120.jpg", f"{part}/thermal/street-3x17_000120.jpg")
    samples = vt_mot(tmp_path, "training")
    assert facts(samples) == [
        ("street-3x17", 0, modality, "street-3x17_000120.jpg") for modality in ("visible", "thermal")
    ]
    assert {sample.track for sample in samples} == {"street-3x17"}
    assert {sample.moment for sample in samples} == {"street-3x17_000120"}
    assert [sample.scene for sample in samples] == ["visible/street-3_000120", "thermal/street-3_000120"]
    assert vt_mot(tmp_path, "validation") == []


def test_vt_mot_may_have_one_modality_in_all_its_parts(tmp_path):
    touch(tmp_path, "train/visible/street-3x17_000120.jpg", "query/visible/street-3x18_000120.jpg")
    assert [sample.modality for sample in vt_mot(tmp_path, "training")] == ["visible"]
    touch(tmp_path, "query/Thermal/street-3x18_000120.jpg")
    with pytest.raises(ConfigError, match="train/thermal' does not exist"):
        vt_mot(tmp_path, "training")


@pytest.mark.parametrize("layout", READERS)
def test_the_parts_of_the_synthetic_set_are_whole_and_apart(roots, layout):
    parts = {part: READERS[layout](roots[layout], part) for part in PARTS}
    people = {part: {sample.identity for sample in samples} for part, samples in parts.items()}
    trained = people["training"] | people["validation"]
    assert len(trained) == 12
    assert len(people["query"]) == 6
    assert people["query"] == people["gallery"]
    assert not trained & people["query"]
    files = [sample.path for samples in parts.values() for sample in samples]
    assert len(set(files)) == len(files)
    assert all(path.is_file() for path in files)
    assert len(files) == 8 * 12 + 4 * 9 + 6 * 9
    assert {sample.modality for sample in parts["training"]} == {"visible", "thermal"}
    sides = [{sample.modality for sample in parts[part]} for part in ("query", "gallery")]
    assert (
        sides
        == {
            "sysu_mm01": [{"thermal"}, {"visible"}],
            "regdb": [{"visible"}, {"thermal"}],
            "llcm": [{"thermal"}, {"visible"}],
            "vt_mot": [{"visible", "thermal"}] * 2,
        }[layout]
    )


def test_regdb_trials_test_other_people_and_use_everybody(roots):
    tested = [frozenset(s.identity for s in regdb(roots["regdb"], "query", trial)) for trial in range(1, 11)]
    assert len(set(tested)) > 5
    assert frozenset.union(*tested) == frozenset(range(1, 19))


@pytest.mark.parametrize(
    ("layout", "protocol"),
    [
        ("sysu_mm01", {}),
        ("sysu_mm01", {"mode": "indoor", "shots": 10}),
        ("regdb", {"direction": "visible_to_thermal"}),
        ("regdb", {"direction": "thermal_to_visible"}),
        ("llcm", {"direction": "infrared_to_visible"}),
        ("llcm", {"direction": "visible_to_infrared"}),
    ],
)
def test_every_protocol_runs_on_its_own_layout(roots, layout, protocol):
    sides = []
    for part in ("query", "gallery"):
        samples = READERS[layout](roots[layout], part)
        sides.append(images_of(np.array([[s.identity % 7 + 1.0, s.identity] for s in samples]), samples))
    metrics = getattr(protocols, layout)(*sides, "euclidean", 5, **protocol)
    assert metrics.mAP == pytest.approx(1.0)


def test_frames_of_sysu_mm01_count_from_one_in_each_camera(roots):
    names = Counter(
        (s.camera, s.path.parent.name, s.path.stem) for s in sysu_mm01(roots["sysu_mm01"], "training")
    )
    assert {stem for _, _, stem in names} == {"0001", "0002", "0003", "0004"}
    assert {camera for camera, _, _ in names} == {1, 2, 3}


def config(layout, root, **dataset):
    return validate(
        Config,
        {
            "operation_mode": "chain_tqe",
            "model": {"model_name": "mobilenetv1_a025"},
            "dataset": {"dataset_name": layout, "root_path": str(root), **dataset},
            "training": TRAINING,
            "quantization": {"quantizer": "TFlite_converter"},
        },
    )


@pytest.mark.parametrize("layout", READERS)
def test_a_run_reads_the_data_set_by_its_lists(roots, layout, caplog):
    data = read(config(layout, roots[layout]))
    assert data.validation
    assert data.training
    assert {sample.identity for sample in data.query} == {sample.identity for sample in data.gallery}
    assert data.validation_is_retrieval == (layout in ("sysu_mm01", "vt_mot"))
    assert f"synthetic people in the layout of {layout}" in caplog.text


def test_a_missing_root_is_named_once_for_all_parts(tmp_path):
    with pytest.raises(ConfigError) as error:
        read(config("sysu_mm01", tmp_path / "nowhere"))
    assert str(error.value).count("does not exist") == 1


def test_images_to_search_in_need_no_layout(roots):
    folder = str(roots["regdb"] / "Visible" / "1")
    raw = {"prediction_query_path": folder, "prediction_gallery_path": folder, "quantization_path": folder}
    both = config("regdb", roots["regdb"], **raw).model_copy(update={"operation_mode": "chain_tqp"})
    data = read(both)
    assert len(data.prediction_query) == len(data.prediction_gallery) == len(data.calibration) == 8
    assert {sample.identity for sample in data.prediction_query} == {UNKNOWN}


def test_a_real_data_set_keeps_its_name(tmp_path, roots):
    assert data_set_name(config("sysu_mm01", sysu(tmp_path))) == "sysu_mm01"
    assert (
        data_set_name(config("sysu_mm01", roots["sysu_mm01"]))
        == "synthetic people in the layout of sysu_mm01"
    )


def test_arguments_reach_the_reader(roots):
    people = [
        {s.identity for s in read(config("regdb", roots["regdb"], arguments={"trial": trial})).query}
        for trial in (1, 2)
    ]
    assert people[0] != people[1]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"dataset_name": "sysu_mm01"}, "needs dataset.root_path"),
        ({"dataset_name": "regdb", "root_path": "r", "arguments": {"trail": 1}}, "'trail', did you mean 'trial'"),
        ({"dataset_name": "regdb", "root_path": "r", "arguments": {"part": "query"}}, "no argument 'part'"),
        ({"dataset_name": "llcm", "root_path": "r", "training_path": "t"}, "training_path cannot be set: the lists of"),
        ({"dataset_name": "market1501", "root_path": "r"}, r"data sets that bring lists \(llcm, regdb"),
    ],
)  # fmt: skip
def test_keys_that_do_not_go_together_are_refused(dataset, message):
    raw = {
        "operation_mode": "training",
        "model": {"model_name": "mobilenetv1_a025"},
        "dataset": dataset,
        "training": TRAINING,
    }
    with pytest.raises(ConfigError, match=message):
        validate(Config, raw)


@pytest.mark.parametrize("layout", READERS)
def test_a_missing_root_is_named(tmp_path, layout):
    with pytest.raises(ConfigError, match=r"dataset\.root_path '.*nowhere' (does not exist|is no folder)"):
        READERS[layout](tmp_path / "nowhere", "training")


@pytest.mark.parametrize("layout", ["sysu_mm01", "regdb", "llcm"])
def test_a_folder_without_lists_is_named_with_what_it_holds(tmp_path, layout):
    touch(tmp_path, "inner/SYSU-MM01.zip")
    with pytest.raises(ConfigError, match=r"expected .*\.txt.* in it, found inner"):
        READERS[layout](tmp_path, "training")


@pytest.mark.parametrize(
    ("layout", "file", "text", "message"),
    [
        ("sysu_mm01", "exp/train_id.txt", "1;2", "expected identities separated by commas, received '1;2'"),
        ("sysu_mm01", "exp/train_id.txt", "400", "none of the 1 people of exp/train_id.txt has an image"),
        ("regdb", "idx/train_thermal_1.txt", "Thermal/1/x.bmp 0\nThermal/2/x.bmp", "line 2: expected a path"),
        ("regdb", "idx/train_thermal_1.txt", "Thermal/anna/x.bmp 0", "a folder with the person's number"),
        ("llcm", "idx/test_id.txt", "9999", "none of the 1 people of idx/test_id.txt has an image in test_nir"),
    ],
)  # fmt: skip
def test_mistakes_in_lists_are_named(roots, tmp_path, layout, file, text, message):
    root = shutil.copytree(roots[layout], tmp_path / layout)
    (root / file).write_text(text)
    with pytest.raises(ConfigError, match=message):
        READERS[layout](root, "query" if "test" in file else "training")


def test_the_synthetic_reader_says_who_reads_a_layout_with_lists(roots):
    with pytest.raises(ConfigError, match=r"by `dataset_name: sysu_mm01` and `root_path: "):
        synthetic(roots["sysu_mm01"] / "cam1")


def test_near_infrared_layouts_are_marked_as_layout_only(roots):
    notes = {
        layout: json.loads((root / "synthetic.json").read_text()).get("note")
        for layout, root in roots.items()
    }
    assert notes["sysu_mm01"] == "layout only: thermal images where SYSU-MM01 has near-infrared ones"
    assert notes["llcm"] == "layout only: thermal images where LLCM has near-infrared ones"
    assert notes["regdb"] is notes["vt_mot"] is None


def test_a_preset_of_one_modality_has_no_layout_of_two(tmp_path):
    with pytest.raises(
        ConfigError, match="preset demo has visible cameras only; use one of tiny, bench, drone"
    ):
        generate("demo", tmp_path / "x", "regdb", progress=False)


def test_the_registry_knows_which_readers_bring_lists():
    assert {name for name in DATASETS if "part" in DATASETS.find(name).parameters} == set(READERS)
