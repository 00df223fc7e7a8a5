import keras
from keras import ops

from src.losses._divergences import symmetric_divergence


def branch_semantics(
    logits: keras.KerasTensor, specific_logits: keras.KerasTensor, stop_gradient: bool = False
) -> keras.KerasTensor:
    """Class-semantic alignment between branches: both classify an image alike.

    Symmetric KL divergence of the class probabilities, mean over the batch (Ren and Zhang, IDKL, CVPR 2024).

    Args:
        logits: Of the shared branch (N, C), any floating type; the loss is computed in float32.
        specific_logits: Of the specific branch (N, C).
        stop_gradient: Whether the specific branch only teaches; by default each follows the other, as published.

    Returns:
        A float32 scalar.
    """
    teaching = ops.cast(specific_logits, "float32")
    if stop_gradient:
        teaching = ops.stop_gradient(teaching)
    return ops.mean(symmetric_divergence(ops.cast(logits, "float32"), teaching))
