from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation, clipped, split, uniform
from src.augmentation._ranges import Range, as_range


def random_gaussian_noise(stddev: Range, change_rate: float = 1.0) -> Augment:
    """Add normal noise, independent for each pixel and channel.

    Args:
        stddev: Range of the noise's standard deviation as a share of 255, such as (0.02, 0.1); a number v means
            exactly v.
        change_rate: Share of the images that are changed.
    """
    bounds = as_range("random_gaussian_noise", "stddev", stddev, "fixed", low=0)

    def change(images: Any, seed: Any) -> Any:
        own, seed = split(seed, 2)
        noise = tf.random.stateless_normal(tf.shape(images), seed)
        return clipped(images + 255 * uniform(images, own, bounds) * noise)

    return augmentation("random_gaussian_noise", change, change_rate, "colour")
