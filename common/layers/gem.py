"""Generalized-mean pooling."""

from typing import Any

import keras
from keras import ops

SMALLEST = 1e-6
_EXPONENTS = (1.0, 10.0)  # the mean, and nearly the maximum


@keras.saving.register_keras_serializable(package="common")
class GeM(keras.layers.Layer):
    """Pool a map by its generalized mean, (mean(x^p))^(1/p): the mean for p = 1, towards the maximum for large p.

    Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, 2019. Computed in float32, relative to
    each channel's maximum: x^3 of a trained network overflows float16. Values below `smallest` count as that.

    Input: `(N, H, W, C)`, after a ReLU. Output: `(N, C)`, or `(N, 1, 1, C)` with `keepdims`.

    Args:
        p: Exponent, 1 to 10.
        learned: Whether p is a weight, which training may move within [1, 10].
        keepdims: Whether the output stays a map.
        smallest: What a channel that is 0 everywhere pools to.

    Raises:
        ValueError: `p` is out of range.
    """

    def __init__(
        self,
        p: float = 3.0,
        learned: bool = False,
        keepdims: bool = False,
        smallest: float = SMALLEST,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not _EXPONENTS[0] <= p <= _EXPONENTS[1]:
            raise ValueError(f"GeM: p must be from 1 to 10, received {p}")
        self.initial_p, self.learned, self.keepdims, self.smallest = p, learned, keepdims, smallest
        self.p: Any = p

    def build(self, input_shape: Any) -> None:
        """Make the weight of a learned exponent."""
        if self.learned:
            start = keras.initializers.Constant(self.initial_p)
            self.p = self.add_weight(shape=(), initializer=start, name="p", dtype="float32")

    def call(self, inputs: Any) -> Any:
        """Pool; the result has the type of the input."""
        return generalized_mean(inputs, self.p, self.keepdims, self.smallest)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """`(N, C)`, or `(N, 1, 1, C)`."""
        batch, _, _, channels = input_shape
        return (batch, 1, 1, channels) if self.keepdims else (batch, channels)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "p": self.initial_p,
            "learned": self.learned,
            "keepdims": self.keepdims,
            "smallest": self.smallest,
        }


def generalized_mean(maps: Any, p: Any, keepdims: bool, smallest: float) -> Any:
    """What `GeM` computes: (N, H, W, C) to (N, C); p is a number or a scalar tensor."""
    # This is maximum(maps, smallest), which TFLite would compute on the map's int8 grid, where the smallest is 0.
    values = ops.relu(ops.cast(maps, "float32") - smallest) + smallest
    # The result does not depend on the scale that is divided and multiplied by: it needs no gradient.
    largest = ops.stop_gradient(ops.max(values, axis=(1, 2), keepdims=True))
    exponent = ops.clip(ops.cast(p, "float32"), *_EXPONENTS)
    means = ops.mean(ops.power(values / largest, exponent), axis=(1, 2), keepdims=True)
    pooled = ops.cast(largest * ops.power(means, 1.0 / exponent), maps.dtype)
    return pooled if keepdims else ops.squeeze(pooled, axis=(1, 2))
