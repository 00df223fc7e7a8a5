"""Convolution whose kernel has its gradient from matrix products."""

from typing import Any

import keras
import tensorflow as tf

_WIDE = 512  # channels from which on nine products are faster for 3x3 kernels; measured with AMX


@keras.saving.register_keras_serializable(package="common")
class MatmulGradientConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` that trains faster in bfloat16: gradients of kernels are matrix products.

    On a CPU the kernel that TensorFlow has for this gradient takes 2 to 5 times as long in bfloat16. It concerns 1x1
    convolutions, and 3x3 ones of 512 channels and more with stride 1 and padding `same`. Arguments, weights and outputs
    are the parent's, and so is everything in other precisions and for other kernels. Saved files do not hold it: see
    `common.layers.rewrite`.

    Input: `(N, H, W, C)`. Output: `(N, h, w, D)`.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolve."""
        if not self._gains() or keras.backend.standardize_dtype(inputs.dtype) != "bfloat16":
            return super().convolution_op(inputs, kernel)
        return _convolve(inputs, tf.convert_to_tensor(kernel), self.strides)

    def _gains(self) -> bool:
        if self.groups != 1 or self.data_format != "channels_last":
            return False
        if self.kernel_size == (1, 1):
            return True
        is_plain = self.strides == (1, 1) and self.dilation_rate == (1, 1) and self.padding == "same"
        return self.kernel_size == (3, 3) and is_plain and self.kernel.shape[2] >= _WIDE


def _convolve(inputs: Any, kernel: Any, strides: tuple[int, int]) -> Any:
    @tf.custom_gradient
    def convolve(x: Any, k: Any) -> Any:
        def gradient(dy: Any) -> tuple[Any, Any]:
            dx = tf.compat.v1.nn.conv2d_backprop_input(tf.shape(x), k, dy, [1, *strides, 1], "SAME")
            return dx, _kernel_gradient(x, dy, k.shape, strides)

        return tf.nn.conv2d(x, k, strides, "SAME"), gradient

    return convolve(inputs, kernel)


def _kernel_gradient(x: Any, dy: Any, shape: Any, strides: tuple[int, int]) -> Any:
    """(N, H, W, C) and (N, h, w, D) to (k, k, C, D): each position of the kernel saw a part of the padded image."""
    size, channels, filters = shape[0], shape[2], shape[3]
    height, width = tf.shape(x)[1], tf.shape(x)[2]
    margin = [size // 2, size // 2]
    padded = tf.pad(x, [[0, 0], margin, margin, [0, 0]]) if size > 1 else x
    rows = tf.reshape(dy, (-1, filters))
    products = []
    for top in range(size):
        for left in range(size):
            seen = padded[:, top : top + height : strides[0], left : left + width : strides[1]]
            products.append(tf.matmul(tf.reshape(seen, (-1, channels)), rows, transpose_a=True))
    return tf.reshape(tf.stack(products), shape)
