"""Schedules that are written out."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from common.schedules._phases import Schedule, require, warmed_up


def LRPiecewiseConstantDecay(
    boundaries: Sequence[int],
    values: Sequence[float],
    warmup_epochs: int = 0,
    warmup_lr: float | None = None,
) -> Schedule:
    """Give `values[i]` until epoch `boundaries[i]`, which is the first with `values[i + 1]`.

    Args:
        boundaries: Increasing epochs, each >= 1, at which the next value starts.
        values: Rates, > 0; one more than there are boundaries. They may rise as well as fall.
        warmup_epochs: Epochs of a linear rise before all this, >= 0; boundaries count from its end.
        warmup_lr: Rate of the first epoch of the rise; a tenth of the first value where it is not set.

    Raises:
        ValueError: an argument is out of its range, or there are too few or too many values.
    """
    for name, items in (("boundaries", boundaries), ("values", values)):
        if not isinstance(items, list | tuple):
            raise ValueError(f"{name} must be a list, received {items!r}")
    if len(values) != len(boundaries) + 1:
        raise ValueError(
            f"values must be one more than boundaries, received {len(values)} values and {len(boundaries)} boundaries"
        )
    for index, boundary in enumerate(boundaries):
        require("an integer >= 1", **{f"boundaries[{index}]": boundary})
    for index, value in enumerate(values):
        require("a number > 0", **{f"values[{index}]": value})
    if any(first >= second for first, second in pairwise(boundaries)):
        raise ValueError(f"boundaries must increase, received {list(boundaries)}")

    def learning_rate(epoch: int) -> float:
        return values[bisect_right(boundaries, epoch)]

    return warmed_up(learning_rate, warmup_epochs, warmup_lr)
