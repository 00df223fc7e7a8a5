"""The training loop: epochs of steps, validation, callbacks, checkpoints."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import keras
import numpy as np

from common.artifacts import write_json
from common.run import progress

_LOGGER = logging.getLogger(__name__)


class TrainingDivergedError(RuntimeError):
    """The loss became NaN or infinite; the message names the images of the batch."""


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


def fit(
    step: Callable[[Any, Any], Mapping[str, Any]],
    batches: Iterable[Mapping[str, Any]],
    epochs: int,
    steps_per_epoch: int,
    validate: Callable[[], Mapping[str, float]],
    callbacks: keras.callbacks.CallbackList,
    best: Best,
    save: Callable[[bool], None],
    names_of: Callable[[np.ndarray], list[str]],
    folder: Path,
) -> tuple[dict[str, list[float]], Best]:
    """Train for a number of epochs.

    Args:
        step: Updates the network on (images, labels) and returns scalars, among them `loss`.
        batches: Stream of `{"images", "labels", "index"}` over all epochs.
        epochs: Number of epochs.
        steps_per_epoch: Batches in an epoch.
        validate: Returns the `val_*` scalars of the network as it is.
        callbacks: Keras callbacks; one of them may stop the training.
        best: What decides the best epoch.
        save: Called after each epoch with whether it is the best so far.
        names_of: File names of a batch's indices, for the report of a loss that is not finite.
        folder: Where that report goes.

    Returns:
        The history (name to one value an epoch) and the best epoch.

    Raises:
        TrainingDivergedError: the loss is NaN or infinite.
    """
    history: dict[str, list[float]] = {}
    stream = iter(batches)
    callbacks.on_train_begin()
    try:
        for epoch in range(epochs):
            callbacks.on_epoch_begin(epoch)
            start = perf_counter()
            logs, images = _train_epoch(
                step, stream, epoch, epochs, steps_per_epoch, callbacks, names_of, folder
            )
            seconds = perf_counter() - start
            logs |= validate()
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(callbacks.model.optimizer.learning_rate))
            logs["images_per_second"] = images / seconds
            is_best = best.improved_by(logs)
            if is_best:
                best = Best(best.monitor, best.mode, logs[best.monitor], epoch)
            save(is_best)
            callbacks.on_epoch_end(epoch, logs)
            for name, value in logs.items():
                history.setdefault(name, []).append(float(value))
            mark = "  (best so far)" if is_best else ""
            _LOGGER.info("epoch %d/%d %s%s", epoch + 1, epochs, _text(logs), mark)
            if callbacks.model.stop_training:
                _LOGGER.info("training was stopped by a callback after epoch %d", epoch + 1)
                break
    finally:
        callbacks.on_train_end()  # closes the log files, also when the training fails
    return history, best


def _train_epoch(
    step: Callable[[Any, Any], Mapping[str, Any]],
    stream: Any,
    epoch: int,
    epochs: int,
    steps: int,
    callbacks: keras.callbacks.CallbackList,
    names_of: Callable[[np.ndarray], list[str]],
    folder: Path,
) -> tuple[dict[str, float], int]:
    sums: dict[str, float] = {}
    images = 0
    start = perf_counter()
    with progress(f"epoch {epoch + 1}/{epochs}", steps, "batches") as advance:
        for number in range(steps):
            batch = next(stream)
            callbacks.on_train_batch_begin(number)
            scalars = {name: float(value) for name, value in step(batch["images"], batch["labels"]).items()}
            if not np.isfinite(scalars["loss"]):
                _stop_diverged(scalars, names_of(np.array(batch["index"])), epoch, number, folder)
            callbacks.on_train_batch_end(number, scalars)
            for name, value in scalars.items():
                sums[name] = sums.get(name, 0.0) + value
            images += len(batch["labels"])
            rate = images / (perf_counter() - start)
            advance(1, f"loss {sums['loss'] / (number + 1):.3f}  {rate:.0f} images/s")
    return {name: value / steps for name, value in sums.items()}, images


def _stop_diverged(
    scalars: Mapping[str, float], files: Sequence[str], epoch: int, step: int, folder: Path
) -> None:
    report = write_json(
        folder / "diverged_batch.json",
        {"epoch": epoch, "step": step, "scalars": dict(scalars), "files": list(files)},
    )
    raise TrainingDivergedError(
        f"the loss became {scalars['loss']} in epoch {epoch + 1}, step {step + 1}; the images of that batch are listed "
        f"in {report}. Lower the learning rate, or use mixed_precision: none"
    )


def _text(logs: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in logs.items())


def save_atomically(model: keras.Model, path: Path) -> None:
    """Save under a temporary name, then rename: a crash while writing leaves the previous file."""
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    model.save(temporary)
    temporary.replace(path)
