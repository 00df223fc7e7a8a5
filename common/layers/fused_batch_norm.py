"""Batch normalization on TensorFlow's fused kernel."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="common")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` computed by one kernel, for images in NHWC.

    Keras 3 on TensorFlow computes mean, variance and scale as separate operations, which costs a CPU up to
    half of its training speed. Arguments, weights, moving statistics (biased variance) and outputs are the
    parent's; inputs that the kernel does not know (not 4-D, masked, `renorm`, `synchronized`, float64) go to
    the parent. It is the one layer here that is not written with `keras.ops` alone, so saved files do not
    hold it: see `common.layers.rewrite`.

    Input and output: `(N, H, W, C)`, in float32, bfloat16 or float16; statistics are float32.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize; a layer that is not `trainable` uses its moving statistics, as the parent does."""
        if not self._kernel_knows(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        scale = tf.convert_to_tensor(self.gamma) if self.scale else tf.ones_like(self.moving_mean)
        offset = tf.convert_to_tensor(self.beta) if self.center else tf.zeros_like(self.moving_mean)
        is_training = bool(training) and self.trainable
        # The raw operation: tf.nn.fused_batch_norm raises an epsilon of 1e-5 to 1.001e-5.
        result = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=scale,
            offset=offset,
            mean=tf.zeros([0]) if is_training else tf.convert_to_tensor(self.moving_mean),
            variance=tf.zeros([0]) if is_training else tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            is_training=is_training,
        )
        if is_training:
            count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], "float32")  # N*H*W
            # The kernel returns the unbiased variance, count / (count - 1) times what Keras averages.
            self._move(self.moving_mean, result.batch_mean)
            self._move(self.moving_variance, result.batch_variance * ((count - 1.0) / count))
        return result.y

    def _kernel_knows(self, inputs: Any, mask: Any) -> bool:
        return (
            len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and mask is None
            and not self.renorm
            and not self.synchronized
            and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "bfloat16", "float16")
        )

    def _move(self, statistic: Any, value: Any) -> None:
        value = tf.stop_gradient(value)
        statistic.assign(statistic * self.momentum + value * (1.0 - self.momentum))
