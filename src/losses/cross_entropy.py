import keras
from keras import ops


def cross_entropy(
    logits: keras.KerasTensor, labels: keras.KerasTensor, label_smoothing: float = 0.1
) -> keras.KerasTensor:
    """Softmax cross-entropy with label smoothing, mean over the batch.

    The target is (1 - s) * one_hot + s / C, with C identities (Szegedy et al., Rethinking the Inception
    Architecture, 2016, section 7).

    Args:
        logits: (N, C), any floating type; the loss is computed in float32.
        labels: Identities in [0, C), integers (N,).
        label_smoothing: s, in [0, 1).

    Returns:
        A float32 scalar.

    Raises:
        ValueError: `label_smoothing` is out of range.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing: expected a number in [0, 1), received {label_smoothing}")
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=1)  # (N, C)
    of_label = ops.take_along_axis(log_probabilities, ops.cast(labels, "int32")[:, None], axis=1)[:, 0]
    of_all = ops.mean(log_probabilities, axis=1)
    return -ops.mean((1.0 - label_smoothing) * of_label + label_smoothing * of_all)
