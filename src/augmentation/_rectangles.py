"""Rectangles that cover a part of an image."""

from math import log
from typing import Any

import tensorflow as tf


def span(start: Any, length: Any, total: Any) -> Any:
    """Mark the pixels of [start, start + length) of `total`: (N,), (N,) -> 0 or 1, float (N, total)."""
    position = tf.cast(tf.range(total), tf.float32)[None]
    return tf.cast((position >= start[:, None]) & (position < (start + length)[:, None]), tf.float32)


def cover(images: Any, rows: Any, columns: Any, colour: Any) -> Any:
    """Replace what lies in both marked rows (N, H) and marked columns (N, W).

    Args:
        images: Float (N, H, W, C).
        rows: 0 or 1, float (N, H).
        columns: 0 or 1, float (N, W).
        colour: Float (1 or N, 1 or H, 1 or W, C).
    """
    shape = tf.shape(images)
    # Rows of W * C values: broadcasting over an inner axis of three channels would take twice as long.
    covered = rows[:, :, None] * tf.repeat(columns, shape[3], axis=1)[:, None, :]
    flat = tf.reshape(images, tf.shape(covered))
    # (1 or N, 1 or H, 1 or W, C) -> (1 or N, 1 or H, W * C)
    colour = tf.tile(colour, (1, 1, shape[2] // tf.shape(colour)[2], 1))
    colour = tf.reshape(colour, (tf.shape(colour)[0], tf.shape(colour)[1], shape[2] * shape[3]))
    return tf.reshape(flat + covered * (colour - flat), shape)


def covered(
    images: Any,
    seed: Any,
    rate: float,
    areas: tuple[float, float],
    aspects: tuple[float, float],
    colour: Any,
) -> Any:
    """Cover one random rectangle in a share of the images.

    Args:
        images: Float (N, H, W, C).
        seed: Int32 (2,).
        rate: Share of the images, in [0, 1].
        areas: Smallest and largest share of the image.
        aspects: Smallest and largest height / width, drawn uniformly in its logarithm.
        colour: As in `cover`.
    """
    shape = tf.shape(images)
    number, height, width = shape[0], tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    draws = tf.random.stateless_uniform((5, number), seed)
    size = (areas[0] + (areas[1] - areas[0]) * draws[0]) * height * width
    ratio = tf.exp(log(aspects[0]) + (log(aspects[1]) - log(aspects[0])) * draws[1])
    rows = _inside(draws[2], tf.minimum(tf.round(tf.sqrt(size * ratio)), height), shape[1])
    columns = _inside(draws[3], tf.minimum(tf.round(tf.sqrt(size / ratio)), width), shape[2])
    rows = tf.where((draws[4] < rate)[:, None], rows, 0.0)
    return cover(images, rows, columns, colour)


def _inside(draw: Any, length: Any, total: Any) -> Any:
    """Place a window of `length` (N,) at random in `total` pixels: 0 or 1, float (N, total)."""
    return span(tf.floor(draw * (tf.cast(total, tf.float32) - length + 1)), length, total)
