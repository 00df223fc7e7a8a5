import keras
from keras import ops


def moved_centers(
    centers: keras.KerasTensor, features: keras.KerasTensor, labels: keras.KerasTensor, rate: float = 0.5
) -> keras.KerasTensor:
    """Return the centers after a batch: c - rate * sum(c - x) / (1 + n) over the n images x of the identity.

    The 1 keeps a center from jumping to a single image (Wen et al., ECCV 2016, equation 4). Identities that are not in
    the batch keep their centers.

    Args:
        centers: Float32 (C, D), zeros at first.
        features: (N, D).
        labels: Identities in [0, C), integers (N,).
        rate: In [0, 1].
    """
    members = ops.one_hot(ops.cast(labels, "int32"), ops.shape(centers)[0], dtype="float32")  # (N, C)
    counts = ops.sum(members, axis=0)[:, None]
    sums = ops.matmul(ops.transpose(members), ops.cast(features, "float32"))  # (C, D)
    return centers - rate * (counts * centers - sums) / (1.0 + counts)
