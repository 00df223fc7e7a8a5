"""Thresholds at an error rate, and when there is too little to know a rate."""

import math

import numpy as np

_EXPECTED_ERRORS = 10


def supports(rate: float, trials: int) -> bool:
    """Whether ten errors or more are expected at a rate among so many trials: fewer say nothing about the rate."""
    return rate * trials >= _EXPECTED_ERRORS - 1e-6


def threshold_at(distances: np.ndarray, rate: float, what: str) -> float:
    """Return the largest threshold that accepts at most a share of wrong distances.

    Args:
        distances: Of pairs that must not be accepted, ascending (trials,). A distance is accepted up to the threshold.
        rate: The share, 0 < rate <= 1.
        what: Name of the trials in the message.

    Raises:
        ValueError: the rate is out of its range, or too small for the number of distances.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"an error rate must lie in 0..1 and not be 0, got {rate}")
    if not supports(rate, len(distances)):
        raise ValueError(
            f"a rate of {rate:g} needs {math.ceil(_EXPECTED_ERRORS / rate):,} {what} (ten expected errors), there are "
            f"{len(distances):,}: it would be extrapolated"
        )
    accepted = math.floor(rate * len(distances) + 1e-6)
    if accepted == len(distances):
        return float(distances[-1])
    return float(np.nextafter(distances[accepted], -np.inf, dtype=distances.dtype))
