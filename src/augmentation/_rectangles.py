"""Rectangles that cover a part of an image."""

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
