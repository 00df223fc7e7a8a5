import keras
from keras import ops


def logit_distillation(
    logits: keras.KerasTensor, teacher_logits: keras.KerasTensor, temperature: float = 4.0
) -> keras.KerasTensor:
    """KL divergence from the student's to the teacher's softened classes, T^2 * KL(p_t || p_s), mean over the batch.

    p = softmax(logits / T). The factor T^2 keeps the size of the gradient where T changes (Hinton et al., Distilling
    the Knowledge in a Neural Network, 2015, section 2). No gradient reaches the teacher.

    Args:
        logits: Of the student, (N, C), any floating type; the loss is computed in float32.
        teacher_logits: (N, C) of the same classes.
        temperature: T, more than 0.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: `temperature` is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature: expected more than 0, received {temperature}")
    student = ops.log_softmax(ops.cast(logits, "float32") / temperature, axis=1)
    taught = ops.cast(ops.stop_gradient(ops.convert_to_tensor(teacher_logits)), "float32")
    teacher = ops.log_softmax(taught / temperature, axis=1)
    return temperature**2 * ops.mean(ops.sum(ops.exp(teacher) * (teacher - student), axis=1))
