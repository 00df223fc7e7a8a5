"""Callbacks: the built-in ones, those of Keras by name, and learning-rate schedules."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from common.tracking import log_metrics
from src.registries import SCHEDULES, build_schedule, monitor_mode, monitor_of
from src.schema import Loss
from src.training.step import Losses


class TrackEpochs(keras.callbacks.Callback):
    """Sends the scalars of each epoch to the tracker."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Log every scalar of the epoch."""
        log_metrics(logs or {}, step=epoch + 1)


class FollowLossSchedules(keras.callbacks.Callback):
    """Sets the weight of each loss that has a schedule.

    Args:
        terms: `Training.terms`.
        losses: Those terms as `losses_of` makes them.
    """

    def __init__(self, terms: Sequence[Loss], losses: Losses) -> None:
        super().__init__()
        self._weights = [
            (losses[term.name][0], term.weight, term.schedule) for term in terms if term.schedule
        ]

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Set the weights of an epoch, from 0 on."""
        for variable, weight, schedule in self._weights:
            variable.assign(weight * schedule.share(epoch))


def make_callbacks(
    network: keras.Model,
    asked: Mapping[str, Mapping[str, Any] | None],
    logs_folder: Path,
    more: Sequence[keras.callbacks.Callback] = (),
) -> keras.callbacks.CallbackList:
    """Return the callbacks of a training: CSV log, TensorBoard, tracker, then those of the configuration.

    Args:
        network: The compiled network that the callbacks see.
        asked: `training.callbacks`: names of Keras callbacks or schedules to their arguments.
        logs_folder: Where `train_metrics.csv` and the TensorBoard files go.
        more: Further callbacks, at the end.
    """
    metrics = logs_folder / "metrics"
    metrics.mkdir(parents=True, exist_ok=True)
    callbacks = [
        keras.callbacks.CSVLogger(str(metrics / "train_metrics.csv")),
        keras.callbacks.TensorBoard(str(logs_folder), write_graph=False),
        TrackEpochs(),
        *(build_callback(name, arguments or {}) for name, arguments in asked.items()),
        *more,
    ]
    return keras.callbacks.CallbackList(callbacks, model=network)


def build_callback(name: str, arguments: Mapping[str, Any]) -> keras.callbacks.Callback:
    """Return a Keras callback, or the callback that follows a learning-rate schedule."""
    if name in SCHEDULES:
        schedule = build_schedule(name, arguments)
        return keras.callbacks.LearningRateScheduler(schedule, verbose=arguments.get("verbose", 0))
    monitor = monitor_of(name, arguments)
    if monitor is not None and arguments.get("mode", "auto") == "auto":
        # Keras infers the direction from compiled metrics, which a network trained by a loop of its own has not.
        arguments = {**arguments, "mode": monitor_mode(monitor)}
    return getattr(keras.callbacks, name)(**arguments)
