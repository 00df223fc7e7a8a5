from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation, uniform
from src.augmentation._ranges import Range, as_range


def random_solarize(threshold: Range = (0, 255), change_rate: float = 0.25) -> Augment:
    """Invert the values from a threshold on.

    Args:
        threshold: Range of the threshold, from 0 to 255; a number v means exactly v.
        change_rate: Share of the images that are changed.
    """
    bounds = as_range("random_solarize", "threshold", threshold, "fixed", low=0, high=255)

    def change(images: Any, seed: Any) -> Any:
        return tf.where(images < uniform(images, seed, bounds), images, 255 - images)

    return augmentation("random_solarize", change, change_rate, "colour")
