from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment
from src.augmentation._ranges import Range, as_range
from src.augmentation._rectangles import covered


def random_erasing(
    probability: float = 0.5,
    area: Range = (0.02, 0.4),
    aspect: Range = (0.3, 3.3),
) -> Augment:
    """Cover a random rectangle with the image's mean colour, so that no single part decides (Zhong et al.
    2020).

    A rectangle that is higher or wider than the image is cut to it, where the paper draws another one.

    Args:
        probability: Share of the images that lose a rectangle, in [0, 1].
        area: Smallest and largest share of the image; a number v means exactly v.
        aspect: Smallest and largest height / width, drawn uniformly in its logarithm.
    """
    rate, _ = as_range("random_erasing", "probability", probability, "fixed", 0, 1)
    areas = as_range("random_erasing", "area", area, "fixed", 0, 1)
    aspects = as_range("random_erasing", "aspect", aspect, "fixed", 0.01)

    def erase(images: Any, seed: Any) -> Any:
        return covered(images, seed, rate, areas, aspects, tf.reduce_mean(images, axis=(1, 2), keepdims=True))

    return erase
