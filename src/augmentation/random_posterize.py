from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation, whole
from src.augmentation._ranges import Range, as_range


def random_posterize(bits: Range, change_rate: float = 1.0) -> Augment:
    """Keep only the highest bits of each value.

    Args:
        bits: Range of the number of bits, both ends included, from 1 to 8; a number v means exactly v.
        change_rate: Share of the images that are changed.
    """
    bounds = as_range("random_posterize", "bits", bits, "fixed", low=1, high=8, whole=True)

    def change(images: Any, seed: Any) -> Any:
        dropped = 8 - whole(images, seed, bounds)[:, None, None, None]
        step = tf.pow(2.0, tf.cast(dropped, tf.float32))
        return tf.floor(images / step) * step

    return augmentation("random_posterize", change, change_rate, "colour")
