"""What all augmentations share: a draw for each image, the share of images that is changed, the channels."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import tensorflow as tf

from common.config import ConfigError
from src.augmentation._ranges import as_range

Augment = Callable[[Any, Any], Any]
"""(images float32 (N, H, W, C) in [0, 255], seed int32 (2,)) -> images. Pure: equal seeds give equal images."""


def augmentation(
    name: str,
    change: Augment,
    change_rate: float = 1.0,
    channels: Literal["all", "colour", "rgb"] = "all",
) -> Augment:
    """Apply `change` to a random share of the images.

    Args:
        name: Name of the augmentation, for messages.
        change: Changes every image that it is given.
        change_rate: Share of the images that are changed, on average, in [0, 1].
        channels: What is changed: `all` channels; `colour` leaves a fourth channel, alpha, as it is; `rgb` also
            refuses images of one channel.

    Raises:
        ValueError: `change_rate` is no number in [0, 1].
        ConfigError: (when called) the images are grey and the change needs colour.
    """
    rate, _ = as_range(name, "change_rate", change_rate, "fixed", 0, 1)

    def some(images: Any, seed: Any) -> Any:
        if rate == 1:
            return change(images, seed)
        coin, seed = split(seed, 2)
        changed = tf.random.stateless_uniform((tf.shape(images)[0],), coin) < rate
        return choose([keep, change], tf.cast(changed, tf.int32), images, seed)

    def augment(images: Any, seed: Any) -> Any:
        count = images.shape[-1]
        if channels == "rgb" and count not in (3, 4):
            raise ConfigError(
                f"data_augmentation.{name} needs colour images (3 or 4 channels), received {count} channel(s); "
                "leave it out, or set preprocessing.color_mode: rgb"
            )
        if rate == 0:
            return images
        if channels != "all" and count == 4:
            changed = tf.concat([some(images[..., :3], seed), images[..., 3:]], axis=-1)
        else:
            changed = some(images, seed)
        return tf.ensure_shape(changed, images.shape)

    return augment


def keep(images: Any, seed: Any) -> Any:
    """Return the images as they are."""
    return images


def choose(functions: Sequence[Augment], choice: Any, images: Any, seed: Any) -> Any:
    """Send each image through the function that `choice` int32 (N,) names; each function runs once, on its images."""
    positions = tf.dynamic_partition(tf.range(tf.shape(images)[0]), choice, len(functions))
    parts = [
        _unless_empty(function, tf.gather(images, position), own)
        for function, position, own in zip(functions, positions, split(seed, len(functions)), strict=True)
    ]
    return tf.dynamic_stitch(positions, parts)


def _unless_empty(function: Augment, images: Any, seed: Any) -> Any:
    """Not every kernel takes a batch of no images: padding by reflection does not."""
    return tf.cond(tf.shape(images)[0] > 0, lambda: function(images, seed), lambda: images)


def split(seed: Any, number: int) -> list[Any]:
    """Return `number` independent seeds."""
    return tf.unstack(tf.random.split(seed, number), num=number)


def uniform(images: Any, seed: Any, bounds: tuple[float, float]) -> Any:
    """Draw one value an image, uniform between the bounds: float (N, 1, 1, 1)."""
    shape = (tf.shape(images)[0], 1, 1, 1)
    return bounds[0] + (bounds[1] - bounds[0]) * tf.random.stateless_uniform(shape, seed)


def whole(images: Any, seed: Any, bounds: tuple[float, float]) -> Any:
    """Draw one whole number an image, both bounds included: int32 (N,)."""
    return tf.random.stateless_uniform(
        (tf.shape(images)[0],), seed, int(bounds[0]), int(bounds[1]) + 1, tf.int32
    )


def scaled(images: Any, factor: Any, offset: Any) -> Any:
    """Return `factor * images + offset` cut to [0, 255], with a factor and an offset (N, 1, 1, C) a channel."""
    shape = tf.shape(images)
    # Rows of W * C values: broadcasting over an inner axis of three channels would take several times as long.
    flat = tf.reshape(images, (shape[0], shape[1], shape[2] * shape[3]))
    factor, offset = (tf.tile(values[:, 0, 0], (1, shape[2]))[:, None] for values in (factor, offset))
    return tf.reshape(clipped(factor * flat + offset), shape)


def clipped(images: Any) -> Any:
    """Cut values to [0, 255]."""
    return tf.clip_by_value(images, 0.0, 255.0)
