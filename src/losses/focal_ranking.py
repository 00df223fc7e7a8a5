import keras
from keras import ops

from src.losses._pairs import cosine_distances, masked_mean, pair_masks

_FAR = 1e9  # stands for "no such pair" in a minimum


def focal_ranking(
    features: keras.KerasTensor,
    labels: keras.KerasTensor,
    teacher_embedding: keras.KerasTensor,
    modalities: keras.KerasTensor | None = None,
    margin: float = 0.3,
    focus: float = 2.0,
    temperature: float = 0.1,
    teacher_margin: float = 1.0,
) -> keras.KerasTensor:
    """Rank the hardest triplet of each image as the teacher ranks it: w * max(0, margin - m) + a * max(0, m_t - m).

    The student mines: its least similar image of the person and its most similar image of another one. m is the
    difference of their cosines to the anchor, m_t the teacher's on the same three images, and
    w = (1 - sigmoid(m / temperature))^focus, without a gradient, is near 1 where the student ranks them wrongly and
    near 0 where it is sure, as in the focal loss (Lin et al., 2017). Where a batch holds visible and thermal images,
    triplets go across: visible anchors rank thermal images and thermal anchors visible ones. Mean over the anchors that
    have both; a batch without one has zero loss and zero gradient. No gradient reaches the teacher.

    Args:
        features: Of the student, (N, D), any floating type; the loss is computed in float32.
        labels: Identities, integers (N,).
        teacher_embedding: (N, D of the teacher).
        modalities: Integers (N,); None means one for all.
        margin: Of the cosines, in [0, 2].
        focus: Power of the weight, 0 or more; 0 weighs all triplets alike.
        temperature: Of the weight, more than 0: the cosine margin at which the student starts to be sure.
        teacher_margin: a, 0 or more; 0 leaves the teacher out.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: `focus`, `temperature` or `teacher_margin` is out of range.
    """
    if focus < 0 or temperature <= 0 or teacher_margin < 0:
        raise ValueError(
            "focus, temperature, teacher_margin: expected 0 or more, more than 0, and 0 or more, received "
            f"{focus}, {temperature} and {teacher_margin}"
        )
    similar = 1.0 - cosine_distances(ops.cast(features, "float32"))  # (N, N)
    taught = 1.0 - cosine_distances(ops.cast(ops.stop_gradient(teacher_embedding), "float32"))
    positive, negative = _pairs(ops.convert_to_tensor(labels), modalities)
    farthest = ops.argmin(ops.where(positive, similar, _FAR), axis=1)[:, None]  # (N, 1)
    nearest = ops.argmax(ops.where(negative, similar, -_FAR), axis=1)[:, None]
    own, teachers = (
        (ops.take_along_axis(matrix, farthest, axis=1) - ops.take_along_axis(matrix, nearest, axis=1))[:, 0]
        for matrix in (similar, taught)
    )
    weights = ops.stop_gradient(ops.power(ops.sigmoid(-own / temperature), focus))
    losses = weights * ops.relu(margin - own) + teacher_margin * ops.relu(teachers - own)
    return masked_mean(losses, ops.logical_and(ops.any(positive, axis=1), ops.any(negative, axis=1)))


def _pairs(
    labels: keras.KerasTensor, modalities: keras.KerasTensor | None
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Positive and negative pairs, booleans (N, N); across modalities only, where there are two."""
    positive, negative = pair_masks(labels)
    if modalities is None:
        return positive, negative
    modalities = ops.convert_to_tensor(modalities)
    across = ops.not_equal(modalities[:, None], modalities[None, :])
    counted = ops.logical_or(across, ops.logical_not(ops.any(across)))
    return ops.logical_and(positive, counted), ops.logical_and(negative, counted)
