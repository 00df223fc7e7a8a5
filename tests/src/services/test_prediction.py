"""Prediction: who is found, what is left out, what is unknown, the files, and every mistake that a user can make."""

import csv
import importlib
import json
import logging
import shutil

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from common.config import ConfigError, validate
from common.run import Run
from src.data.selection import Data
from src.pipeline import SERVICES, _preflight, _starting_model
from src.schema import Config
from src.services import prediction

COLOURS = {
    "query": {"a_c1_0": (250, 20, 20), "b_c1_0": (20, 240, 30), "c_c2_0": (30, 60, 230)},
    "gallery": {
        "a_c2_1": (240, 60, 20), "a_c1_2": (250, 80, 90), "b_c2_1": (10, 250, 120), "b_c3_2": (140, 200, 30),
        "c_c1_1": (20, 20, 250), "d_c1_1": (200, 210, 20),
    },
}  # fmt: skip


def _save(folder, images, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, colour in images.items():
        Image.new("RGB", (24, 48), colour).save(folder / f"{name}{suffix}")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The file of a network whose embedding is the mean colour."""
    path, image = tmp_path_factory.mktemp("network") / "mean_colour.keras", keras.Input((32, 32, 3))
    keras.Model(image, keras.layers.GlobalAveragePooling2D()(image)).save(path)
    return path


@pytest.fixture
def folder(tmp_path, network):
    """Query and gallery of plain colours, and the network."""
    for part, images in COLOURS.items():
        _save(tmp_path / part, images)
    shutil.copy(network, tmp_path)
    return tmp_path


def _config(folder, dataset=None, **sections):
    raw = {
        "operation_mode": "prediction",
        "model": {"model_path": str(folder / "mean_colour.keras")},
        "dataset": {
            "prediction_query_path": str(folder / "query"),
            "prediction_gallery_path": str(folder / "gallery"),
            **(dataset or {}),
        },
        "preprocessing": {"rescaling": {"scale": 1 / 255, "offset": 0.0}},
        **sections,
    }
    return validate(Config, raw)


def _check(config, folder):
    model = _starting_model(config)
    services = {name: importlib.import_module(SERVICES[name]) for name in config.services}
    return services["prediction"], _preflight(config, services, model, Run(folder, 0)), model


def _predict(folder, **changes):
    """The report, and `matches.json`."""
    config = _config(folder, **changes)
    service, data, model = _check(config, folder)
    report = service.run(config, data, model, Run(folder / "out", 0))
    return report, json.loads((folder / "out/prediction/matches.json").read_text())


def _found(matches):
    """{query: [gallery, ...]} by the stems of the files."""
    return {
        _stem(query["query"]): [_stem(match["gallery"]) for match in query["matches"]]
        for query in matches["queries"]
    }


def _stem(path):
    return path.rsplit("/", 1)[1].split(".")[0]


def _expected(query, gallery, top_k):
    """The slow, obvious way."""
    order = {}
    for name, colour in query.items():
        cosines = {
            other: np.dot(colour, value) / np.linalg.norm(colour) / np.linalg.norm(value)
            for other, value in gallery.items()
        }
        order[name] = sorted(cosines, key=lambda other: -cosines[other])[:top_k]
    return order


def test_the_nearest_come_first_and_are_counted(folder):
    report, matches = _predict(folder, prediction={"top_k": 4})
    assert _found(matches) == _expected(COLOURS["query"], COLOURS["gallery"], 4)
    assert report.metrics["float32/keras/first_match_correct"] == 1.0
    assert (report.metrics["queries"], report.metrics["gallery_images"]) == (3, 6)
    assert report.metrics["keras/host/images_per_second"] > 0
    assert "it is not Rank-1 of a protocol" in report.notes[1]


def test_both_distances_keep_the_order_and_say_their_value(folder):
    first = _predict(folder)[1]
    second = _predict(folder, prediction={"reid_distance_metric": "euclidean"})[1]
    assert _found(first) == _found(second)
    a, b = np.array(COLOURS["query"]["a_c1_0"]), np.array(COLOURS["gallery"]["a_c2_1"])
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    cosine, euclidean = (m["queries"][0]["matches"][0] for m in (first, second))
    assert cosine["similarity"] == pytest.approx(a @ b, abs=1e-5)
    assert cosine["distance"] == pytest.approx(1 - a @ b, abs=1e-5)
    assert euclidean["distance"] == pytest.approx(np.linalg.norm(a - b), abs=1e-4)


def test_a_row_of_the_table_says_who_where_and_whether_it_is_right(folder):
    report, _ = _predict(folder, prediction=None)
    with (folder / "out/prediction/matches.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 6
    assert rows[0] == {
        "query": str(folder / "query/a_c1_0.png"), "rank": "1", "gallery": str(folder / "gallery/a_c2_1.png"),
        "similarity": rows[0]["similarity"], "distance": rows[0]["distance"], "query_identity": "a",
        "gallery_identity": "a", "query_camera": "1", "gallery_camera": "2", "correct": "True",
    }  # fmt: skip
    assert [row["correct"] for row in rows[:6]].count("True") == 2
    assert not [path for path in (folder / "out").rglob("*") if ".tmp" in path.name]
    assert all(path.stat().st_size for path in report.files)


def test_a_query_does_not_find_its_own_file_but_its_own_camera(folder):
    gallery = COLOURS["gallery"]
    _, matches = _predict(
        folder, dataset={"prediction_query_path": str(folder / "gallery")}, prediction={"top_k": 5}
    )
    expected = {
        name: order[1:]  # the first is the image itself
        for name, order in _expected(gallery, gallery, 6).items()
    }
    assert _found(matches) == expected
    assert {len(query["matches"]) for query in matches["queries"]} == {5}


def _shows(path, colour):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return (np.abs(pixels - rgb).sum(-1) < 12).sum() > 100


def test_frames_are_green_and_red_where_identities_are_known(folder):
    _predict(folder)
    sheet = folder / "out/prediction/00001_a_c1_0.png"
    assert _shows(sheet, "#16a34a") and _shows(sheet, "#dc2626") and not _shows(sheet, "#9ca3af")


def test_images_with_any_name_in_any_folder_are_found_with_grey_frames(folder, caplog):
    _save(folder / "plain/sub", {"$\\frac$": (250, 30, 20)}, ".JPG")
    _save(folder / "plain", {"y": (20, 30, 250)}, ".BMP")
    _save(folder / "plain/.hidden", {"z": (250, 250, 250)})
    caplog.set_level(logging.INFO)
    report, matches = _predict(folder, dataset={"prediction_gallery_path": str(folder / "plain")})
    assert _found(matches)["a_c1_0"] == ["$\\frac$", "y"]
    assert {match["correct"] for query in matches["queries"] for match in query["matches"]} == {None}
    assert matches["queries"][0]["matches"][0]["identity"] is None
    assert not [name for name in report.metrics if "first_match" in name]
    sheet = folder / "out/prediction/00001_a_c1_0.png"
    assert _shows(sheet, "#9ca3af") and not _shows(sheet, "#16a34a") and not _shows(sheet, "#dc2626")
    assert f"the 2 images in '{folder / 'plain'}' are read without identities" in caplog.text


def test_a_folder_of_which_some_names_are_understood_is_shown_whole(folder, caplog):
    _save(folder / "gallery", {"stranger": (255, 20, 20)})
    _, matches = _predict(folder, prediction={"top_k": 2})
    assert [match["correct"] for match in matches["queries"][0]["matches"]] == [None, True]
    assert "1 images in" in caplog.text and "whom they show is unknown" in caplog.text


def test_junk_and_distractors_are_nobody(tmp_path):
    from src.data.sample import Sample
    from src.services._contact_sheet import same_person

    person, junk, distractor = (Sample(tmp_path, identity, 1) for identity in (7, -1, 0))
    assert (same_person(person, junk), same_person(person, distractor), same_person(person, person)) == (
        False,
        False,
        True,
    )
    assert (same_person(junk, junk), same_person(distractor, distractor)) == (None, None)


def test_sheets_are_spread_over_the_queries(folder):
    _predict(folder, prediction={"sheets": 2})
    sheets = sorted(path.name for path in (folder / "out/prediction").glob("*.png"))
    assert sheets == ["00001_a_c1_0.png", "00003_c_c2_0.png"]


def test_no_sheets_leave_the_tables(folder):
    report, matches = _predict(folder, prediction={"sheets": 0})
    assert [path.name for path in report.files] == ["matches.json", "matches.csv"]
    assert len(matches["queries"]) == 3


def test_the_test_set_is_used_where_no_other_images_are_named(folder):
    paths = {"test_query_path": str(folder / "query"), "test_gallery_path": str(folder / "gallery")}
    nothing = {"prediction_query_path": None, "prediction_gallery_path": ""}
    _, matches = _predict(folder, dataset={**paths, **nothing}, prediction={"top_k": 4})
    assert _found(matches) == _expected(COLOURS["query"], COLOURS["gallery"], 4)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"prediction_gallery_path": None}, "prediction_query_path and prediction_gallery_path go together"),
        (
            {"prediction_query_path": None, "prediction_gallery_path": None},
            "operation_mode 'prediction' needs dataset.prediction_query_path and dataset.prediction_gallery_path",
        ),
    ],
)
def test_missing_paths_are_named(tmp_path, dataset, message):
    with pytest.raises(ConfigError, match=message):
        _config(tmp_path, dataset=dataset)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"top_k": 0}, "prediction.top_k: should be greater than or equal to 1"),
        ({"topk": 3}, "prediction.topk: unknown key, did you mean 'top_k'"),
        ({"reid_distance_metric": "cosin"}, "unknown value 'cosin', did you mean 'cosine'"),
        ({"target": "stedgeai_n6"}, r"prediction.target: unknown value 'stedgeai_n6'.*qnn_htp_emulator"),
    ],
)
def test_wrong_settings_are_named(tmp_path, section, message):
    with pytest.raises(ConfigError, match=message):
        _config(tmp_path, prediction=section)


def test_a_missing_and_an_empty_folder_are_named_together(folder):
    (folder / "empty").mkdir()
    config = _config(
        folder,
        dataset={
            "prediction_query_path": str(folder / "nowhere"),
            "prediction_gallery_path": str(folder / "empty"),
        },
    )
    with pytest.raises(ConfigError) as error:
        _check(config, folder)
    assert f"'{folder / 'nowhere'}' does not exist" in str(error.value)
    assert f"there is no image (.jpg, .jpeg, .png, .bmp) in '{folder / 'empty'}'" in str(error.value)


def test_a_gallery_of_nothing_but_the_query_is_refused(folder):
    _save(folder / "one", {"a_0": (1, 2, 3)})
    paths = {f"prediction_{part}_path": str(folder / "one") for part in ("query", "gallery")}
    with pytest.raises(ConfigError, match="which is not compared with itself: expected at least one other"):
        _check(_config(folder, dataset=paths), folder)


def test_nothing_to_find_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match="needs query and gallery images, received 0 and 0: set dataset.predic"
    ):
        prediction.preflight(_config(tmp_path), Data(), None)


def test_names_that_only_look_like_identities_are_pointed_out(folder, caplog):
    _save(folder / "camera", {"IMG_1": (1, 2, 3), "IMG_2": (3, 2, 1)})
    paths = {f"prediction_{part}_path": str(folder / "camera") for part in ("query", "gallery")}
    _check(_config(folder, dataset=paths), folder)
    assert "all images to predict are of identity 'IMG' by their names" in caplog.text


def test_a_broken_image_is_named(folder):
    path = folder / "gallery/a_c2_1.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ConfigError, match=r"a_c2_1\.png"):
        _check(_config(folder), folder)


def _onnx(path, batch=1, precision="float32"):
    """Mean colour as ONNX, which says itself what precision it has."""
    shape = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 32, 32])]
    output = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, 3])]
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["embedding"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "mean", shape, output),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    helper.set_model_props(model, {"precision": precision})
    onnx.save(model, path)
    return {"model_path": str(path)}


def test_an_onnx_file_finds_the_same(folder):
    report, matches = _predict(folder, model=_onnx(folder / "mean.onnx"), prediction={"top_k": 4})
    assert _found(matches) == _expected(COLOURS["query"], COLOURS["gallery"], 4)
    assert report.metrics["float32/onnxruntime_cpu/first_match_correct"] == 1.0


EMULATOR = {"target": "qnn_htp_emulator"}


@pytest.mark.parametrize("service", ["prediction", "evaluation"])
@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("mean_colour.keras", None, r"model.model_path is .*mean_colour.keras: quantize before, or give"),
        ("float.onnx", {}, r"float.onnx is float32: quantize before, or give the quantized_model.onnx"),
        (
            "free.onnx",
            {"batch": "N", "precision": "int8"},
            r"the batch of .*free.onnx is free: export it with batch 1",
        ),
    ],
)
def test_the_emulator_takes_int8_onnx_only(folder, monkeypatch, service, file, settings, message):
    monkeypatch.setattr("src.services._target.require_qnn", lambda: "2")
    if settings is not None:
        _onnx(folder / file, **settings)
    paths = {"test_query_path": str(folder / "query"), "test_gallery_path": str(folder / "gallery")}
    config = _config(
        folder,
        operation_mode=service,
        dataset=paths,
        model={"model_path": str(folder / file)},
        **{service: EMULATOR},
    )
    with pytest.raises(ConfigError, match=rf"{service}.target: qnn_htp_emulator runs an INT8 .*{message}"):
        _check_only(config, folder, service)


def _check_only(config, folder, service):
    services = {service: importlib.import_module(SERVICES[service])}
    _preflight(config, services, _starting_model(config), Run(folder, 0))


@pytest.mark.parametrize(
    ("mode", "quantizer", "message"),
    [
        ("chain_qp", "Onnx_quantizer", None),
        ("chain_qp", "TFlite_converter", "quantizer TFlite_converter makes a .tflite: use Onnx_quantizer"),
        ("chain_pq", "Onnx_quantizer", r"model.model_path is .*mean_colour.keras: quantize before"),
    ],
)
def test_a_chain_is_asked_what_its_quantizer_will_make(folder, monkeypatch, mode, quantizer, message):
    monkeypatch.setattr("src.services._target.require_qnn", lambda: "2")
    dataset = {"quantization_path": str(folder / "gallery")}
    config = _config(
        folder,
        operation_mode=mode,
        dataset=dataset,
        prediction=EMULATOR,
        quantization={"quantizer": quantizer},
    )
    if message is None:
        _check_only(config, folder, "prediction")
        return
    with pytest.raises(ConfigError, match=message):
        _check_only(config, folder, "prediction")


def test_the_missing_emulator_is_named_before_the_run(folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = _config(folder, model=_onnx(folder / "i.onnx", precision="int8"), prediction=EMULATOR)
    with pytest.raises(ConfigError, match="onnxruntime-qnn"):
        _check_only(config, folder, "prediction")
