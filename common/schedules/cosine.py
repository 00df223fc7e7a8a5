"""Cosine schedules (Loshchilov and Hutter, SGDR, 2017, https://arxiv.org/abs/1608.03983)."""

from collections.abc import Mapping
from typing import Any

from common.schedules._phases import Schedule, decay, half_cosine, require, require_at_most, warmed_up


def LRCosineDecay(
    decay_steps: int,
    initial_lr: float | None = None,
    hold_steps: int | None = None,
    end_lr: float | None = None,
    initial_learning_rate: float | None = None,
    alpha: float | None = None,
    warmup_epochs: int = 0,
    warmup_lr: float | None = None,
) -> Schedule:
    """Hold the initial rate, then fall to the end rate along half a cosine, then stay there.

    There are two spellings: `initial_lr, hold_steps, decay_steps, end_lr`, and that of TensorFlow's `CosineDecay`,
    `initial_learning_rate, decay_steps, alpha`, which has no hold and ends at `alpha * initial_learning_rate`.

    Args:
        decay_steps: Epochs from the initial to the end rate, >= 1.
        initial_lr: Initial rate, > 0.
        hold_steps: Epochs before the decay, >= 0.
        end_lr: End rate, in [0, initial_lr].
        initial_learning_rate: Initial rate in the second spelling.
        alpha: End rate as a share of the initial one, in [0, 1]; 0 where the second spelling leaves it out.
        warmup_epochs: Epochs of a linear rise before all this, >= 0.
        warmup_lr: Rate of the first epoch of the rise; a tenth of the initial rate where it is not set.

    Raises:
        ValueError: an argument is missing or out of its range, or the spellings are mixed.
    """
    initial_lr, hold_steps, end_lr = _one_spelling(
        {"initial_lr": initial_lr, "hold_steps": hold_steps, "end_lr": end_lr},
        {"initial_learning_rate": initial_learning_rate, "alpha": alpha},
    )
    schedule = decay(half_cosine, initial_lr, end_lr, hold_steps, decay_steps)
    return warmed_up(schedule, warmup_epochs, warmup_lr)


def LRWarmupCosineDecay(
    initial_lr: float, warmup_steps: int, max_lr: float, hold_steps: int, decay_steps: int, end_lr: float
) -> Schedule:
    """Rise linearly from `initial_lr` to `max_lr`, hold it, then fall to `end_lr` along half a cosine.

    It is `LRCosineDecay` from `max_lr` with `warmup_epochs: warmup_steps` and `warmup_lr: initial_lr`.

    Args:
        initial_lr: Rate of epoch 0, in [0, max_lr]; without effect where `warmup_steps` is 0.
        warmup_steps: Epochs of the rise, >= 0.
        max_lr: Rate after the rise, > 0.
        hold_steps: Epochs between the rise and the decay, >= 0.
        decay_steps: Epochs from `max_lr` to `end_lr`, >= 1.
        end_lr: End rate, in [0, max_lr].

    Raises:
        ValueError: an argument is out of its range.
    """
    require("a number > 0", max_lr=max_lr)
    require("a number >= 0", initial_lr=initial_lr, end_lr=end_lr)
    require("an integer >= 0", warmup_steps=warmup_steps)
    require_at_most("max_lr", max_lr, initial_lr=initial_lr, end_lr=end_lr)
    schedule = decay(half_cosine, max_lr, end_lr, hold_steps, decay_steps)
    return warmed_up(schedule, warmup_steps, initial_lr if warmup_steps else None)


def LRCosineDecayRestarts(
    initial_lr: float,
    first_decay_steps: int,
    end_lr: float,
    t_mul: int = 2,
    m_mul: float = 1.0,
    warmup_epochs: int = 0,
    warmup_lr: float | None = None,
) -> Schedule:
    """Fall along half a cosine again and again: period i (from 0) starts at `initial_lr * m_mul ** i`.

    Each period ends one epoch before it would reach `end_lr`: that epoch is the first of the next one.

    Args:
        initial_lr: Rate at the start of the first period, > 0.
        first_decay_steps: Epochs of the first period, >= 1.
        end_lr: Rate that each period falls to, in [0, initial_lr]; no period starts below it.
        t_mul: Factor from the length of one period to the next, an integer >= 1.
        m_mul: Factor from the first rate of one period to the next, in (0, 1].
        warmup_epochs: Epochs of a linear rise before all this, >= 0.
        warmup_lr: Rate of the first epoch of the rise; a tenth of the initial rate where it is not set.

    Raises:
        ValueError: an argument is out of its range.
    """
    require("a number > 0", initial_lr=initial_lr)
    require("a number >= 0", end_lr=end_lr)
    require("an integer >= 1", first_decay_steps=first_decay_steps, t_mul=t_mul)
    require("a number in (0, 1]", m_mul=m_mul)
    require_at_most("initial_lr", initial_lr, end_lr=end_lr)

    def learning_rate(epoch: int) -> float:
        length, peak = first_decay_steps, initial_lr
        while epoch >= length:
            epoch, length, peak = epoch - length, length * t_mul, peak * m_mul
        share = half_cosine(epoch / length)
        return max(peak, end_lr) * share + end_lr * (1.0 - share)

    return warmed_up(learning_rate, warmup_epochs, warmup_lr)


def _one_spelling(own: Mapping[str, Any], tensorflow: Mapping[str, Any]) -> tuple[float, int, float]:
    """Return initial rate, hold and end rate from one of the spellings of `LRCosineDecay`."""
    given = {name: value for name, value in {**own, **tensorflow}.items() if value is not None}
    if given.keys() & own.keys() and given.keys() & tensorflow.keys():
        raise ValueError(
            "expected either initial_lr, hold_steps, decay_steps, end_lr or initial_learning_rate, decay_steps, alpha, "
            f"received a mixture: {', '.join(given)}"
        )
    if given.keys() & tensorflow.keys():
        initial: Any = given.get("initial_learning_rate")
        alpha = given.get("alpha", 0.0)
        require("a number > 0", initial_learning_rate=initial)
        require("a number in [0, 1]", alpha=alpha)
        return initial, 0, alpha * initial
    if missing := [name for name in own if name not in given]:
        raise ValueError(f"needs the argument(s) {', '.join(missing)}")
    return given["initial_lr"], given["hold_steps"], given["end_lr"]
