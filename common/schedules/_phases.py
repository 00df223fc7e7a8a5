"""What all schedules are made of: hold, decay, warm-up, and the check of their arguments.

A schedule is a function of the epoch, counted from 0, to the learning rate of that epoch. There is one definition of
hold: the decay starts in epoch `hold_steps`, which still has the initial rate because none of the decay has passed,
and epoch `hold_steps + decay_steps` is the first with the end rate.
"""

import math
from collections.abc import Callable
from typing import Any

Schedule = Callable[[int], float]

WARMUP_FACTOR = 0.1
"""First rate of a warm-up as a share of the rate that it leads to (Luo et al., 2019, section 3.1)."""


def decay(
    curve: Callable[[float], float], initial_lr: float, end_lr: float, hold_steps: int, decay_steps: int
) -> Schedule:
    """Return a schedule that holds, falls along a curve and stays.

    Args:
        curve: Progress of the decay in [0, 1] to the share of `initial_lr` in the rate, from 1 to 0.
        initial_lr: Rate while it is held.
        end_lr: Rate after the decay.
        hold_steps: Epochs before the decay.
        decay_steps: Epochs of the decay.

    Raises:
        ValueError: a rate or a number of epochs is out of its range.
    """
    require("a number > 0", initial_lr=initial_lr)
    require("a number >= 0", end_lr=end_lr)
    require("an integer >= 0", hold_steps=hold_steps)
    require("an integer >= 1", decay_steps=decay_steps)
    require_at_most("initial_lr", initial_lr, end_lr=end_lr)

    def learning_rate(epoch: int) -> float:
        share = curve(min(max(epoch - hold_steps, 0) / decay_steps, 1.0))
        return initial_lr * share + end_lr * (1.0 - share)

    return learning_rate


def half_cosine(progress: float) -> float:
    """Fall from 1 to 0 along half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def polynomial(power: float) -> Callable[[float], float]:
    """Return the fall from 1 to 0 along `(1 - progress) ** power`."""
    return lambda progress: (1.0 - progress) ** power


def warmed_up(schedule: Schedule, warmup_epochs: int, warmup_lr: float | None) -> Schedule:
    """Put a linear rise before a schedule, whose own epochs are then counted from the end of the rise.

    Args:
        schedule: What follows.
        warmup_epochs: Epochs of the rise; 0 returns `schedule` itself.
        warmup_lr: Rate of epoch 0, at most the first rate of `schedule`; a tenth of that rate where it is None.

    Raises:
        ValueError: an argument is out of its range, or there is a rate but no epoch to warm up in.
    """
    require("an integer >= 0", warmup_epochs=warmup_epochs)
    if warmup_epochs == 0:
        if warmup_lr is not None:
            raise ValueError(f"warmup_lr is {warmup_lr}, but there is no warm-up: set warmup_epochs")
        return schedule
    goal = schedule(0)
    start = WARMUP_FACTOR * goal if warmup_lr is None else warmup_lr
    require("a number >= 0", warmup_lr=start)
    require_at_most("the rate that it leads to", goal, warmup_lr=start)

    def learning_rate(epoch: int) -> float:
        if epoch < warmup_epochs:
            return start + (goal - start) * epoch / warmup_epochs
        return schedule(epoch - warmup_epochs)

    return learning_rate


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "a number > 0": lambda value: _is_number(value) and value > 0,
    "a number >= 0": lambda value: _is_number(value) and value >= 0,
    "a number in (0, 1]": lambda value: _is_number(value) and 0 < value <= 1,
    "a number in [0, 1]": lambda value: _is_number(value) and 0 <= value <= 1,
    "an integer >= 0": lambda value: _is_integer(value) and value >= 0,
    "an integer >= 1": lambda value: _is_integer(value) and value >= 1,
}


def require(kind: str, **arguments: Any) -> None:
    """Check that each argument is what `kind` says.

    Raises:
        ValueError: one is not; the message names it.
    """
    for name, value in arguments.items():
        if not _KINDS[kind](value):
            raise ValueError(f"{name} must be {kind}, received {value!r}")


def require_at_most(limit_name: str, limit: float, **arguments: float) -> None:
    """Check that each argument is at most a limit.

    Raises:
        ValueError: one is greater; the message names it.
    """
    for name, value in arguments.items():
        if value > limit:
            raise ValueError(f"{name} must be at most {limit_name}, {limit}, received {value}")
