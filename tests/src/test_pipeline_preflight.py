"""Broken data sets are answered before the first service runs, with what to do."""

import importlib
import shutil
from dataclasses import asdict

import cv2
import numpy as np
import pytest

from common.artifacts import Model
from common.config import ConfigError, validate
from common.run import Run
from src.data.preprocessing import Preprocessing
from src.pipeline import SERVICES, _preflight, _starting_model
from src.schema import Config


@pytest.fixture
def data(tmp_path):
    """Six identities with four images each to train on, two others to test on."""
    random = np.random.default_rng(0)
    for part, identities in (("train", range(6)), ("query", range(6, 8)), ("gallery", range(6, 8))):
        (tmp_path / part).mkdir()
        for identity in identities:
            for number in range(4):
                image = random.integers(0, 255, (32, 16, 3), np.uint8)
                cv2.imwrite(str(tmp_path / part / f"p{identity}_{number}.jpg"), image)
    return tmp_path


def _check(data, preprocessing=None, training=None, **dataset):
    raw = {
        "operation_mode": "chain_te",
        "model": {"model_name": "mobilenetv1_a025", "input_shape": "(32, 32, 3)"},
        "dataset": {
            "training_path": str(data / "train"),
            "test_query_path": str(data / "query"),
            "test_gallery_path": str(data / "gallery"),
            **dataset,
        },
        "preprocessing": preprocessing,
        "training": {"batch_size": 8, "epochs": 1, "optimizer": "Adam", **(training or {})},
    }
    config = validate(Config, raw)
    services = {name: importlib.import_module(SERVICES[name]) for name in config.services}
    return _preflight(config, services, None, Run(data, 0))


def test_a_good_data_set_passes(data):
    checked = _check(data)
    assert len(checked.training) + len(checked.validation) == 24
    assert (len(checked.query), len(checked.gallery)) == (8, 8)


def test_a_missing_and_an_empty_folder_are_named_together(data):
    shutil.rmtree(data / "train")
    for path in (data / "query").iterdir():
        path.unlink()
    with pytest.raises(ConfigError) as error:
        _check(data)
    assert f"'{data / 'train'}' does not exist" in str(error.value)
    assert f"'{data / 'query'}'" in str(error.value) and "found an empty folder" in str(error.value)


def test_metadata_of_another_form_is_named_before_the_training(data):
    (data / "query/metadata.csv").write_text("image,altitude\np6_0.jpg,30\n")
    with pytest.raises(ConfigError, match="metadata.csv has no column file"):
        _check(data)


def test_another_layout_is_named_with_an_example(data):
    with pytest.raises(
        ConfigError, match=r"expected images named like '0002_c1s1_000451_03.jpg', found .*p0_0.jpg"
    ):
        _check(data, dataset_name="market1501")


def test_a_truncated_image_stops_the_run_or_is_skipped(data):
    path = data / "train" / "p0_1.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ConfigError, match=r"p0_1.jpg"):
        _check(data)
    checked = _check(data, on_bad_image="skip")
    assert path not in {sample.path for sample in [*checked.training, *checked.validation]}


def test_a_gallery_without_the_queries_identities_is_refused(data):
    for path in (data / "gallery").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(ConfigError, match="no query identity is in the gallery"):
        _check(data)


def test_too_few_identities_for_a_batch_are_counted(data):
    for path in (data / "train").glob("p[1-5]_*.jpg"):
        path.unlink()
    with pytest.raises(
        ConfigError, match=r"needs 2 identities, the training set has 1; set batch_size to 4 or less"
    ):
        _check(data)


def test_mixed_channels_are_refused(data):
    with pytest.raises(ConfigError, match="color_mode 'grayscale' has 1 channel"):
        _check(data, preprocessing={"color_mode": "grayscale"})


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"optimizer": {"Adam": {"learning_rate": "fast"}}}, "optimizer 'Adam' cannot be made"),
        (
            {"callbacks": {"ReduceLROnPlateau": {"factor": 2.0}}},
            "callback 'ReduceLROnPlateau' cannot be made",
        ),
    ],
)
def test_a_value_that_keras_refuses_is_named_before_training(data, training, message):
    with pytest.raises(ConfigError, match=message):
        _check(data, training=training)


def test_a_damaged_network_is_named_although_its_manifest_is_whole(data):
    path = data / "damaged.keras"
    path.write_bytes(b"not a network")
    Model({"keras": path}, "float32", (32, 32, 3), 8, asdict(Preprocessing((32, 32, 3)))).save()
    raw = {
        "operation_mode": "quantization",
        "model": {"model_path": str(path)},
        "dataset": {"quantization_path": str(data / "train")},
        "quantization": {"quantizer": "Onnx_quantizer", "compare": False},
    }
    config = validate(Config, raw)
    services = {"quantization": importlib.import_module(SERVICES["quantization"])}
    with pytest.raises(ConfigError, match="Keras cannot load .*damaged.keras: the file is damaged"):
        _preflight(config, services, _starting_model(config), Run(data, 0))


def test_a_disk_that_is_too_small_is_reported_before_the_run(data, monkeypatch):
    real = shutil.disk_usage(data)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=2_000_000_000))
    _check(data, cache=str(data / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=10_000))
    with pytest.raises(ConfigError, match=r"results of a run need about 1000 MB .* only 0 MB are free"):
        _check(data)
    frees = iter([2_000_000_000, 10_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=next(frees)))
    with pytest.raises(ConfigError, match=r"the cached training images need about 0 MB in .*cache"):
        _check(data, cache=str(data / "cache"))
