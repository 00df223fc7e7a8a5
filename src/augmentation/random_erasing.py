from collections.abc import Callable
from math import log
from typing import Any

import tensorflow as tf


def random_erasing(
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 3.3),
) -> Callable[[Any, Any], Any]:
    """Cover a random rectangle with the image's mean colour, so that no single part decides (Zhong et al.
    2020).

    A rectangle that is higher or wider than the image is cut to it, where the paper draws another one.

    Args:
        probability: Share of the images that lose a rectangle, in [0, 1].
        area: Smallest and largest share of the image.
        aspect: Smallest and largest height / width, drawn uniformly in its logarithm.

    Returns:
        (images float (N, H, W, C), seed int32 (2,)) -> images.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"random_erasing: probability must lie in [0, 1], got {probability}")
    if not 0 < area[0] <= area[1] <= 1:
        raise ValueError(f"random_erasing: area must be (low, high) with 0 < low <= high <= 1, got {area}")
    if not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"random_erasing: aspect must be (low, high) with 0 < low <= high, got {aspect}")

    def erase(images: Any, seed: Any) -> Any:
        shape = tf.shape(images)
        number, height, width = shape[0], tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
        draws = tf.random.stateless_uniform((5, number), seed)
        size = (area[0] + (area[1] - area[0]) * draws[0]) * height * width
        ratio = tf.exp(log(aspect[0]) + (log(aspect[1]) - log(aspect[0])) * draws[1])
        rows = _inside(draws[2], tf.minimum(tf.round(tf.sqrt(size * ratio)), height), shape[1])
        columns = _inside(draws[3], tf.minimum(tf.round(tf.sqrt(size / ratio)), width), shape[2])
        rows = tf.where((draws[4] < probability)[:, None], rows, 0.0)
        # Rows of W * C values: broadcasting over an inner axis of three channels would take twice as long.
        covered = rows[:, :, None] * tf.repeat(columns, shape[3], axis=1)[:, None, :]
        flat = tf.reshape(images, tf.shape(covered))
        colour = tf.tile(tf.reduce_mean(images, axis=(1, 2)), (1, shape[2]))[:, None, :]
        return tf.reshape(flat + covered * (colour - flat), shape)

    return erase


def _inside(draw: Any, length: Any, total: Any) -> Any:
    """Place a window of `length` (N,) at random in `total` pixels: 0 or 1, float (N, total)."""
    start = tf.floor(draw * (tf.cast(total, tf.float32) - length + 1))[:, None]
    position = tf.cast(tf.range(total), tf.float32)[None]
    return tf.cast((position >= start) & (position < start + length[:, None]), tf.float32)
