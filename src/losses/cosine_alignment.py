import keras
from keras import ops

from src.losses._pairs import cosine_distances, cross_modal_masks, masked_mean


def cosine_alignment(
    features: keras.KerasTensor, labels: keras.KerasTensor, modalities: keras.KerasTensor
) -> keras.KerasTensor:
    """1 - cosine of two images of one identity in different modalities, mean over all such pairs of the batch.

    It pulls only: without a loss that pushes identities apart, equal features for all are its minimum. A batch without
    such a pair has zero loss and zero gradient.

    Args:
        features: (N, D), any floating type; the loss is computed in float32.
        labels: Identities, integers (N,).
        modalities: Integers (N,); images of equal numbers are of one modality.

    Returns:
        A float32 scalar in [0, 2].
    """
    positive, _ = cross_modal_masks(labels, modalities)
    return masked_mean(cosine_distances(ops.cast(features, "float32")), positive)
