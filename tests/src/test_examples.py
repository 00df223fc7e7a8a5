"""Every example configuration is valid, and its name says its mode."""

from pathlib import Path

import pytest
import yaml

from common.config import expand_environment, validate
from src.schema import Config

EXAMPLES = sorted((Path(__file__).parents[2] / "config_file_examples").rglob("*.yaml"))


def test_there_is_an_example_for_every_mode():
    assert {
        "training",
        "evaluation",
        "prediction",
        "evaluation_qcs8550",
        "prediction_qcs8550",
        "quantization",
        "benchmarking",
        "chain_tqeb",
        "distillation",
        "chain_tkqeb",
        "chain_taqeb",
        "chain_eqe",
        "chain_qb",
        "deployment",
        "chain_qd",
    } <= {path.name.removesuffix("_config.yaml") for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_valid_and_named_after_its_mode(path, monkeypatch):
    monkeypatch.setenv("MODELS_DIR", "/models")
    text = path.read_text()
    raw = yaml.safe_load(expand_environment(text))
    config = validate(Config, raw)
    assert path.name.startswith(config.operation_mode) or path.parent.name in ("multi_step", "vireid")
    assert text.startswith("# "), "an example begins with what it is for"
