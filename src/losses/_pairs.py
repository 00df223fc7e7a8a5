"""Distances and masks over all pairs of a batch. All of them are N x N and assume nothing about its order."""

from collections.abc import Callable

import keras
from keras import ops


def euclidean_distances(features: keras.KerasTensor) -> keras.KerasTensor:
    """Return the plain Euclidean distances (N, N) of features (N, D); the gradient at distance 0 is 0."""
    squares = ops.sum(ops.square(features), axis=1)
    products = ops.matmul(features, ops.transpose(features))
    squared = squares[:, None] + squares[None, :] - 2.0 * products
    return ops.sqrt(ops.maximum(squared, 1e-12))  # sqrt has no gradient at 0


def cosine_distances(features: keras.KerasTensor) -> keras.KerasTensor:
    """Return 1 - cosine, in [0, 2], (N, N) of features (N, D); a zero vector has distance 1 to all."""
    lengths = ops.sqrt(ops.maximum(ops.sum(ops.square(features), axis=1, keepdims=True), 1e-12))
    unit = features / lengths
    return 1.0 - ops.matmul(unit, ops.transpose(unit))


DISTANCES: dict[str, Callable[[keras.KerasTensor], keras.KerasTensor]] = {
    "euclidean": euclidean_distances,
    "cosine": cosine_distances,
}


def pair_masks(labels: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return the positive pairs (same identity, two images) and the negatives: booleans (N, N)."""
    same = ops.equal(labels[:, None], labels[None, :])
    itself = ops.cast(ops.eye(ops.shape(labels)[0]), "bool")
    return ops.logical_and(same, ops.logical_not(itself)), ops.logical_not(same)


def cross_modal_masks(
    labels: keras.KerasTensor, modalities: keras.KerasTensor
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return the pairs of two modalities that show one identity, and those that show two: booleans (N, N)."""
    labels, modalities = ops.convert_to_tensor(labels), ops.convert_to_tensor(modalities)
    same = ops.equal(labels[:, None], labels[None, :])
    across = ops.not_equal(modalities[:, None], modalities[None, :])
    return ops.logical_and(same, across), ops.logical_and(ops.logical_not(same), across)


def masked_mean(values: keras.KerasTensor, mask: keras.KerasTensor) -> keras.KerasTensor:
    """Return the mean of the values where the mask holds; 0, with zero gradient, where it holds nowhere."""
    count = ops.sum(ops.cast(mask, values.dtype))
    return ops.sum(ops.where(mask, values, 0.0)) / ops.maximum(count, 1.0)
