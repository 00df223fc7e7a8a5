from collections.abc import Sequence
from typing import Any, Literal

import tensorflow as tf

from common.config import ConfigError, parse_tuple
from src.augmentation._augment import Augment, augmentation, split
from src.augmentation._ranges import Range, as_choice, as_range
from src.augmentation._rectangles import cover, span

_NAME = "random_rectangle_erasing"


def random_rectangle_erasing(
    nrec: Range = (0, 3),
    area: Range = (0.05, 0.2),
    wh_ratio: Range = (0.2, 1.5),
    fill_method: Literal["uniform", "random", "mosaic"] = "random",
    color: float | Sequence[float] | None = None,
    mode: Literal["image", "batch"] = "image",
    change_rate: float = 1.0,
) -> Augment:
    """Cover random rectangles. Their centres lie anywhere in the image, and what reaches out is cut off.

    Random colours are grey in images whose channels are equal, such as thermal ones.

    Args:
        nrec: Range of the number of rectangles an image, both ends included; a number v means exactly v.
        area: Range of a rectangle's share of the image, before it is cut; a number v means exactly v.
        wh_ratio: Range of its width / height; a number v means exactly v.
        fill_method: `uniform` fills with `color`, `random` with one random colour a rectangle, `mosaic` with random
            pixels.
        color: For `uniform` only: a value, or one for each channel, in [0, 255]; black where it is not set.
        mode: `image` draws rectangles for each image, `batch` the same for all images of a batch.
        change_rate: Share of the images that are changed.
    """
    few, many = as_range(_NAME, "nrec", nrec, "fixed", 0, whole=True)
    areas = as_range(_NAME, "area", area, "fixed", 0, 1)
    ratios = as_range(_NAME, "wh_ratio", wh_ratio, "fixed", 0.01)
    method = as_choice(_NAME, "fill_method", fill_method, ("uniform", "random", "mosaic"))
    plain = _plain_colour(color, method)
    shared = as_choice(_NAME, "mode", mode, ("image", "batch")) == "batch"

    def change(images: Any, seed: Any) -> Any:
        shape = tf.shape(images)
        drawn = 1 if shared else shape[0]
        count_seed, *seeds = split(seed, 1 + int(many))
        count = tf.random.stateless_uniform((drawn,), count_seed, int(few), int(many) + 1, tf.int32)
        is_grey = tf.reduce_max(tf.abs(images - images[..., :1]), axis=(1, 2, 3), keepdims=True) < 0.5
        for number, own in enumerate(seeds):
            place_seed, colour_seed = split(own, 2)
            rows, columns = _place(place_seed, drawn, shape, areas, ratios)
            rows *= tf.cast(number < count, tf.float32)[:, None]
            colour = _colour(colour_seed, method, plain, drawn, images)
            if method != "uniform":
                colour = tf.where(is_grey, colour[..., :1], colour)
            rows, columns = (tf.tile(line, (shape[0] // drawn, 1)) for line in (rows, columns))
            images = cover(images, rows, columns, colour)
        return images

    return augmentation(_NAME, change, change_rate, "colour")


def _plain_colour(color: Any, method: str) -> tuple[float, ...]:
    if color is None:
        return (0.0,)
    if method != "uniform":
        raise ValueError(f"{_NAME}: color is for fill_method 'uniform' only, got fill_method '{method}'")
    values = parse_tuple(color)
    values = values if isinstance(values, tuple) else (values,)
    return tuple(as_range(_NAME, "color", value, "fixed", 0, 255)[0] for value in values)


def _place(
    seed: Any, number: Any, shape: Any, areas: tuple[float, float], ratios: tuple[float, float]
) -> tuple[Any, Any]:
    """Mark the rows (number, H) and columns (number, W) of one rectangle each."""
    height, width = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    area, ratio, y, x = tf.unstack(tf.random.stateless_uniform((4, number), seed))
    area = (areas[0] + (areas[1] - areas[0]) * area) * height * width
    ratio = ratios[0] + (ratios[1] - ratios[0]) * ratio
    tall, wide = tf.sqrt(area / ratio), tf.sqrt(area * ratio)
    return (
        span(tf.round(y * height - tall / 2), tf.round(tall), shape[1]),
        span(tf.round(x * width - wide / 2), tf.round(wide), shape[2]),
    )


def _colour(seed: Any, method: str, plain: tuple[float, ...], number: Any, images: Any) -> Any:
    """Return the filling, (number or 1, H or 1, W or 1, C)."""
    channels = images.shape[-1]
    if method == "uniform":
        if len(plain) not in (1, channels):
            raise ConfigError(
                f"{_NAME}: color has {len(plain)} values, the images have {channels} channel(s)"
            )
        return tf.broadcast_to(tf.constant(plain), (1, 1, 1, channels))
    size = (1, 1) if method == "random" else (tf.shape(images)[1], tf.shape(images)[2])
    return tf.floor(256 * tf.random.stateless_uniform((number, *size, channels), seed))
