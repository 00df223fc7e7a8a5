from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation, uniform
from src.augmentation._ranges import Range, as_range


def random_gamma(gamma: Range, change_rate: float = 1.0) -> Augment:
    """Raise pixels, as a share of 255, to the power g: darker for g > 1, brighter for g < 1.

    Args:
        gamma: Range of g, 0.01 or more, such as (0.5, 2); a number v means exactly v.
        change_rate: Share of the images that are changed.
    """
    bounds = as_range("random_gamma", "gamma", gamma, "fixed", low=0.01)

    def change(images: Any, seed: Any) -> Any:
        return 255 * tf.pow(images / 255, uniform(images, seed, bounds))

    return augmentation("random_gamma", change, change_rate, "colour")
