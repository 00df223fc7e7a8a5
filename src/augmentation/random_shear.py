from math import tau
from typing import Any

import keras
import tensorflow as tf

from src.augmentation._affine import FillMode, Interpolation, sampling
from src.augmentation._augment import Augment, augmentation, split, uniform
from src.augmentation._ranges import Range, as_range


def random_shear(
    factor: Range,
    fill_mode: FillMode = "reflect",
    interpolation: Interpolation = "bilinear",
    fill_value: float = 0.0,
    change_rate: float = 1.0,
) -> Augment:
    """Shear images along both axes, with a draw for each; the centre stays where it is.

    Args:
        factor: Range of the shear angle as a share of a full turn, within (-0.25, 0.25); a number v means (-v, v).
        fill_mode: What lies outside of the image: `constant`, `reflect`, `wrap`, or the `nearest` pixel.
        interpolation: How pixels between pixels are read.
        fill_value: Value outside of the image for `constant`, in [0, 255].
        change_rate: Share of the images that are changed.
    """
    reading = sampling("random_shear", fill_mode, interpolation, fill_value)
    return augmentation("random_shear", _shear("random_shear", factor, (1, 1), reading), change_rate)


def random_shear_x(
    factor: Range,
    fill_mode: FillMode = "reflect",
    interpolation: Interpolation = "bilinear",
    fill_value: float = 0.0,
    change_rate: float = 1.0,
) -> Augment:
    """Shear images along the x axis: rows move sideways, the middle row stays.

    Args:
        factor: Range of the shear angle as a share of a full turn, within (-0.25, 0.25); a number v means (-v, v).
        fill_mode: What lies outside of the image: `constant`, `reflect`, `wrap`, or the `nearest` pixel.
        interpolation: How pixels between pixels are read.
        fill_value: Value outside of the image for `constant`, in [0, 255].
        change_rate: Share of the images that are changed.
    """
    reading = sampling("random_shear_x", fill_mode, interpolation, fill_value)
    return augmentation("random_shear_x", _shear("random_shear_x", factor, (1, 0), reading), change_rate)


def random_shear_y(
    factor: Range,
    fill_mode: FillMode = "reflect",
    interpolation: Interpolation = "bilinear",
    fill_value: float = 0.0,
    change_rate: float = 1.0,
) -> Augment:
    """Shear images along the y axis: columns move up or down, the middle column stays.

    Args:
        factor: Range of the shear angle as a share of a full turn, within (-0.25, 0.25); a number v means (-v, v).
        fill_mode: What lies outside of the image: `constant`, `reflect`, `wrap`, or the `nearest` pixel.
        interpolation: How pixels between pixels are read.
        fill_value: Value outside of the image for `constant`, in [0, 255].
        change_rate: Share of the images that are changed.
    """
    reading = sampling("random_shear_y", fill_mode, interpolation, fill_value)
    return augmentation("random_shear_y", _shear("random_shear_y", factor, (0, 1), reading), change_rate)


def _shear(name: str, factor: Range, axes: tuple[int, int], reading: dict[str, Any]) -> Augment:
    """Shear along x, y or both. Keras's RandomShear takes no angle and no range that begins below 0."""
    bounds = as_range(name, "factor", factor, low=-0.249, high=0.249)

    def change(images: Any, seed: Any) -> Any:
        slopes = (tf.tan(tau * uniform(images, own, bounds)[:, 0, 0]) for own in split(seed, 2))
        x, y = (axis * slope for axis, slope in zip(axes, slopes, strict=True))  # (N, 1) each
        middle_y, middle_x = tf.unstack(tf.cast(tf.shape(images)[1:3] - 1, tf.float32) / 2)
        one, zero = tf.ones_like(x), tf.zeros_like(x)
        # Where an output pixel comes from: (x + a1 y + a2, b0 x + y + b2).
        rows = [one, x, -middle_y * x, y, one, -middle_x * y, zero, zero]
        return keras.ops.image.affine_transform(images, tf.concat(rows, axis=1), **reading)

    return change
