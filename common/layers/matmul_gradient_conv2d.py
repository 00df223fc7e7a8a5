"""1x1 convolution whose kernel has its gradient from a matrix product."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="common")
class MatmulGradientConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` that trains faster in bfloat16: a 1x1 kernel's gradient is a matrix product.

    On a CPU the kernel that TensorFlow has for this gradient takes 2 to 5 times as long in bfloat16. Arguments, weights
    and outputs are the parent's, and so is everything in other precisions and for other kernels. Saved files do not
    hold it: see `common.layers.rewrite`.

    Input: `(N, H, W, C)`. Output: `(N, h, w, D)`.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolve."""
        is_pointwise = self.kernel_size == (1, 1) and self.groups == 1 and self.data_format == "channels_last"
        if not is_pointwise or keras.backend.standardize_dtype(inputs.dtype) != "bfloat16":
            return super().convolution_op(inputs, kernel)
        return _convolve(inputs, tf.convert_to_tensor(kernel), self.strides)


def _convolve(inputs: Any, kernel: Any, strides: tuple[int, int]) -> Any:
    @tf.custom_gradient
    def convolve(x: Any, k: Any) -> Any:
        def gradient(dy: Any) -> tuple[Any, Any]:
            dx = tf.compat.v1.nn.conv2d_backprop_input(tf.shape(x), k, dy, [1, *strides, 1], "VALID")
            seen = x[:, :: strides[0], :: strides[1]]  # (N, h, w, C)
            columns, rows = (tf.reshape(values, (-1, values.shape[-1])) for values in (seen, dy))
            return dx, tf.reshape(tf.matmul(columns, rows, transpose_a=True), k.shape)

        return tf.nn.conv2d(x, k, strides, "VALID"), gradient

    return convolve(inputs, kernel)
