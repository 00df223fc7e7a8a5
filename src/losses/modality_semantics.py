import keras
from keras import ops

from src.losses._pairs import cross_modal_masks, masked_mean


def modality_semantics(
    logits: keras.KerasTensor, labels: keras.KerasTensor, modalities: keras.KerasTensor
) -> keras.KerasTensor:
    """Class-semantic alignment between modalities: images of an identity are classified alike in both.

    Symmetric KL divergence of the class probabilities of two images of one identity in different modalities, mean over
    all such pairs of the batch (Ren and Zhang, IDKL, CVPR 2024, which pairs images by their place in the
    batch). A batch without such a pair has zero loss and zero gradient.

    Args:
        logits: (N, C), any floating type; the loss is computed in float32.
        labels: Identities, integers (N,).
        modalities: Integers (N,); images of equal numbers are of one modality.

    Returns:
        A float32 scalar.
    """
    logits = ops.cast(logits, "float32")
    probabilities = ops.softmax(logits, axis=1)  # (N, C)
    # (p - q) * (log p - log q): what a row has in common drops out, and without it less is lost to rounding.
    scores = logits - ops.mean(logits, axis=1, keepdims=True)
    own = ops.sum(probabilities * scores, axis=1)
    crossed = ops.matmul(probabilities, ops.transpose(scores))  # (N, N)
    divergences = own[:, None] + own[None, :] - crossed - ops.transpose(crossed)
    return masked_mean(divergences, cross_modal_masks(labels, modalities)[0])
