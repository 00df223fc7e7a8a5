from collections.abc import Callable
from typing import Literal

import keras
from keras import ops

from common.config import suggest
from src.losses._pairs import DISTANCES, masked_mean, pair_masks

_FAR = 1e9  # stands for "no such pair" in a minimum


def triplet(
    features: keras.KerasTensor,
    labels: keras.KerasTensor,
    margin: float = 0.3,
    strategy: Literal["hard", "semi_hard", "simple"] = "hard",
    distance_metric: Literal["euclidean", "cosine"] = "cosine",
) -> keras.KerasTensor:
    """Triplet loss max(0, margin + d(anchor, positive) - d(anchor, negative)) with mining in the batch.

    Strategies:

    - `hard`: the farthest positive and the nearest negative of each anchor, mean over the anchors that have
      both (batch hard of Hermans et al., In Defense of the Triplet Loss, 2017).
    - `semi_hard`: for each positive the nearest of the negatives that are farther than it, mean over the
      pairs whose loss is not zero (Schroff et al., FaceNet, 2015).
    - `simple`: mean over all triplets, zeros included.

    A batch without a triplet has zero loss and zero gradient. `semi_hard` and `simple` need N^3 floats.

    Args:
        features: (N, D), any floating type; the loss is computed in float32.
        labels: Identities, integers (N,).
        margin: In units of the distance.
        strategy: How triplets are chosen.
        distance_metric: `cosine` is 1 - cosine, in [0, 2]; `euclidean` does not normalize the features.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: unknown strategy or distance.
    """
    if strategy not in _STRATEGIES:
        raise ValueError(f"strategy: unknown value '{strategy}', {suggest(strategy, _STRATEGIES)}")
    if distance_metric not in DISTANCES:
        raise ValueError(
            f"distance_metric: unknown value '{distance_metric}', {suggest(distance_metric, DISTANCES)}"
        )
    distances = DISTANCES[distance_metric](ops.cast(features, "float32"))  # (N, N)
    positive, negative = pair_masks(ops.convert_to_tensor(labels))
    return _STRATEGIES[strategy](distances, positive, negative, margin)


def _hard(
    distances: keras.KerasTensor, positive: keras.KerasTensor, negative: keras.KerasTensor, margin: float
) -> keras.KerasTensor:
    farthest_positive = ops.max(ops.where(positive, distances, -_FAR), axis=1)  # (N,)
    nearest_negative = ops.min(ops.where(negative, distances, _FAR), axis=1)
    valid = ops.logical_and(ops.any(positive, axis=1), ops.any(negative, axis=1))
    return masked_mean(ops.relu(margin + farthest_positive - nearest_negative), valid)


def _semi_hard(
    distances: keras.KerasTensor, positive: keras.KerasTensor, negative: keras.KerasTensor, margin: float
) -> keras.KerasTensor:
    to_positive, to_negative = distances[:, :, None], distances[:, None, :]
    farther = ops.logical_and(
        negative[:, None, :], to_negative > to_positive
    )  # (N, N, N): anchor, positive, negative
    nearest_farther = ops.min(ops.where(farther, to_negative, _FAR), axis=2)  # (N, N)
    losses = ops.relu(margin + distances - nearest_farther)
    return masked_mean(losses, ops.logical_and(positive, losses > 0))


def _simple(
    distances: keras.KerasTensor, positive: keras.KerasTensor, negative: keras.KerasTensor, margin: float
) -> keras.KerasTensor:
    losses = ops.relu(margin + distances[:, :, None] - distances[:, None, :])  # (N, N, N)
    return masked_mean(losses, ops.logical_and(positive[:, :, None], negative[:, None, :]))


_STRATEGIES: dict[str, Callable[..., keras.KerasTensor]] = {
    "hard": _hard,
    "semi_hard": _semi_hard,
    "simple": _simple,
}
