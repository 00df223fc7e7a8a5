from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation, clipped, uniform
from src.augmentation._ranges import Range, as_range


def random_sharpness(factor: Range, change_rate: float = 1.0) -> Augment:
    """Add f times the difference between an image and its smoothed copy; 0 changes nothing.

    Smoothing is that of Pillow: 3 x 3 with weight 5/13 in the middle, 1/13 around; pixels at the border keep their
    value. Pillow's enhancement factor is 1 + f.

    Args:
        factor: Range of f, 0 or more; a number v means (0, v).
        change_rate: Share of the images that are changed.
    """
    bounds = as_range("random_sharpness", "factor", factor, "from_zero", low=0)

    def change(images: Any, seed: Any) -> Any:
        average = tf.nn.avg_pool2d(images, 3, 1, "VALID")
        inner = images[:, 1:-1, 1:-1]
        # The smoothed copy is (9 average + 4 inner) / 13.
        detail = tf.pad((9 / 13) * (inner - average), [[0, 0], [1, 1], [1, 1], [0, 0]])
        return clipped(images + uniform(images, seed, bounds) * detail)

    return augmentation("random_sharpness", change, change_rate, "colour")
