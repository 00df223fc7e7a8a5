import keras

from src.losses.cross_entropy import cross_entropy


def modality_confusion(
    confusion_logits: keras.KerasTensor, modalities: keras.KerasTensor
) -> keras.KerasTensor:
    """Cross-entropy of the modality that is told from the shared branch, which is to hide it.

    The network reverses the gradient before this classifier (`common/layers/gradient_reversal.py`): it learns to tell
    the modality, while the branch learns that it cannot; ln 2 = 0.69 says that it cannot. Its targets are the true
    modalities. With uniform targets, or with the pseudo-labels of IDKL's published code, half of which are wrong, a
    classifier that answers 1/2 to everything is optimal, and the branch learns nothing from it.

    Args:
        confusion_logits: (N, 2), any floating type; the loss is computed in float32.
        modalities: Integers (N,), 0 for visible and 1 for thermal images.

    Returns:
        A float32 scalar.
    """
    return cross_entropy(confusion_logits, modalities, label_smoothing=0.0)
