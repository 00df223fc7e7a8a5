"""Schedules that multiply the rate by a factor, every epoch or every few."""

import math

from common.schedules._phases import Schedule, require, require_at_most, warmed_up


def LRExponentialDecay(
    initial_lr: float,
    hold_steps: int,
    decay_rate: float,
    min_lr: float = 0.0,
    warmup_epochs: int = 0,
    warmup_lr: float | None = None,
) -> Schedule:
    """Hold the initial rate, then multiply it by `exp(-decay_rate)` each epoch, down to `min_lr`.

    Args:
        initial_lr: Initial rate, > 0.
        hold_steps: Epochs before the decay, >= 0.
        decay_rate: > 0; a greater one falls faster.
        min_lr: Least rate, in [0, initial_lr].
        warmup_epochs: Epochs of a linear rise before all this, >= 0.
        warmup_lr: Rate of the first epoch of the rise; a tenth of the initial rate where it is not set.

    Raises:
        ValueError: an argument is out of its range.
    """
    require("a number > 0", initial_lr=initial_lr, decay_rate=decay_rate)
    require("a number >= 0", min_lr=min_lr)
    require("an integer >= 0", hold_steps=hold_steps)
    require_at_most("initial_lr", initial_lr, min_lr=min_lr)

    def learning_rate(epoch: int) -> float:
        return max(initial_lr * math.exp(-decay_rate * max(epoch - hold_steps, 0)), min_lr)

    return warmed_up(learning_rate, warmup_epochs, warmup_lr)


def LRStepDecay(
    initial_lr: float,
    step_size: int,
    decay_rate: float,
    min_lr: float = 0.0,
    warmup_epochs: int = 0,
    warmup_lr: float | None = None,
) -> Schedule:
    """Multiply the rate by `decay_rate` every `step_size` epochs, down to `min_lr`.

    Args:
        initial_lr: Rate of the first `step_size` epochs, > 0.
        step_size: Epochs between two drops, >= 1.
        decay_rate: Factor, in (0, 1]; a smaller one falls faster.
        min_lr: Least rate, in [0, initial_lr].
        warmup_epochs: Epochs of a linear rise before all this, >= 0.
        warmup_lr: Rate of the first epoch of the rise; a tenth of the initial rate where it is not set.

    Raises:
        ValueError: an argument is out of its range.
    """
    require("a number > 0", initial_lr=initial_lr)
    require("a number in (0, 1]", decay_rate=decay_rate)
    require("a number >= 0", min_lr=min_lr)
    require("an integer >= 1", step_size=step_size)
    require_at_most("initial_lr", initial_lr, min_lr=min_lr)

    def learning_rate(epoch: int) -> float:
        return max(initial_lr * decay_rate ** (epoch // step_size), min_lr)

    return warmed_up(learning_rate, warmup_epochs, warmup_lr)
