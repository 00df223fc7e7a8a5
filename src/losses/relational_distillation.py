import keras
from keras import ops

from src.losses._pairs import cosine_distances

_FAR = 1e9  # what is left out of a softmax
_SAME = 1e-5  # 1 - cosine, less than which float32 does not tell two embeddings apart


def relational_distillation(
    features: keras.KerasTensor,
    teacher_embedding: keras.KerasTensor,
    modalities: keras.KerasTensor | None = None,
    temperature: float = 0.1,
) -> keras.KerasTensor:
    """KL divergence between whom teacher and student find similar to each image of the batch, mean over the images.

    Row i of the cosines of all pairs, over the temperature, is made a distribution over the other images by a softmax;
    the loss is KL(teacher's || student's) (Fang et al., SEED: Self-supervised Distillation, 2021, equation 3, with the
    batch in place of a queue). Left out as the image itself is what has the same embedding of the teacher: further
    views of one photo, of which a cached teacher has seen one, would take most of the distribution.

    Where a batch holds visible and thermal images, each image has a distribution over those of either modality, and the
    loss is the mean of both: the student learns whom the teacher finds similar in a modality, and not that images of
    the other one are farther away. Only similarities are compared, so widths and bases may differ. No gradient reaches
    the teacher; a batch of one image has zero loss.

    Args:
        features: Of the student, (N, D), any floating type; the loss is computed in float32.
        teacher_embedding: (N, D of the teacher).
        modalities: 0 or 1, integers (N,); None means one for all.
        temperature: Of the cosines, more than 0; small ones look at the nearest images only.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: `temperature` is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature: expected more than 0, received {temperature}")
    student, teacher = (
        (1.0 - cosine_distances(ops.cast(vectors, "float32"))) / temperature
        for vectors in (features, ops.stop_gradient(teacher_embedding))
    )  # (N, N)
    count = ops.shape(student)[0]
    others = temperature * teacher < 1.0 - _SAME
    others = ops.logical_and(others, ops.logical_not(ops.eye(count, dtype="bool")))
    numbers = ops.zeros(count, "int32") if modalities is None else ops.convert_to_tensor(modalities)
    seen = [ops.equal(numbers, number) for number in (0, 1)]
    terms = [_divergence(student, teacher, ops.logical_and(others, columns[None, :])) for columns in seen]
    present = [ops.cast(ops.any(columns), "float32") for columns in seen]
    return (present[0] * terms[0] + present[1] * terms[1]) / (present[0] + present[1])


def _divergence(
    student: keras.KerasTensor, teacher: keras.KerasTensor, others: keras.KerasTensor
) -> keras.KerasTensor:
    """Mean KL of the softmax over the others, booleans (N, N), of the rows of (N, N)."""
    own, taught = (
        ops.log_softmax(ops.where(others, rows, rows - _FAR), axis=1) for rows in (student, teacher)
    )
    return ops.mean(ops.sum(ops.exp(taught) * (taught - own), axis=1))
