from math import log
from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment
from src.augmentation._ranges import Range, as_range
from src.augmentation._rectangles import cover, span


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
        shape = tf.shape(images)
        number, height, width = shape[0], tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
        draws = tf.random.stateless_uniform((5, number), seed)
        size = (areas[0] + (areas[1] - areas[0]) * draws[0]) * height * width
        ratio = tf.exp(log(aspects[0]) + (log(aspects[1]) - log(aspects[0])) * draws[1])
        rows = _inside(draws[2], tf.minimum(tf.round(tf.sqrt(size * ratio)), height), shape[1])
        columns = _inside(draws[3], tf.minimum(tf.round(tf.sqrt(size / ratio)), width), shape[2])
        rows = tf.where((draws[4] < rate)[:, None], rows, 0.0)
        return cover(images, rows, columns, tf.reduce_mean(images, axis=(1, 2), keepdims=True))

    return erase


def _inside(draw: Any, length: Any, total: Any) -> Any:
    """Place a window of `length` (N,) at random in `total` pixels: 0 or 1, float (N, total)."""
    return span(tf.floor(draw * (tf.cast(total, tf.float32) - length + 1)), length, total)
