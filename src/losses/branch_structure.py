from typing import Literal

import keras
from keras import ops

from src.losses._divergences import nearness, symmetric_divergence
from src.losses._pairs import masked_mean


def branch_structure(
    features: keras.KerasTensor,
    specific_features: keras.KerasTensor,
    modalities: keras.KerasTensor,
    temperature: float = 0.1,
    distance_metric: Literal["cosine", "euclidean"] = "cosine",
    stop_gradient: bool = False,
) -> keras.KerasTensor:
    """Triplet-graph structure alignment between branches: an image has the same neighbours in both.

    Symmetric KL divergence of softmax(-distance / temperature) over the other images of the modality, mean over images
    (Ren and Zhang, IDKL, CVPR 2024; the published code leaves the minus out). An image without another
    one of its modality counts nowhere; a batch of such images has zero loss and zero gradient.

    Args:
        features: Of the shared branch (N, D), any floating type; the loss is computed in float32.
        specific_features: Of the specific branch (N, E).
        modalities: Integers (N,); images of equal numbers are of one modality.
        temperature: In units of the distance, more than 0.
        distance_metric: `cosine` is 1 - cosine, in [0, 2]; `euclidean` does not normalize the features.
        stop_gradient: Whether the specific branch only teaches; by default each follows the other, as published.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: unknown distance, or a temperature that is not positive.
    """
    modalities = ops.convert_to_tensor(modalities)
    taught = nearness(features, temperature, distance_metric)
    teaching = nearness(specific_features, temperature, distance_metric)
    if stop_gradient:
        teaching = ops.stop_gradient(teaching)
    itself = ops.cast(ops.eye(ops.shape(modalities)[0]), "bool")
    others = ops.logical_and(ops.equal(modalities[:, None], modalities[None, :]), ops.logical_not(itself))
    return masked_mean(symmetric_divergence(taught, teaching, others), ops.any(others, axis=1))
