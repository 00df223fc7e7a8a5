"""How arguments of augmentations are read: a number or a range, in Python or in YAML."""

from collections.abc import Collection
from math import inf, isfinite
from typing import Any

from common.config import parse_number, parse_tuple

Range = float | tuple[float, float]
"""`v` or `(low, high)`, drawn from uniformly, one value an image."""

_OF_NUMBER = {
    "symmetric": lambda v: (-abs(v), abs(v)),
    "from_zero": lambda v: (0.0, v),
    "fixed": lambda v: (v, v),
}


def as_range(
    function: str,
    argument: str,
    value: Any,
    number: str = "symmetric",
    low: float = -inf,
    high: float = inf,
    whole: bool = False,
) -> tuple[float, float]:
    """Return (low, high) of what a user wrote: a number, a pair, a list, or the text `(low, high)` of YAML.

    Args:
        function: Name of the augmentation, for messages.
        argument: Name of the argument, for messages.
        value: What was written.
        number: What a number v means: `symmetric` (-v, v), `from_zero` (0, v), `fixed` (v, v).
        low: Smallest value allowed.
        high: Largest value allowed.
        whole: Whether both ends must be whole numbers.

    Raises:
        ValueError: neither a number nor a pair, or a value outside of what is allowed.
    """
    given = parse_tuple(value)
    items = [parse_number(item) for item in (given if isinstance(given, tuple) else (given,))]
    numbers = all(isinstance(item, int | float) and not isinstance(item, bool) for item in items)
    if numbers and len(items) == 1:
        items = list(_OF_NUMBER[number](items[0]))
    if (
        not numbers
        or len(items) != 2
        or not low <= items[0] <= items[1] <= high
        or not all(isfinite(item) for item in items)
        or (whole and any(item != int(item) for item in items))
    ):
        kind = "a whole number" if whole else "a number"
        raise ValueError(
            f"{function}: {argument} must be {kind} or (low, high) with low <= high{_bounds(low, high)}, got {value!r}"
        )
    return float(items[0]), float(items[1])


def as_choice(function: str, argument: str, value: Any, choices: Collection[str]) -> str:
    """Return `value`, one of `choices`.

    Raises:
        ValueError: it is none of them.
    """
    if value not in choices:
        raise ValueError(f"{function}: {argument} must be one of {', '.join(choices)}, got {value!r}")
    return str(value)


def _bounds(low: float, high: float) -> str:
    if low == -inf and high == inf:
        return ""
    return f", {low:g} or more" if high == inf else f", from {low:g} to {high:g}"
