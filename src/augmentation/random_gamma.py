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
        # Several times as fast as tf.pow; the logarithm of black is -inf, which gives black again.
        return 255 * tf.exp(uniform(images, seed, bounds) * tf.math.log(images / 255))

    return augmentation("random_gamma", change, change_rate, "colour")
