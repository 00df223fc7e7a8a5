import keras

from src.losses.cross_entropy import cross_entropy


def modality_classification(
    modality_logits: keras.KerasTensor, modalities: keras.KerasTensor
) -> keras.KerasTensor:
    """Cross-entropy of the modality that is told from the specific branch, which is to know it.

    Args:
        modality_logits: (N, 2), any floating type; the loss is computed in float32.
        modalities: Integers (N,), 0 for visible and 1 for thermal images.

    Returns:
        A float32 scalar.
    """
    return cross_entropy(modality_logits, modalities, label_smoothing=0.0)
