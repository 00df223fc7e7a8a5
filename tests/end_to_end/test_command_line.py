"""The command line before any service runs: Hydra's edges, exit codes, output folders. No TensorFlow is imported."""

import sys
from datetime import date

import pytest

import stm32ai_main
from common.artifacts import ReportFailedError
from common.config import ConfigError, ToolError

TINY = """
operation_mode: training
model:
  model_name: osnet_a025
  input_shape: (64, 32, 3)
dataset: {dataset_name: DeepSportradar, training_path: missing_folder}
training: {batch_size: 8, epochs: 1, optimizer: Adam}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "good.yaml").write_text(TINY)
    (tmp_path / "invalid.yaml").write_text("a: [1, 2\nb: }")
    (tmp_path / "second.yaml").write_text(TINY + "\nhydra: {run: {dir: 'runs/${now:%Y}'}}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-name", "nope.yaml"], "Cannot find primary config 'nope.yaml'"),
        (["--config-name", "invalid.yaml"], "while parsing a flow sequence"),
        ([], "no configuration is given; add --config-name"),
    ],
)
def test_mistakes_exit_with_2_and_without_a_traceback(program, folder, arguments, message):
    result = program("--config-dir", str(folder), *arguments, cwd=folder)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("x"), 2), (ToolError("x"), 3), (ReportFailedError("x"), 1)]
)
def test_what_fails_outside_of_the_program_has_its_own_exit_code(monkeypatch, capsys, error, code):
    def run():
        raise error

    monkeypatch.setattr(stm32ai_main, "_run", run)
    monkeypatch.setattr(sys, "argv", ["stm32ai_main.py"])
    assert stm32ai_main.main() == code
    assert capsys.readouterr().err == "error: x\n"


def test_a_mistake_of_the_program_keeps_its_traceback(monkeypatch):
    def run():
        raise RuntimeError("x")

    monkeypatch.setattr(stm32ai_main, "_run", run)
    monkeypatch.setattr(sys, "argv", ["stm32ai_main.py"])
    with pytest.raises(RuntimeError, match="x"):
        stm32ai_main.main()


def test_keys_that_the_yaml_does_not_state_can_be_set(program, folder):
    overrides = ["training.dropout=0.5", "model.input_shape=[96,48,3]", "general.global_seed=7"]
    result = program(
        "--config-dir", str(folder), "--config-name", "good", *overrides, "--cfg", "job", cwd=folder
    )
    assert result.returncode == 0
    assert "dropout: 0.5" in result.stdout
    assert "global_seed: 7" in result.stdout


def test_a_relative_config_path_starts_from_the_program(program, folder):
    result = program(
        "--config-path",
        "./config_file_examples/",
        "--config-name",
        "chain_tqeb_config.yaml",
        "--cfg",
        "job",
        cwd=folder,
    )
    assert result.returncode == 0
    assert "operation_mode: chain_tqeb" in result.stdout


def test_help_says_how_to_start(program):
    result = program("--help")
    assert result.returncode == 0
    assert "--config-name NAME" in result.stdout


def test_a_refused_run_says_why_first_and_leaves_no_folder(program, folder):
    """The corrected one gets the name that recipes after it read; a folder that was there stays."""
    for runs in range(2):
        result = program(
            "--config-dir", str(folder), "--config-name", "second", "training.epoch=1", cwd=folder
        )
        assert result.returncode == 2
        assert result.stderr.startswith("error: invalid configuration\n  training.epoch: unknown key")
        assert len(list((folder / "runs").iterdir())) == runs
        (folder / f"runs/{date.today().year}").mkdir(exist_ok=True)


def test_a_refused_run_leaves_the_folder_that_it_was_started_in(program, folder):
    (folder / "empty").mkdir()
    arguments = ("--config-dir", str(folder), "--config-name", "good", "training.epoch=1", "hydra.run.dir=.")
    result = program(*arguments, cwd=folder / "empty")
    assert result.returncode == 2 and result.stderr.startswith("error: invalid configuration")
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["empty"]


def test_an_unknown_variable_is_a_refusal_too(program, folder):
    result = program(
        "--config-dir",
        str(folder),
        "--config-name",
        "second",
        "general.project_name='${nope.key}'",
        cwd=folder,
    )
    assert result.returncode == 2 and result.stderr.startswith(
        "error: Interpolation key 'nope.key' not found"
    )
    assert not list((folder / "runs").iterdir())


def test_what_a_run_wrote_before_it_was_refused_stays(tmp_path):
    for name in ("refused/.hydra", "begun/.hydra", "begun/saved_models"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("refused", "begun"):
        (tmp_path / name / "stm32ai_main.log").touch()
        stm32ai_main._remove_unused(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


def test_multirun_validates_each_job(program, folder):
    result = program(
        "--config-dir", str(folder), "--config-name", "good", "--multirun", "training.epochs=0,1", cwd=folder
    )
    assert result.returncode == 2
    assert "training.epochs: should be greater than or equal to 1 (received 0)" in result.stderr
