"""Draw the learning rate of a training: `python -m src.tools.plot_schedule --config-name training_config.yaml`.

Takes the options and overrides of the main program, and writes a PNG. With `--examples` it draws every schedule once,
without a configuration.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common import plotting
from common.artifacts import whole_file
from common.config import OUTPUTS, ConfigError, compose, validate
from common.images import encoded
from src.registries import SCHEDULES, build_schedule, schedules_in
from src.schema import Config

EXAMPLE_EPOCHS = 100
_PHASES = {"initial_lr": 0.001, "hold_steps": 20, "decay_steps": 70, "end_lr": 0.00001}
EXAMPLES: dict[str, dict[str, Any]] = {
    "LRLinearDecay": _PHASES,
    "LRCosineDecay": _PHASES,
    "LRWarmupCosineDecay": {**_PHASES, "initial_lr": 0.0001, "warmup_steps": 10, "max_lr": 0.001},
    "LRCosineDecayRestarts": {"initial_lr": 0.001, "first_decay_steps": 15, "end_lr": 0.00001, "m_mul": 0.8},
    "LRPolynomialDecay": _PHASES,
    "LRPolynomialDecayRestarts": {**_PHASES, "decay_steps": 20},
    "LRExponentialDecay": {"initial_lr": 0.001, "hold_steps": 20, "decay_rate": 0.04},
    "LRStepDecay": {"initial_lr": 0.001, "step_size": 20, "decay_rate": 0.5},
    "LRPiecewiseConstantDecay": {
        "boundaries": [40, 70],
        "values": [0.001, 0.0001, 0.00001],
        "warmup_epochs": 10,
    },
}


def plot_schedule(path: Path, name: str, arguments: Mapping[str, Any], epochs: int) -> Path:
    """Draw the learning rate of each epoch, from 0, and return the PNG.

    Raises:
        ConfigError: an argument of the schedule is unknown, missing or out of its range.
    """
    schedule = build_schedule(name, arguments)
    numbers = list(range(epochs))
    rates = [schedule(epoch) for epoch in numbers]
    return plotting.line_curves(path, {name: (numbers, rates)}, "epoch (from 0)", "learning rate")


def scheduled(config: Config) -> tuple[str, Mapping[str, Any], int]:
    """Return name and arguments of the schedule in a configuration, and the number of epochs.

    Raises:
        ConfigError: nothing is trained, there is no schedule, or its rates depend on the run.
    """
    if config.training is None:
        raise ConfigError("the configuration has no section 'training', so there is no learning rate to draw")
    names = schedules_in(config.training.callbacks)
    if not names:
        raise ConfigError(
            "training.callbacks has no schedule, so the rate is that of training.optimizer in every epoch; schedules: "
            f"{', '.join(SCHEDULES)}"
        )
    [name] = names
    if name not in SCHEDULES:
        raise ConfigError(
            f"the rates of {name} depend on what the run measures, so they cannot be drawn before; afterwards they "
            "are in the column learning_rate of train_metrics.csv"
        )
    return name, config.training.callbacks[name] or {}, config.training.epochs


def draw_examples(path: Path) -> Path:
    """Draw an example of every schedule on one sheet, and return the PNG."""
    with tempfile.TemporaryDirectory() as folder:
        curves = []
        for name, arguments in EXAMPLES.items():
            file = plot_schedule(Path(folder) / f"{name}.png", name, arguments, EXAMPLE_EPOCHS)
            curve = cv2.imread(str(file))
            assert curve is not None
            curves.append(cv2.resize(curve, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        rows = [np.hstack(curves[start : start + 3]) for start in range(0, len(curves), 3)]
        sheet = encoded(np.vstack(rows), "the sheet", ".png", (cv2.IMWRITE_PNG_COMPRESSION, 9))
    with whole_file(path) as temporary:
        temporary.write_bytes(sheet)
    return path


def main() -> int:
    """Run the tool; returns the exit code: 0, or 2 for a mistake in the configuration."""
    parser = argparse.ArgumentParser(description="Draw the learning rate of a training.", allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path(OUTPUTS) / "lr_schedule.png", help="the PNG")
    parser.add_argument("--examples", action="store_true", help="draw every schedule once")
    options, rest = parser.parse_known_args()
    try:
        if options.examples:
            print(draw_examples(options.output))
        else:
            name, arguments, epochs = scheduled(validate(Config, compose(rest)))
            print(f"{name} over {epochs} epochs: {plot_schedule(options.output, name, arguments, epochs)}")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
