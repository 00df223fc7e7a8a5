"""The training loop: epochs of steps, validation, callbacks, checkpoints."""

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import keras
import numpy as np

from common.artifacts import write_json
from common.run import progress
from src.training.checkpoint import Progress, callback_numbers, restore_callback_numbers, seed_dropout

_LOGGER = logging.getLogger(__name__)


class TrainingDivergedError(RuntimeError):
    """The loss became NaN or infinite; the message names the images of the batch."""


class _Epoch:
    """The scalars of one epoch as they add up."""

    def __init__(self, done: Progress) -> None:
        self.sums = dict(done.sums)
        self.steps = done.step
        self.images = 0
        self.start, self.processor_start = perf_counter(), process_time()

    def add(self, scalars: Mapping[str, float], images: int) -> str:
        for name, value in scalars.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1
        self.images += images
        return f"loss {self.sums['loss'] / self.steps:.3f}  {self.images_per_second:.0f} images/s"

    @property
    def images_per_second(self) -> float:
        return self.images / (perf_counter() - self.start)

    @property
    def processor_seconds(self) -> float:
        """Of all threads of this process, those that prepare the images included."""
        return process_time() - self.processor_start


def fit(
    step: Callable[..., Mapping[str, Any]],
    batches: Iterable[Mapping[str, Any]],
    epochs: int,
    steps_per_epoch: int,
    validate: Callable[[], Mapping[str, float]],
    callbacks: keras.callbacks.CallbackList,
    done: Progress,
    save: Callable[[Progress, bool], None],
    names_of: Callable[[np.ndarray], list[str]],
    folder: Path,
    seed: int = 0,
    any_worker: Callable[[bool], bool] = bool,
    takes: Sequence[str] = ("images", "labels"),
) -> Progress:
    """Train for a number of epochs, from the beginning or from where a checkpoint stands.

    SIGINT and SIGTERM save a checkpoint after the batch that is under way and end the program with the usual code.

    Args:
        step: Updates the network on a batch and returns scalars, among them `loss`.
        batches: Stream of `{"images", "labels", "index"}` from the first batch that is not done; `index` is of the
            whole batch, also where this process has a part of its images.
        epochs: Number of epochs in all.
        steps_per_epoch: Batches in an epoch.
        validate: Returns the `val_*` scalars of the network as it is.
        callbacks: Keras callbacks; one of them may stop the training.
        done: Where to start, and what decides the best epoch.
        save: Called after each epoch with the progress and whether this epoch is the best so far.
        names_of: File names of a batch's indices, for the report of a loss that is not finite.
        folder: Where that report goes.
        seed: Seed of dropout.
        any_worker: Whether a condition holds in any process of the training, so that all of them stop together.
        takes: The parts of a batch that the step takes, in order.

    Returns:
        The progress at the end; its history has one value an epoch for each scalar.

    Raises:
        TrainingDivergedError: the loss is NaN or infinite.
        SystemExit: the program was interrupted.
    """
    stream = iter(batches)
    network = callbacks.model
    seed_dropout(network, seed, done.epoch * steps_per_epoch + done.step)
    callbacks.on_train_begin()
    restore_callback_numbers(callbacks, done.callbacks)
    try:
        with _interruptions() as interrupted:
            for epoch in range(done.epoch, epochs):
                callbacks.on_epoch_begin(epoch)
                running = _Epoch(done)
                with progress(f"epoch {epoch + 1}/{epochs}", steps_per_epoch, "batches") as advance:
                    advance(done.step)
                    for number in range(done.step, steps_per_epoch):
                        batch = next(stream)
                        callbacks.on_train_batch_begin(number)
                        scalars = {n: float(v) for n, v in step(*(batch[name] for name in takes)).items()}
                        if not np.isfinite(scalars["loss"]):
                            _stop_diverged(scalars, names_of(np.array(batch["index"])), epoch, number, folder)
                        callbacks.on_train_batch_end(number, scalars)
                        advance(1, running.add(scalars, len(batch["index"])))
                        if any_worker(bool(interrupted)):
                            here = replace(done, step=running.steps, sums=running.sums)
                            save(replace(here, callbacks=callback_numbers(callbacks)), False)
                            _leave(interrupted, epoch, number)
                done, is_best = _finish_epoch(done, running, validate, callbacks)
                save(done, is_best)
                if any_worker(bool(interrupted)):  # during the validation
                    _leave(interrupted, epoch, steps_per_epoch - 1)
                if network.stop_training:
                    _LOGGER.info("training was stopped by a callback after epoch %d", epoch + 1)
                    break
    finally:
        callbacks.on_train_end()  # closes the log files, also when the training fails
    return done


def _finish_epoch(
    done: Progress,
    running: _Epoch,
    validate: Callable[[], Mapping[str, float]],
    callbacks: keras.callbacks.CallbackList,
) -> tuple[Progress, bool]:
    """Validate, tell the callbacks, and return the progress at the start of the next epoch."""
    logs = {name: value / running.steps for name, value in running.sums.items()}
    speed = {"images_per_second": running.images_per_second, "processor_seconds": running.processor_seconds}
    logs |= validate()
    logs["learning_rate"] = float(keras.ops.convert_to_numpy(callbacks.model.optimizer.learning_rate))
    logs |= speed
    is_best = done.best.improved_by(logs)
    best = replace(done.best, value=logs[done.best.monitor], epoch=done.epoch) if is_best else done.best
    callbacks.on_epoch_end(done.epoch, logs)
    history = {name: [*done.history.get(name, []), float(value)] for name, value in logs.items()}
    mark = "  (best so far)" if is_best else ""
    _LOGGER.info("epoch %d %s%s", done.epoch + 1, _text(logs), mark)
    return Progress(best, done.epoch + 1, history=history, callbacks=callback_numbers(callbacks)), is_best


@contextmanager
def _interruptions() -> Iterator[list[int]]:
    """A list that receives the number of SIGINT or SIGTERM; a second signal acts as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def receive(number: int, _: Any) -> None:
        received.append(number)
        for known, handler in before.items():
            signal.signal(known, handler)

    for number in numbers:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(received: Sequence[int], epoch: int, step: int) -> None:
    """End the program with the code of the signal, which another process of the training may have received."""
    number = received[0] if received else signal.SIGTERM
    _LOGGER.warning(
        "%s in epoch %d, batch %d: last_augmented_model.keras can be resumed with resume_training: True",
        signal.Signals(number).name, epoch + 1, step + 1,
    )  # fmt: skip
    raise SystemExit(128 + number)


def _stop_diverged(
    scalars: Mapping[str, float], files: Sequence[str], epoch: int, step: int, folder: Path
) -> None:
    report = write_json(
        folder / "diverged_batch.json",
        {"epoch": epoch, "step": step, "scalars": dict(scalars), "files": list(files)},
    )
    raise TrainingDivergedError(
        f"the loss became {scalars['loss']} in epoch {epoch + 1}, step {step + 1}; the images of that batch "
        f"are listed in {report}. Lower the learning rate, or use mixed_precision: none"
    )


def _text(logs: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in logs.items())
