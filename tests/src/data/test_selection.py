"""Which images a configuration means: what the model is told of them, and what it must not have seen."""

from pathlib import Path

import keras
import pytest

from common.artifacts import Model
from common.config import ConfigError, validate
from common.run import Run
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.selection import Data, _report_mixed_validation, check_trial, reader_arguments
from src.pipeline import _preflight
from src.schema import Config
from src.training.train import trained_model


def _config(name="regdb", **arguments):
    return validate(
        Config,
        {
            "operation_mode": "evaluation",
            "model": {"model_path": "best_model.keras"},
            "dataset": {"dataset_name": name, "root_path": "nowhere", "arguments": arguments},
        },
    )


def _trained(config) -> Model:
    image = keras.Input((32, 32, 3))
    embedding = keras.layers.GlobalAveragePooling2D()(image)
    data = Data([Sample(Path("a.png"), 1, 1), Sample(Path("b.png"), 1, 2, "thermal")])
    network = keras.Model(image, {"embedding": embedding})
    return trained_model(config, data, network, Preprocessing((32, 32, 3)), Path("models"))


def test_a_model_knows_the_arguments_of_its_data_set():
    assert _trained(_config(trial=2)).trained_on["dataset_arguments"] == {"trial": 2}
    assert reader_arguments(_config()) == {"trial": 1}, "what is not stated counts too"
    assert reader_arguments(_config("sysu_mm01", train_val=True)) == {"train_val": True}


def test_a_model_knows_the_modalities_that_it_was_trained_on():
    assert _trained(_config()).trained_on["modalities"] == ["thermal", "visible"]


def test_a_model_of_another_trial_is_refused_before_anything_is_read(tmp_path):
    model = _trained(_config())
    message = r"model.model_path: models/best_model.keras was trained in trial 1 of regdb, .* whom trial 2 "
    with pytest.raises(ConfigError, match=message):
        _preflight(_config(trial=2), {}, model, Run(tmp_path, 0))
    with pytest.raises(ConfigError, match="distillation.teacher: .* set dataset.arguments={trial: 1}"):
        check_trial(_config(trial=2), model, "distillation.teacher")


def test_models_of_the_same_trial_of_other_data_sets_and_of_unknown_origin_are_taken():
    check_trial(_config(trial=2), _trained(_config(trial=2)))
    check_trial(_config("llcm"), _trained(_config()))
    check_trial(_config(trial=2), Model({"onnx": Path("a.onnx")}, "float32", (32, 32, 3), 8))


def test_one_validation_person_who_is_trained_on_is_warned_of(caplog):
    def seen(*people):
        return [Sample(Path(f"{person}.png"), person, 1) for person in people]

    for validation in (seen(1, 2), seen(3, 4)):
        _report_mixed_validation(seen(1, 2), validation)
    assert not caplog.records, "classification and retrieval are both meant"
    _report_mixed_validation(seen(1, 2), seen(2, 3, 4))
    assert "1 of 3 validation identities are trained on (2 ...)" in caplog.text
