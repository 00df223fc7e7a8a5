"""Services with a network for visible and thermal images: each image through its own input, float and INT8."""

import csv
import importlib
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from common.artifacts import Model
from common.config import ConfigError, validate
from common.run import Run
from common.runtime import open_model
from common.runtime.keras_file import image_inputs
from src.data.pipeline import load_images
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.selection import Data
from src.pipeline import SERVICES, _preflight, _starting_model
from src.schema import Config
from src.services import quantization
from src.services._int8 import train_int8

LAYOUTS = {
    # evaluation images of person and camera: SYSU-MM01 has visible cameras 1, 2, 4, 5 and infrared ones 3, 6
    "sysu_mm01": {"visible": (1, 2), "thermal": (3, 6)},
    "regdb": {"visible": (1,), "thermal": (2,)},
}


def _image(person: int, modality: str, number: int) -> Image.Image:
    """A person's colours; the thermal image is a negative of one channel, so that only its own stem matches it."""
    coarse = np.random.default_rng(person).integers(20, 236, (4, 2, 3))
    if modality == "thermal":
        coarse = 255 - coarse[..., :1].repeat(3, axis=2)
    noise = np.random.default_rng((person, number, modality == "thermal")).integers(-9, 10, (64, 32, 3))
    pixels = np.clip(coarse.repeat(16, 0).repeat(16, 1) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels if modality == "visible" else pixels[..., 0])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Ten test people, and as many to train on, in the layouts of SYSU-MM01 and RegDB, with two images a camera."""
    folder = tmp_path_factory.mktemp("two_modalities")
    lists = {
        f"idx/{half}_{modality}_1.txt": []
        for half in ("train", "test")
        for modality in ("visible", "thermal")
    }
    for person in range(1, 21):
        for number in (1, 2):
            for modality, cameras in LAYOUTS["sysu_mm01"].items():
                for camera in cameras:
                    path = folder / f"sysu_mm01/cam{camera}/{person:04d}/{number:04d}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _image(person, modality, 10 * camera + number).save(path, quality=95)
                name = f"{modality.capitalize()}/{person}/{modality}_{number}.png"
                path = folder / "regdb" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                _image(person, modality, number).save(path)
                half = "test" if person <= 10 else "train"
                lists[f"idx/{half}_{modality}_1.txt"].append(f"{name} {(person - 1) % 10}\n")
    for name, lines in lists.items():
        path = folder / "regdb" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(lines))
    exp = folder / "sysu_mm01/exp"
    exp.mkdir()
    for name, people in (("test", range(1, 11)), ("train", range(11, 18)), ("val", range(18, 21))):
        (exp / f"{name}_id.txt").write_text(",".join(map(str, people)))
    return folder


@pytest.fixture(scope="module")
def model(root) -> Model:
    """Visible images of three channels are averaged to one, thermal ones of one turned back; then a 4 x 2 grid."""
    images = {name: keras.Input((64, 32, n), name=name) for name, n in (("visible", 3), ("thermal", 1))}
    stems = {
        "visible": layers.Conv2D(1, 1, name="visible_stem")(images["visible"]),
        "thermal": layers.Conv2D(1, 1, name="thermal_stem")(images["thermal"]),
    }
    pool, flat = layers.AveragePooling2D(16, name="grid"), layers.Flatten(name="flat")
    network = keras.Model(images, {name: flat(pool(stem)) for name, stem in stems.items()}, name="two")
    # The thermal image shows the red channel, so the visible stem looks at it too.
    network.get_layer("visible_stem").set_weights([np.array([1.0, 0, 0]).reshape(1, 1, 3, 1), np.zeros(1)])
    network.get_layer("thermal_stem").set_weights([np.full((1, 1, 1, 1), -1.0), np.zeros(1)])
    network.save(root / "best_model.keras")
    preprocessing = {
        "input_shape": (64, 32, 3), "scale": 1 / 127.5, "offset": -1.0, "interpolation": "bilinear",
        "aspect_ratio": "fit", "color_mode": "rgb",
    }  # fmt: skip
    made = Model({"keras": root / "best_model.keras"}, "float32", (64, 32, 3), 8, preprocessing)
    made.save()
    return made


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Pictures take seconds and have their own tests."""
    if "with_pictures" not in request.node.name:
        service = importlib.import_module(SERVICES["evaluation"])
        monkeypatch.setattr(service, "evaluation_pictures", lambda *_: [])


def _config(root, layout, mode="evaluation", **sections):
    return validate(
        Config,
        {
            "operation_mode": mode,
            "model": {"model_path": str(root / "best_model.keras")},
            "dataset": {"dataset_name": layout, "root_path": str(root / layout)},
            **sections,
        },
    )


