from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation, scaled, uniform
from src.augmentation._ranges import Range, as_range


def random_contrast(factor: Range, change_rate: float = 1.0) -> Augment:
    """Multiply the distance of each pixel to its channel's mean by 1 + f.

    Args:
        factor: Range of f, -1 or more; a number v means (-v, v). Below 0 the contrast decreases.
        change_rate: Share of the images that are changed.
    """
    bounds = as_range("random_contrast", "factor", factor, low=-1)

    def change(images: Any, seed: Any) -> Any:
        mean = tf.reduce_mean(images, axis=(1, 2), keepdims=True)
        factor = tf.broadcast_to(1 + uniform(images, seed, bounds), tf.shape(mean))
        return scaled(images, factor, mean - factor * mean)

    return augmentation("random_contrast", change, change_rate, "colour")
