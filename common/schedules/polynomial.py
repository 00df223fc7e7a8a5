"""Schedules that fall along a line or a power of one."""

from common.schedules._phases import Schedule, decay, polynomial, require, warmed_up


def LRLinearDecay(
    initial_lr: float,
    hold_steps: int,
    decay_steps: int,
    end_lr: float,
    warmup_epochs: int = 0,
    warmup_lr: float | None = None,
) -> Schedule:
    """Hold the initial rate, then fall to the end rate along a line, then stay there.

    Args:
        initial_lr: Initial rate, > 0.
        hold_steps: Epochs before the decay, >= 0.
        decay_steps: Epochs from the initial to the end rate, >= 1.
        end_lr: End rate, in [0, initial_lr].
        warmup_epochs: Epochs of a linear rise before all this, >= 0.
        warmup_lr: Rate of the first epoch of the rise; a tenth of the initial rate where it is not set.

    Raises:
        ValueError: an argument is out of its range.
    """
    return LRPolynomialDecay(initial_lr, hold_steps, decay_steps, end_lr, 1.0, warmup_epochs, warmup_lr)


def LRPolynomialDecay(
    initial_lr: float,
    hold_steps: int,
    decay_steps: int,
    end_lr: float,
    power: float = 0.5,
    warmup_epochs: int = 0,
    warmup_lr: float | None = None,
) -> Schedule:
    """Hold the initial rate, then fall to the end rate along `(1 - progress) ** power`, then stay there.

    Args:
        initial_lr: Initial rate, > 0.
        hold_steps: Epochs before the decay, >= 0.
        decay_steps: Epochs from the initial to the end rate, >= 1.
        end_lr: End rate, in [0, initial_lr].
        power: > 0; below 1 the fall is steepest at its end, above 1 at its start.
        warmup_epochs: Epochs of a linear rise before all this, >= 0.
        warmup_lr: Rate of the first epoch of the rise; a tenth of the initial rate where it is not set.

    Raises:
        ValueError: an argument is out of its range.
    """
    require("a number > 0", power=power)
    schedule = decay(polynomial(power), initial_lr, end_lr, hold_steps, decay_steps)
    return warmed_up(schedule, warmup_epochs, warmup_lr)


def LRPolynomialDecayRestarts(
    initial_lr: float,
    hold_steps: int,
    decay_steps: int,
    end_lr: float,
    power: float = 0.7,
    warmup_epochs: int = 0,
    warmup_lr: float | None = None,
) -> Schedule:
    """Hold the initial rate, then fall as `LRPolynomialDecay` does, and start again from it every `decay_steps`.

    Each period ends one epoch before it would reach `end_lr`: that epoch is the first of the next one.

    Args:
        initial_lr: Rate at the start of each period, > 0.
        hold_steps: Epochs before the first decay, >= 0.
        decay_steps: Epochs of a period, >= 1.
        end_lr: Rate that each period falls to, in [0, initial_lr].
        power: > 0; below 1 the fall is steepest at its end, above 1 at its start.
        warmup_epochs: Epochs of a linear rise before all this, >= 0.
        warmup_lr: Rate of the first epoch of the rise; a tenth of the initial rate where it is not set.

    Raises:
        ValueError: an argument is out of its range.
    """
    require("a number > 0", power=power)
    require("an integer >= 0", hold_steps=hold_steps)
    period = decay(polynomial(power), initial_lr, end_lr, 0, decay_steps)

    def learning_rate(epoch: int) -> float:
        return period(max(epoch - hold_steps, 0) % decay_steps)

    return warmed_up(learning_rate, warmup_epochs, warmup_lr)
