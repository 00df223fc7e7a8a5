from math import inf
from typing import Any

import keras
from keras import ops

from src.losses._pairs import euclidean_distances


def weighted_distances(features: Any, labels: Any, alpha: float = 1.0) -> tuple[Any, Any, Any]:
    """Return the softly mined distances of each anchor to its positives and to its negatives.

    Positives are weighted by softmax(alpha * d), so that far ones count most, negatives by softmax(-alpha * d). As in
    the published code an anchor is among its own positives, at distance 0. The published weights of negatives come from
    exp(-d) without a shift, which vanishes from distances of about 88 on; these are the same ratios at any distance.

    Args:
        features: (N, D), any floating type.
        labels: Identities, integers (N,).
        alpha: Sharpness of the weights; 0 takes means, infinity the hardest pairs.

    Returns:
        Float32 (N,) to the positives, float32 (N,) to the negatives, and whether the anchor has both: another image of
        its identity, and one of another identity.
    """
    labels = ops.convert_to_tensor(labels)
    itself = ops.cast(ops.eye(ops.shape(labels)[0]), "bool")
    distances = ops.where(itself, 0.0, euclidean_distances(ops.cast(features, "float32")))
    same = ops.equal(labels[:, None], labels[None, :])
    different = ops.logical_not(same)
    valid = ops.logical_and(ops.sum(ops.cast(same, "int32"), axis=1) > 1, ops.any(different, axis=1))
    return (
        _weighted_mean(distances, alpha * distances, same),
        _weighted_mean(distances, -alpha * distances, different),
        valid,
    )


def _weighted_mean(distances: keras.KerasTensor, scores: keras.KerasTensor, mask: Any) -> keras.KerasTensor:
    """Mean (N,) of the masked distances with the softmax of their scores as weights; 0 where the mask is empty."""
    largest = ops.max(ops.where(mask, scores, -inf), axis=1, keepdims=True)
    weights = ops.exp(ops.where(mask, scores - ops.stop_gradient(largest), -inf))
    total = ops.maximum(ops.sum(weights, axis=1), 1.0)  # the largest weight is 1
    return ops.sum(weights * distances, axis=1) / total