def _run(folder, config, name="evaluation"):
    service = importlib.import_module(SERVICES[name])
    model = _starting_model(config)
    data = _preflight(config, {name: service}, model, Run(folder, 0))
    return service.run(config, data, model, Run(folder, 0))


def test_inputs_are_read_from_the_file_alone(root, model, tmp_path):
    assert image_inputs(model.path) == {"visible": (64, 32, 3), "thermal": (64, 32, 1)}
    image = keras.Input((32, 32, 3))
    keras.Model(image, layers.Flatten()(image)).save(tmp_path / "one.keras")
    assert image_inputs(tmp_path / "one.keras") == {}
    (tmp_path / "no.keras").write_text("no archive")
    assert image_inputs(tmp_path / "no.keras") == image_inputs(tmp_path / "missing.keras") == {}


def test_the_protocol_of_the_data_set_is_the_default_and_all_directions_are_numbers(root, model, tmp_path):
    report = _run(tmp_path, _config(root, "sysu_mm01"))
    metrics = {key.removeprefix("float32/keras/"): value for key, value in report.metrics.items()}
    assert "all-search, single-shot" in report.notes[0]
    assert metrics["rank1"] == metrics["mAP"] == 1.0, "each image went through its own stem"
    for first in ("visible", "thermal"):
        for second in ("visible", "thermal"):
            assert metrics[f"{first}_to_{second}_rank1"] == 1.0
    table = next(table for table in report.tables if table.title.startswith("By modality"))
    assert [row[:5] for row in table.rows] == [
        ("thermal", "thermal", "all test images", 40, 40),
        ("thermal", "visible", "queries", 40, 40),
        ("visible", "thermal", "all test images", 40, 40),
        ("visible", "visible", "all test images", 40, 40),
    ]
    assert table.title.endswith("(each pair is searched alone; protocol market1501, cameras 2 and 3 as one)")
    by_camera = next(table for table in report.tables if table.title.startswith("By camera"))
    assert ("3", "2") not in {row[:2] for row in by_camera.rows}, (
        "a person is not found in the room of the query"
    )


def test_without_a_manifest_the_preprocessing_is_that_of_the_configuration(root, model, tmp_path):
    alone = tmp_path / "alone.keras"
    alone.write_bytes(model.path.read_bytes())
    report = _run(tmp_path, _config(root, "sysu_mm01", model={"model_path": str(alone)}))
    assert report.metrics["float32/keras/rank1"] == 1.0


def test_regdb_is_scored_in_both_directions_and_one_camera_by_the_first_image(root, model, tmp_path):
    report = _run(tmp_path, _config(root, "regdb"))
    assert report.metrics["float32/keras/rank1"] == 1.0
    assert report.metrics["float32/keras/thermal_to_visible/rank1"] == 1.0
    assert [row[0] for row in report.tables[0].rows] == [
        "best_model.keras", "best_model.keras, thermal to visible",
    ]  # fmt: skip
    table = next(table for table in report.tables if table.title.startswith("By modality"))
    whose = {tuple(row[:2]): row[2:5] for row in table.rows}
    assert whose["visible", "visible"] == ("first image of each person", 10, 10)
    assert whose["thermal", "visible"] == ("all test images", 20, 20)
    stated = _config(root, "regdb", evaluation={"protocol": {"regdb": {"direction": "thermal_to_visible"}}})
    report = _run(tmp_path, stated)
    assert "float32/keras/thermal_to_visible/rank1" not in report.metrics


