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
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"), axis=1)  # (N, C)
    probabilities = ops.exp(log_probabilities)
    own = ops.sum(probabilities * log_probabilities, axis=1)
    crossed = ops.matmul(probabilities, ops.transpose(log_probabilities))  # (N, N)
    divergences = own[:, None] + own[None, :] - crossed - ops.transpose(crossed)
    return masked_mean(divergences, cross_modal_masks(labels, modalities)[0])
