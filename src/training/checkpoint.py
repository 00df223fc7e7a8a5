"""Checkpoints that a training can be resumed from: weights, optimizer and progress in one file.

A `.keras` file is a zip archive; the progress is one more member of it, `training_state.json`, so that weights and
progress cannot disagree, and Keras opens the file as any other.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras

from common.artifacts import whole_file
from common.config import ConfigError

_MEMBER = "training_state.json"


@dataclass(frozen=True)
class Best:
    """The best epoch so far by one monitored quantity."""

    monitor: str
    mode: str
    value: float | None = None
    epoch: int = -1

    def improved_by(self, logs: Mapping[str, float]) -> bool:
        """Whether these logs hold a better value."""
        value = logs[self.monitor]
        if self.value is None:
            return True
        return value > self.value if self.mode == "max" else value < self.value


@dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Attributes:
        best: The best epoch so far.
        epoch: The epoch to continue in, from 0.
        step: Batches of that epoch that are done.
        sums: Sums of the scalars over those batches.
        history: Scalars of the finished epochs.
        callbacks: Numbers that callbacks keep, such as the patience that is used up, by callback.
    """

    best: Best
    epoch: int = 0
    step: int = 0
    sums: Mapping[str, float] = field(default_factory=dict)
    history: Mapping[str, list[float]] = field(default_factory=dict)
    callbacks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def save_checkpoint(
    model: keras.Model,
    path: Path,
    progress: Progress | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Save in the way of `whole_file`: a crash while writing leaves the previous file.

    Args:
        model: Saved with its optimizer, if it is compiled.
        path: A `.keras` file.
        progress: Stored in the file; without it the file cannot be resumed from.
        settings: Plain data that decides the course of the training.

    Raises:
        OSError: the file cannot be written, say because the disk is full; the previous file is untouched.
    """
    try:
        with whole_file(path) as temporary:
            model.save(temporary)
            if progress is not None:
                state = {"progress": asdict(progress), "settings": dict(settings or {})}
                with zipfile.ZipFile(temporary, "a") as archive:
                    archive.writestr(_MEMBER, json.dumps(state))
    except OSError as error:
        kept = (
            "the previous one is kept and can be resumed from" if path.exists() else "there is no earlier one"
        )
        raise OSError(error.errno, f"{error.strerror}: {path} cannot be written, {kept}") from error


def is_checkpoint(path: Path) -> bool:
    """Whether a file holds the state of a training, so that it can be resumed from."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return _MEMBER in archive.namelist()


def read_checkpoint(path: Path) -> tuple[Progress, dict[str, Any]]:
    """Return the progress and the settings of a checkpoint.

    Raises:
        ConfigError: the file is not a checkpoint that a training can be resumed from.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            state = json.loads(archive.read(_MEMBER))
        plain = state["progress"]
        return Progress(**{**plain, "best": Best(**plain["best"])}), state["settings"]
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"training cannot be resumed from {path}: it holds no state of a training. Resume from "
            "last_augmented_model.keras of the interrupted run; a best_model.keras can be trained further as "
            "model.model_path without resume_training"
        ) from error


def callback_numbers(callbacks: keras.callbacks.CallbackList) -> dict[str, dict[str, Any]]:
    """The plain numbers that each callback keeps, by the callback's position and class."""
    return {
        f"{position}_{type(callback).__name__}": {
            name: value for name, value in vars(callback).items() if isinstance(value, bool | int | float)
        }
        for position, callback in enumerate(callbacks.callbacks)
    }


def restore_callback_numbers(
    callbacks: keras.callbacks.CallbackList, numbers: Mapping[str, Mapping[str, Any]]
) -> None:
    """Give callbacks their numbers back, after `on_train_begin` has reset them."""
    for position, callback in enumerate(callbacks.callbacks):
        for name, value in numbers.get(f"{position}_{type(callback).__name__}", {}).items():
            setattr(callback, name, value)


def seed_dropout(network: keras.Model, seed: int, step: int) -> None:
    """Make the random masks of a network a function of the seed and the number of the step.

    Args:
        network: A network whose layers each draw once a step.
        seed: Seed of the run.
        step: Steps since the beginning of the training.
    """
    for number, layer in enumerate(network._flatten_layers(include_self=False, recursive=True)):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            generator.state.assign([(seed + number) % 2**31, step % 2**31])