def test_each_query_has_its_means_over_the_draws(root, model, tmp_path):
    _run(tmp_path, _config(root, "sysu_mm01"))
    with (tmp_path / "evaluation/best_model_keras_queries.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert {float(row["rank1_in_trials"]) for row in rows} == {1.0}
    assert {float(row["average_precision_in_trials"]) for row in rows} == {1.0}


def test_baselines_and_the_random_network_have_directions_too(root, model, tmp_path):
    section = {"baselines": ["mean_colour"], "random_network": True}
    report = _run(tmp_path, _config(root, "sysu_mm01", evaluation=section))
    for name in ("mean_colour", "random two"):
        directions = [key for key in report.metrics if key.startswith(f"baseline/{name}/") and "_to_" in key]
        assert len(directions) == 2 * 4 and all(0 <= report.metrics[key] <= 1 for key in directions)
    assert report.metrics["baseline/mean_colour/thermal_to_visible_mAP"] < 0.9


@pytest.mark.slow
def test_evaluation_with_pictures_of_both_modalities(root, model, tmp_path):
    report = _run(tmp_path, _config(root, "sysu_mm01"))
    names = {path.name for path in report.files}
    assert {"cross_modal_lists.png", "activation_maps.png", "report.html"} <= names
    with (tmp_path / "evaluation/cross_modal_lists.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["query_modality"], row["gallery_modality"]) for row in rows} == {
        ("thermal", "visible"), ("visible", "thermal"),
    }  # fmt: skip
    assert all(row["correct"] == "True" for row in rows if row["rank"] == "1")


def test_prediction_finds_people_across_modalities(root, model, tmp_path):
    report = _run(
        tmp_path, _config(root, "sysu_mm01", "prediction", prediction={"top_k": 2, "sheets": 1}), "prediction"
    )
    assert report.metrics["float32/keras/first_match_correct"] == 1.0


def test_unknown_images_in_a_folder_thermal_are_thermal(root, model, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    paths = {
        "prediction_query_path": str(root / "regdb/Thermal"),
        "prediction_gallery_path": str(root / "regdb/Visible"),
    }
    config = _config(root, "regdb", "prediction", prediction={"top_k": 1, "sheets": 0})
    config = config.model_copy(
        update={"dataset": config.dataset.model_copy(update={k: Path(v) for k, v in paths.items()})}
    )
    _run(tmp_path, config, "prediction")
    found = json.loads((tmp_path / "prediction/matches.json").read_text())["queries"]
    assert len(found) == 40
    assert "are read without identities: the data set's own lists name the images" in caplog.text
    assert all(Path(q["query"]).parent.name == Path(q["matches"][0]["gallery"]).parent.name for q in found)


# --- INT8 --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def int8(root, model, tmp_path_factory):
    """Folder of the quantized files, and the model that the service gave."""
    folder = tmp_path_factory.mktemp("int8")
    section = {"quantizer": "Onnx_quantizer", "encodings": [], "batch_sizes": [1, 4]}
    config = _config(root, "sysu_mm01", "quantization", quantization=section)
    data = _preflight(config, {"quantization": quantization}, model, Run(folder, 0))
    _, made = quantization.run(config, data, model, Run(folder, 0))
    return folder / "quantized_models", made


def test_the_shorter_modality_calibrates_again_until_the_longer_one_ends():
    def branch(name, count):
        return SimpleNamespace(name=name, calibration=range(count), calibrate=lambda: iter(range(count)))

    batches = train_int8._together([branch("thermal", 2), branch("visible", 3)])
    expected = [{"thermal": 0, "visible": 0}, {"thermal": 1, "visible": 1}, {"thermal": 0, "visible": 2}]
    assert list(batches()) == list(batches()) == expected


def test_the_quantized_model_has_a_file_for_each_modality(int8):
    folder, made = int8
    assert {name: part.path.name for name, part in made.by_input.items()} == {
        "visible": "quantized_model_visible.onnx", "thermal": "quantized_model_thermal.onnx",
    }  # fmt: skip
    manifest = json.loads((folder / "quantized_model_thermal.json").read_text())
    assert manifest["siblings"] == {"visible": "quantized_model_visible.onnx"}
    assert manifest["preprocessing"]["color_mode"] == "grayscale"
    batches = Model.load(folder / "quantized_model_visible_batch4.onnx")
    assert batches.siblings["thermal"].path.name == "quantized_model_thermal_batch4.onnx"


def test_float_and_both_int8_files_are_scored_side_by_side(root, int8, tmp_path):
    folder, _ = int8
    path = folder / "quantized_model_thermal.onnx"  # either of the two means both
    report = _run(tmp_path, _config(root, "sysu_mm01", model={"model_path": str(path)}))
    rows = report.tables[0].rows
    assert [row[:3] for row in rows[:2]] == [
        ("best_model.keras", "float32", "keras"),
        ("quantized_model_thermal.onnx + quantized_model_visible.onnx", "int8", "onnxruntime_cpu"),
    ]
    sizes = [(folder / f"quantized_model_{name}.onnx").stat().st_size for name in ("thermal", "visible")]
    assert rows[1][-1] == pytest.approx(sum(sizes) / 1e6)
    assert report.metrics["int8/onnxruntime_cpu/rank1"] > 0.9
    assert (tmp_path / "evaluation/quantized_model_onnx_queries.csv").is_file()


def test_a_file_of_one_modality_alone_refuses_images_of_the_other(root, int8, tmp_path):
    folder, made = int8
    alone = tmp_path / "quantized_model_visible.onnx"
    alone.write_bytes((folder / alone.name).read_bytes())
    replace(made, files={"onnx": alone}, siblings={}, source=None).save()
    config = _config(root, "sysu_mm01", model={"model_path": str(alone)})
    with pytest.raises(
        ConfigError, match="takes visible images, but among the query images are thermal ones"
    ):
        _run(tmp_path, config)


@pytest.mark.slow
@pytest.mark.qnn
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_each_modality_is_benchmarked_as_a_graph_of_its_own(root, model, int8, tmp_path, precision):
    path = model.path if precision == "float32" else int8[0] / "quantized_model_visible.onnx"
    section = {"parity_images": 2, "latency_runs": 2}
    config = _config(root, "sysu_mm01", "benchmarking", model={"model_path": str(path)}, benchmarking=section)
    report = _run(tmp_path, config, "benchmarking")
    for modality, parameters in (("visible", 3), ("thermal", 1)):
        assert report.metrics[f"{modality}/model/parameters"] == parameters
        assert report.metrics[f"{modality}/qnn_htp_emulator/parity_cosine_min"] > 0.9
        assert report.metrics[f"{modality}/onnxruntime_cpu/host/p50_ms"] > 0
        assert (tmp_path / f"benchmarking/{modality}/placement.json").is_file()
        assert f"{modality}: Operator placement" in [table.title for table in report.tables]
    assert sum("The emulator of onnxruntime-qnn" in note for note in report.notes) == 1
    [context] = [
        path for path in report.files if path.name.endswith(".json") and "thermal_qcs8550" in path.name
    ]
    compiled = Model.load(context.with_suffix(".onnx"))
    assert compiled.input_name == "thermal" and set(compiled.siblings) == {"visible"}


@pytest.mark.slow
@pytest.mark.qnn
def test_the_emulator_runs_both_graphs(root, int8, tmp_path):
    path = int8[0] / "quantized_model_visible.onnx"
    section = {"target": "qnn_htp_emulator"}
    config = _config(root, "regdb", model={"model_path": str(path)}, evaluation=section)
    report = _run(tmp_path, config)
    assert report.metrics["int8/qnn_htp_emulator/rank1"] > 0.9
    assert report.metrics["int8/qnn_htp_emulator/thermal_to_thermal_rank1"] > 0.9
    assert (tmp_path / "evaluation/quantized_model_onnx_emulator_queries.csv").is_file()


@pytest.mark.qnn
def test_benchmarking_needs_an_image_of_each_modality(root, model, tmp_path):
    folder = root / "sysu_mm01"
    dataset = {"dataset_name": "market1501", "test_query_path": "query", "test_gallery_path": "gallery"}
    config = _config(root, "sysu_mm01", "benchmarking", dataset=dataset)
    visible = [Sample(folder / "cam1/0001/0001.jpg", 1, 1)]
    service = importlib.import_module(SERVICES["benchmarking"])
    with pytest.raises(
        ConfigError, match="benchmarking compares on test images: set dataset.test_query_path"
    ):
        service.preflight(config, Data(), None)
    with pytest.raises(ConfigError, match="none is thermal: set dataset.test_query_path"):
        service.preflight(config, Data(query=visible, gallery=visible), _starting_model(config))


@pytest.mark.slow
@pytest.mark.qnn
def test_deployment_packs_each_modality_and_its_runner_agrees(root, int8, tmp_path):
    folder, made = int8
    config = _config(
        root, "sysu_mm01", "deployment", model={"model_path": str(folder / "quantized_model_visible.onnx")}
    )
    report = _run(tmp_path, config, "deployment")
    assert {path.name for path in report.files} == {"package_visible.zip", "package_thermal.zip", "gate.json"}
    for modality, channels in (("visible", 3), ("thermal", 1)):
        package = tmp_path / f"deployment/package_{modality}"
        assert json.loads((package / "package.json").read_text())["modality"] == modality
        [taken] = json.loads((package / "preprocessing.json").read_text())["inputs"]
        assert taken["channels"] == channels
        assert f"| takes | {modality} images |" in (package / "MODEL_CARD.md").read_text()
        image = root / f"sysu_mm01/cam{3 if channels == 1 else 1}/0001/0001.jpg"
        answer = subprocess.run(
            [sys.executable, package / "runner.py", "--cpu", image],
            capture_output=True,
            text=True,
            check=True,
        )
        with open_model(made.by_input[modality].path) as runtime:
            preprocessing = Preprocessing(**made.by_input[modality].preprocessing)
            [expected] = runtime.embed(load_images([Sample(image, 1, 1)], preprocessing))
        embedding = np.array(json.loads(answer.stdout)["embedding"])
        np.testing.assert_allclose(embedding, expected / np.linalg.norm(expected), atol=0.02)
    packages = [tmp_path / f"deployment/package_{modality}" for modality in ("visible", "thermal")]
    loaded = [
        max(path.stat().st_size for path in package.iterdir() if path.suffix in (".bin", ".dlc"))
        for package in packages
    ]
    assert report.metrics["gate/size_mb/value"] == pytest.approx(sum(loaded) / 1e6)
