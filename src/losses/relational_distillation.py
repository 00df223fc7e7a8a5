import keras
from keras import ops

from src.losses._pairs import cosine_distances

_FAR = 1e9  # an image is not compared with itself


def relational_distillation(
    features: keras.KerasTensor, teacher_embedding: keras.KerasTensor, temperature: float = 0.1
) -> keras.KerasTensor:
    """KL divergence between whom teacher and student find similar to each image of the batch, mean over the images.

    Row i of the cosines of all pairs, over the temperature, is made a distribution over the other images by a softmax;
    the loss is KL(teacher's || student's) (Fang et al., SEED: Self-supervised Distillation, 2021, equation 3, with the
    batch in place of a queue). Only similarities are compared, so widths and bases may differ. No gradient reaches the
    teacher; a batch of one image has zero loss.

    Args:
        features: Of the student, (N, D), any floating type; the loss is computed in float32.
        teacher_embedding: (N, D of the teacher).
        temperature: Of the cosines, more than 0; small ones look at the nearest images only.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: `temperature` is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature: expected more than 0, received {temperature}")
    student = _log_rows(features, temperature)
    teacher = ops.stop_gradient(_log_rows(teacher_embedding, temperature))
    return ops.mean(ops.sum(ops.exp(teacher) * (teacher - student), axis=1))


def _log_rows(vectors: keras.KerasTensor, temperature: float) -> keras.KerasTensor:
    """Log probabilities (N, N) with which each image finds each other one similar; of itself very small."""
    similar = (1.0 - cosine_distances(ops.cast(vectors, "float32"))) / temperature
    return ops.log_softmax(similar - _FAR * ops.eye(ops.shape(similar)[0]), axis=1)
