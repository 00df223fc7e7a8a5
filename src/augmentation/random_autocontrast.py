from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation, scaled
from src.augmentation._histogram import histogram
from src.augmentation._ranges import as_range


def random_autocontrast(cutoff: float = 10, change_rate: float = 0.25) -> Augment:
    """Stretch each channel so that its darkest value becomes 0 and its brightest 255, as Pillow does.

    Args:
        cutoff: Percentage of the darkest and of the brightest pixels to leave out of account, 0 to 49.
        change_rate: Share of the images that are changed.
    """
    percentage, _ = as_range("random_autocontrast", "cutoff", cutoff, "fixed", low=0, high=49)

    def change(images: Any, seed: Any) -> Any:
        shape = tf.shape(images)
        cut = tf.cast(tf.cast(shape[1] * shape[2], tf.float32) * percentage / 100, tf.int32)
        counts = histogram(images)
        # The lowest value with more than `cut` pixels up to it, and the same from above: (N, 1, 1, C).
        low = tf.reduce_sum(tf.cast(tf.cumsum(counts, -1) <= cut, tf.float32), -1)[:, None, None]
        high = 255 - tf.reduce_sum(tf.cast(tf.cumsum(counts, -1, reverse=True) <= cut, tf.float32), -1)
        width = high[:, None, None] - low
        factor = tf.where(width > 0, 255 / tf.maximum(width, 1.0), 1.0)
        return scaled(images, factor, tf.where(width > 0, -low * factor, 0.0))

    return augmentation("random_autocontrast", change, change_rate, "colour")
