"""Tools compose a configuration from their command line as the main program does."""

import pytest

import stm32ai_main
from common.config import EXAMPLES, ConfigError, compose


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.v2.yaml").write_text(
        "a: {b: 1, c: '${a.b}', d: '${now:%Y}'}\nhydra: {run: {dir: 'runs/${now:%Y}'}}\n"
    )
    return tmp_path


def test_examples_are_found_and_any_key_can_be_set():
    raw = compose(
        ["training.epochs=3", "--config-name", "training_config.yaml", "model.input_shape=(64, 32, 3)"]
    )
    assert raw["operation_mode"] == "training"
    assert raw["training"]["epochs"] == 3
    assert raw["model"]["input_shape"] == "(64, 32, 3)"
    assert "hydra" not in raw


@pytest.mark.parametrize("flag", ["--config-path", "-cp", "--config-dir", "-cd"])
def test_other_folders(folder, flag, monkeypatch):
    raw = compose([flag, str(folder), "--config-name", "mine.v2", "x.y=2"])
    assert raw["a"]["b"] == raw["a"]["c"] == 1 and raw["a"]["d"].isdigit()
    assert raw["x"] == {"y": 2}
    monkeypatch.chdir(folder.parent)
    if flag == "--config-dir":
        assert compose([flag, folder.name, "-cn", "mine.v2.yaml"])["a"]["b"] == 1


def test_a_further_folder_leaves_the_examples_in_reach(folder):
    raw = compose(["--config-dir", str(folder), "--config-name", "training_config"])
    assert raw == compose(["--config-name", "training_config"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no configuration is given; add --config-name NAME.yaml .*training_config.yaml"),
        (["--config-name"], "expected one argument"),
        (["--config-name", "trainin_config"], "Cannot find primary config 'trainin_config'"),
        (
            ["--config-name", "training_config", "--verbose"],
            "unknown option '--verbose', expected --config-name",
        ),
        (["--config-name", "training_config", "--config-path", "/nowhere"], "config directory '/nowhere'"),
        (["--config-name", "training_config", "a=["], "no viable alternative"),
    ],
)
def test_mistakes_are_config_errors(arguments, message):
    with pytest.raises(ConfigError, match=message):
        compose(arguments)


def test_examples_are_where_the_main_program_looks():
    assert EXAMPLES == stm32ai_main.EXAMPLES
