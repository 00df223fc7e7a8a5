import keras
from keras import ops

from src.losses._means_where import means_where
from src.losses._pairs import cross_modal_masks


def hetero_center(
    features: keras.KerasTensor, labels: keras.KerasTensor, modalities: keras.KerasTensor
) -> keras.KerasTensor:
    """Squared distance of an identity's visible and thermal centers, mean over the identities that have both.

    |c_visible - c_thermal|^2 with the centers of the batch (Zhu et al., Hetero-Center Loss for Cross-Modality Person
    Re-Identification, 2020, equation 4, which sums over the identities).

    A batch without an identity in both modalities has zero loss and zero gradient.

    Args:
        features: (N, D), any floating type; the loss is computed in float32.
        labels: Identities, integers (N,).
        modalities: Integers (N,); images of equal numbers are of one modality, and there are two.

    Returns:
        A float32 scalar.
    """
    features, labels = ops.cast(features, "float32"), ops.convert_to_tensor(labels)
    other, _ = cross_modal_masks(labels, modalities)
    same = ops.equal(labels[:, None], labels[None, :])
    own = ops.logical_and(same, ops.logical_not(other))
    gaps = ops.sum(ops.square(means_where(features, own) - means_where(features, other)), axis=1)  # (N,)
    # Each image counts as its share of its identity, so that each identity counts once.
    shares = ops.cast(ops.any(other, axis=1), "float32") / ops.sum(ops.cast(same, "float32"), axis=1)
    return ops.sum(gaps * shares) / ops.maximum(ops.sum(shares), 1.0)
