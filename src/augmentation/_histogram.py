from typing import Any

import tensorflow as tf


def values(images: Any) -> Any:
    """Round to whole values, channels first: float (N, H, W, C) -> int32 (N, C, H, W)."""
    return tf.cast(tf.round(tf.transpose(images, (0, 3, 1, 2))), tf.int32)


def histogram(images: Any) -> Any:
    """Count the pixels of each value: float (N, H, W, C) in [0, 255] -> int32 (N, C, 256)."""
    shape = tf.shape(images)
    # (N, H, W, C) -> (N * C, H * W)
    pixels = tf.reshape(values(images), (shape[0] * shape[3], shape[1] * shape[2]))
    counts = tf.math.bincount(pixels, minlength=256, maxlength=256, axis=-1)
    return tf.reshape(counts, (shape[0], shape[3], 256))
