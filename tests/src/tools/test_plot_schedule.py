"""The tool that draws a schedule: what it draws, what it refuses, and the examples of its page."""

import re
from pathlib import Path

import cv2
import pytest
import yaml

from common.config import ConfigError, validate
from src.registries import SCHEDULES, build_schedule
from src.schema import Config, Training
from src.tools import plot_schedule as tool

PAGE = Path(__file__).parents[3] / "docs/README_LR_SCHEDULE.md"
CONFIG = """
operation_mode: training
model: {model_name: mobilenetv1_a025}
dataset: {dataset_name: synthetic}
training:
  batch_size: 8
  epochs: 12
  optimizer: Adam
  callbacks: {LRStepDecay: {initial_lr: 0.1, step_size: 3, decay_rate: 0.5, verbose: 0}}
"""


def _run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["plot_schedule", *arguments])
    return tool.main()


@pytest.fixture
def options(tmp_path):
    (tmp_path / "mine.yaml").write_text(CONFIG)
    return ["--config-name", "mine", "--config-dir", str(tmp_path), "--output", str(tmp_path / "rate.png")]


def test_the_rate_of_every_epoch_is_drawn(options, tmp_path, monkeypatch, capsys):
    drawn = {}

    def record(path, curves, *_):
        drawn.update(curves)
        return path

    monkeypatch.setattr(tool.plotting, "line_curves", record)
    assert _run(monkeypatch, *options, "training.epochs=5") == 0
    assert drawn == {"LRStepDecay": ([0, 1, 2, 3, 4], [0.1, 0.1, 0.1, 0.05, 0.05])}
    assert f"LRStepDecay over 5 epochs: {tmp_path / 'rate.png'}" in capsys.readouterr().out


def test_the_picture_is_a_png(options, tmp_path, monkeypatch):
    assert _run(monkeypatch, *options) == 0
    assert cv2.imread(str(tmp_path / "rate.png")) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("~training", "needs the section 'training'"),
        ("~training.callbacks", "training.callbacks has no schedule"),
        ("~training.callbacks.LRStepDecay training.callbacks.ReduceLROnPlateau={}", "depend on what the run measures"),
        ("training.callbacks.LRStepDecay.step_size=0", "step_size must be an integer >= 1, received 0"),
        ("training.callbacks.LRLinearDecay={}", "'LRLinearDecay' needs the argument"),
        ("training.callbacks.ReduceLROnPlateau={}", "found more than one learning-rate schedule"),
        ("--colour", "unknown option '--colour'"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_said(options, change, message, monkeypatch, capsys):
    assert _run(monkeypatch, *options, *change.split()) == 2
    assert message in capsys.readouterr().err


def test_a_configuration_that_trains_nothing_has_no_rate():
    config = validate(Config, {"operation_mode": "quantization", "model": {"model_path": "m.keras"},
                               "quantization": {"quantizer": "TFlite_converter"},
                               "dataset": {"dataset_name": "synthetic"}})  # fmt: skip
    with pytest.raises(ConfigError, match="no section 'training'"):
        tool.scheduled(config)


def test_the_sheet_shows_every_schedule(tmp_path, monkeypatch):
    assert set(tool.EXAMPLES) == set(SCHEDULES)
    assert _run(monkeypatch, "--examples", "--output", str(tmp_path / "sheet.png")) == 0
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[:2] == (3 * 252, 3 * 420)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def _blocks() -> list[dict]:
    texts = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [yaml.safe_load(text)["training"] for text in texts]


def test_the_page_has_a_valid_example_of_every_schedule():
    shown = set()
    for block in _blocks():
        training = validate(Training, {"batch_size": 64, "epochs": 60, "optimizer": "Adam", **block})
        for name, arguments in training.callbacks.items():
            shown.add(name)
            if name in SCHEDULES:
                assert build_schedule(name, arguments)(0) > 0
    assert shown >= set(SCHEDULES)
