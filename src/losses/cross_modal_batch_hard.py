import keras
from keras import ops

from src.losses._pairs import cross_modal_masks, euclidean_distances, masked_mean

_FAR = 1e9  # stands for "no such pair" in a minimum


def cross_modal_batch_hard(
    features: keras.KerasTensor, labels: keras.KerasTensor, modalities: keras.KerasTensor, margin: float = 0.3
) -> keras.KerasTensor:
    """Batch-hard triplet loss whose positives and negatives are of the other modality than the anchor.

    max(0, margin + farthest positive - nearest negative) with Euclidean distances, mean over the anchors of either
    modality that have both: thermal anchors rank visible images and visible anchors thermal ones (Ye et al., Visible
    Thermal Person Re-Identification via Dual-Constrained Top-Ranking, IJCAI 2018, equation 5; mining of Hermans et al.,
    2017). Pairs within a modality are left to `triplet`, which takes all pairs of the batch.

    A batch without such an anchor has zero loss and zero gradient.

    Args:
        features: (N, D), any floating type; the loss is computed in float32.
        labels: Identities, integers (N,).
        modalities: Integers (N,); images of equal numbers are of one modality.
        margin: In units of the distance.

    Returns:
        A float32 scalar.
    """
    distances = euclidean_distances(ops.cast(features, "float32"))  # (N, N)
    positive, negative = cross_modal_masks(labels, modalities)
    farthest_positive = ops.max(ops.where(positive, distances, -_FAR), axis=1)  # (N,)
    nearest_negative = ops.min(ops.where(negative, distances, _FAR), axis=1)
    valid = ops.logical_and(ops.any(positive, axis=1), ops.any(negative, axis=1))
    return masked_mean(ops.relu(margin + farthest_positive - nearest_negative), valid)
