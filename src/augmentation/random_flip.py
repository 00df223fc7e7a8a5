from collections.abc import Callable
from typing import Any, Literal

import tensorflow as tf


def random_flip(
    mode: Literal["horizontal", "vertical", "horizontal_and_vertical"] = "horizontal",
) -> Callable[[Any, Any], Any]:
    """Mirror each image with probability 1/2, independently along each direction of `mode`.

    Args:
        mode: Direction; a person upside down is rarely what a camera sees.

    Returns:
        (images (N, H, W, C), seed int32 (2,)) -> images.
    """
    axes = {"horizontal": (2,), "vertical": (1,), "horizontal_and_vertical": (1, 2)}
    if mode not in axes:
        raise ValueError(f"random_flip: mode must be one of {', '.join(axes)}, got '{mode}'")

    def flip(images: Any, seed: Any) -> Any:
        coins = tf.random.stateless_uniform((len(axes[mode]), tf.shape(images)[0], 1), seed) < 0.5
        flipped = images
        for index, axis in enumerate(axes[mode]):
            # Gathering pixels in either order is twice as fast as choosing between an image and its mirror image.
            length = tf.shape(images)[axis]
            order = tf.where(coins[index], tf.range(length - 1, -1, -1), tf.range(length))
            flipped = tf.gather(flipped, order, axis=axis, batch_dims=1)
        return tf.ensure_shape(flipped, images.shape)

    return flip
