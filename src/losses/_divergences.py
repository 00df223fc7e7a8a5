"""Distances between distributions that are given as rows of scores."""

from math import inf
from typing import Any

import keras
from keras import ops

from common.config import suggest
from src.losses._pairs import DISTANCES

_NEVER = -1e9  # the score of what is left out; the greatest of the others is 0


def symmetric_divergence(first: Any, second: Any, mask: Any = None) -> keras.KerasTensor:
    """Return KL(p || q) + KL(q || p) of the softmax of each row, float32 (N,); 0 where the mask is empty.

    Args:
        first: Scores of p, float32 (N, M).
        second: Scores of q.
        mask: Which scores of a row count, booleans (N, M); all of them by default.
    """
    if mask is None:
        mask = ops.ones_like(first, dtype="bool")
    log_p, log_q = _log_softmax(first, mask), _log_softmax(second, mask)
    terms = (ops.exp(log_p) - ops.exp(log_q)) * (log_p - log_q)
    return ops.sum(ops.where(mask, terms, 0.0), axis=1)


def _log_softmax(scores: Any, mask: Any) -> keras.KerasTensor:
    largest = ops.max(ops.where(mask, scores, -inf), axis=1, keepdims=True)
    largest = ops.stop_gradient(ops.where(ops.isfinite(largest), largest, 0.0))
    return ops.log_softmax(ops.where(mask, scores - largest, _NEVER), axis=1)


def nearness(features: Any, temperature: float, distance_metric: str) -> keras.KerasTensor:
    """Return -distance / temperature of all pairs, float32 (N, N): scores whose softmax says what is near.

    Raises:
        ValueError: unknown distance, or a temperature that is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature: expected more than 0, received {temperature}")
    if distance_metric not in DISTANCES:
        raise ValueError(
            f"distance_metric: unknown value '{distance_metric}', {suggest(distance_metric, DISTANCES)}"
        )
    return -DISTANCES[distance_metric](ops.cast(features, "float32")) / temperature
