"""Spellings, overrides and messages of the configuration machinery."""

from pathlib import Path
from typing import Literal

import pytest
from omegaconf import OmegaConf

from common.config import (
    Component,
    ConfigError,
    Number,
    NumberOrNumbers,
    Shape,
    Strict,
    UniqueRunFolder,
    parse_number,
    parse_tuple,
    plain_overrides,
    suggest,
    to_plain,
    validate,
)


class _Inner(Strict):
    epochs: int = 1
    mode: Literal["fit", "crop"] = "fit"


class _Outer(Strict):
    inner: _Inner = _Inner()
    shape: Shape = (1, 2, 3)
    scale: Number = 1.0
    offset: NumberOrNumbers = 0.0
    optimizer: Component | None = None


@pytest.mark.parametrize(
    ("spelling", "number"),
    [("1/127.5", 1 / 127.5), ("1./255", 1 / 255), ("3", 3.0), ("1e-3", 1e-3), ("-1", -1.0), (2, 2)],
)
def test_a_number_may_be_a_fraction(spelling, number):
    assert parse_number(spelling) == number


@pytest.mark.parametrize("text", ["1/0", "1/2/3", "a/b", "__import__('os')"])
def test_what_is_not_a_number_stays_text_and_is_refused(text):
    assert parse_number(text) == text
    with pytest.raises(ConfigError, match="scale: should be a valid number"):
        validate(_Outer, {"scale": text})


@pytest.mark.parametrize(
    ("spelling", "numbers"), [("1/4", 0.25), (2, 2.0), ([1, "1/4", 0.5], (1.0, 0.25, 0.5)), ((3,), (3.0,))]
)
def test_a_number_or_one_for_each_channel(spelling, numbers):
    found = validate(_Outer, {"offset": spelling})
    assert found.offset == numbers
    assert found.model_dump(mode="json")["offset"] == (
        list(numbers) if isinstance(numbers, tuple) else numbers
    )


@pytest.mark.parametrize("spelling", ["x", [1, "x"], [], True, {"r": 1}, [[1], [2]]])
def test_other_numbers_for_channels_are_refused(spelling):
    with pytest.raises(
        ConfigError, match="offset: should be a valid number, or a list of one for each channel"
    ):
        validate(_Outer, {"offset": spelling})


@pytest.mark.parametrize("spelling", ["(256, 128, 3)", "[256, 128, 3]", [256, 128, 3], (256, 128, 3)])
def test_a_shape_has_three_spellings(spelling):
    assert parse_tuple(spelling) == (256, 128, 3)
    assert validate(_Outer, {"shape": spelling}).shape == (256, 128, 3)


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("(256, 128)", "shape.2: required, but missing"),
        ("(256, 128, 3, 1)", "shape: tuple should have at most 3 items"),
        ("256", r"shape: should be a valid tuple \(received 256\)"),
        ("(a, b, c)", r"shape: should be a valid tuple \(received '\(a, b, c\)'\)"),
        ("(256.5, 128, 3)", r"shape.0: should be a valid integer \(received 256.5\)"),
    ],
)
def test_another_shape_is_refused_by_its_key(spelling, message):
    with pytest.raises(ConfigError, match=message):
        validate(_Outer, {"shape": spelling})


def test_a_component_is_a_name_or_a_name_with_arguments():
    assert validate(_Outer, {"optimizer": "Adam"}).optimizer == Component(name="Adam")
    with_arguments = validate(_Outer, {"optimizer": {"Adam": {"learning_rate": 0.1}}})
    assert with_arguments.optimizer == Component(name="Adam", arguments={"learning_rate": 0.1})
    assert validate(_Outer, {"optimizer": {"Adam": None}}).optimizer == Component(name="Adam")
    with pytest.raises(ConfigError, match="optimizer: expected a name, or one name with its arguments"):
        validate(_Outer, {"optimizer": {"Adam": {}, "SGD": {}}})


def test_every_mistake_is_reported_at_once():
    with pytest.raises(ConfigError) as error:
        validate(_Outer, {"inner": {"epoch": 2, "epochs": "many", "mode": "fitt"}, "shap": 1})
    assert str(error.value).splitlines() == [
        "invalid configuration",
        "  inner.epochs: should be a valid integer (received 'many')",
        "  inner.mode: unknown value 'fitt', did you mean 'fit'? (choices: fit, crop)",
        "  inner.epoch: unknown key, did you mean 'epochs'?",
        "  shap: unknown key, did you mean 'shape'?",
    ]


def test_values_are_not_coerced():
    with pytest.raises(ConfigError, match=r"inner.epochs: should be a valid integer \(received True\)"):
        validate(_Outer, {"inner": {"epochs": True}})


def test_the_text_none_is_no_value():
    assert validate(_Outer, {"optimizer": "None"}).optimizer is None


def test_suggestions_name_the_nearest_choice_or_all():
    assert suggest("osnett", ["osnet", "resnet"]) == "did you mean 'osnet'?"
    assert suggest("xyz", ["osnet", "resnet"]) == "expected one of: osnet, resnet"


def test_plain_overrides_may_add_keys():
    arguments = ["--config-name", "a=b", "training.epochs=2", "hydra.run.dir=x", "+a.b=1", "~c", "--multirun"]
    assert plain_overrides(arguments) == [
        "--config-name", "a=b", "++training.epochs=2", "hydra.run.dir=x", "+a.b=1", "~c", "--multirun",
    ]  # fmt: skip
    assert plain_overrides(["model.input_shape=(64, 32, 3)"]) == ["++model.input_shape='(64, 32, 3)'"]


def test_environment_variables_and_interpolations(monkeypatch):
    monkeypatch.setenv("MODELS_DIR", "/models")
    composed = OmegaConf.create(
        {"a": "${MODELS_DIR}/x.keras", "b": {"c": "${b.d}", "d": 3}, "e": ["${MODELS_DIR}"]}
    )
    assert to_plain(composed) == {"a": "/models/x.keras", "b": {"c": 3, "d": 3}, "e": ["/models"]}


def test_a_missing_environment_variable_is_named(monkeypatch):
    monkeypatch.delenv("MODELS_DIR", raising=False)
    with pytest.raises(ConfigError, match="environment variable MODELS_DIR is not set"):
        to_plain(OmegaConf.create({"a": "${MODELS_DIR}/x.keras"}))


def test_two_runs_of_one_pattern_get_different_folders(tmp_path, monkeypatch):
    """A pattern that collides, such as whole seconds, gets a suffix."""
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    for name in ("run", "run_1", "run_2"):
        composed = OmegaConf.create({"hydra": {"run": {"dir": "${MODELS_DIR}/run"}}})
        UniqueRunFolder().on_run_start(composed)
        assert Path(composed.hydra.run.dir) == tmp_path / name
        assert (tmp_path / name).is_dir()
