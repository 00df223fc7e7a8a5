import keras
from keras import ops

_LIMITS = (1e-12, 1e12)  # keeps the loss finite where features diverge


def center_loss(
    features: keras.KerasTensor, labels: keras.KerasTensor, centers: keras.KerasTensor
) -> keras.KerasTensor:
    """Squared Euclidean distance of each image to the center of its identity, mean over the batch.

    The centers are constants here: no gradient reaches them. They follow the features by `moved_centers` of
    `src.losses._centers` (Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV 2016,
    equations 2 to 4, without the factor of a half; mean and limits as in Luo et al., Bag of Tricks, 2019, who weight it
    by 0.0005).

    Args:
        features: (N, D), any floating type; the loss is computed in float32.
        labels: Identities in [0, C), integers (N,).
        centers: Float32 (C, D).

    Returns:
        A float32 scalar.
    """
    own = ops.take(ops.stop_gradient(ops.convert_to_tensor(centers)), ops.cast(labels, "int32"), axis=0)
    squared = ops.sum(ops.square(ops.cast(features, "float32") - own), axis=1)
    return ops.mean(ops.clip(squared, *_LIMITS))
