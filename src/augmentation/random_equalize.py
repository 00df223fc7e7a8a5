from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation
from src.augmentation._histogram import histogram, values


def random_equalize(change_rate: float = 0.25) -> Augment:
    """Give all values of a channel about the same number of pixels, as Pillow does.

    Args:
        change_rate: Share of the images that are changed.
    """

    def change(images: Any, seed: Any) -> Any:
        counts = histogram(images)  # (N, C, 256)
        brightest = tf.reduce_max(tf.where(counts > 0, tf.range(256), 0), axis=-1, keepdims=True)
        pixels = tf.reduce_sum(counts, axis=-1, keepdims=True)
        step = (pixels - tf.gather(counts, brightest, batch_dims=2)) // 255
        below = tf.cumsum(counts, axis=-1, exclusive=True)
        table = tf.where(step > 0, (step // 2 + below) // tf.maximum(step, 1), tf.range(256))
        equalized = tf.gather(tf.cast(tf.minimum(table, 255), tf.float32), values(images), batch_dims=2)
        return tf.transpose(equalized, (0, 2, 3, 1))

    return augmentation("random_equalize", change, change_rate, "colour")
