"""Weights of losses that are learned with the network."""

from collections.abc import Sequence
from typing import Any

from keras import ops


def weighted_by_uncertainty(values: Sequence[Any], log_variances: Any) -> list[Any]:
    """Return exp(-s) * loss + s / 2 of each loss, with its log variance s.

    Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018, equation 10, in the form
    of a classification for every loss. At the best s, the log of twice the loss, the first part is 1/2 whatever the
    scale of the loss, so that the configuration's weight alone says how much a loss counts; it multiplies the whole
    term, and a loss of weight 0 leaves its s alone.

    Args:
        values: A scalar for each loss.
        log_variances: Float32 (losses,), which `LogVariances` holds within limits.
    """
    return [
        ops.exp(-log_variances[number]) * value + log_variances[number] / 2
        for number, value in enumerate(values)
    ]
