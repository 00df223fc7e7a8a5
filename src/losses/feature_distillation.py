import keras
from keras import ops

_SMALLEST = 1e-12  # squared length


def feature_distillation(
    projected: keras.KerasTensor, teacher_embedding: keras.KerasTensor
) -> keras.KerasTensor:
    """1 - cosine of the student's projected embedding and the teacher's, mean over the batch.

    That is half the squared distance of the two at length 1. Teacher and student have bases of their own, so that their
    coordinates mean nothing to one another: the student's go through a linear projection that is trained with it and
    not kept (Romero et al., FitNets, 2015, section 2.2, whose regressor is a convolution). No gradient reaches the
    teacher.

    Args:
        projected: (N, D), the student's embedding in the teacher's dimensions; any floating type.
        teacher_embedding: (N, D).

    Returns:
        A float32 scalar in [0, 2].
    """
    taught = ops.stop_gradient(ops.convert_to_tensor(teacher_embedding))
    return ops.mean(1.0 - ops.sum(_unit(projected) * _unit(taught), axis=1))


def _unit(vectors: keras.KerasTensor) -> keras.KerasTensor:
    vectors = ops.cast(vectors, "float32")
    return vectors * ops.rsqrt(ops.maximum(ops.sum(ops.square(vectors), axis=1, keepdims=True), _SMALLEST))
