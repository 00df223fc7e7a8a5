import keras
from keras import ops


def means_where(features: keras.KerasTensor, mask: keras.KerasTensor) -> keras.KerasTensor:
    """Return for each row of the mask (N, M) the mean of the features (M, D) that it holds; 0 where it is empty."""
    weights = ops.cast(mask, "float32")
    return ops.matmul(weights, features) / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1.0)
