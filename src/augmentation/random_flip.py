from typing import Any, Literal

import tensorflow as tf

from src.augmentation._augment import Augment, split
from src.augmentation._ranges import as_choice, as_range


def random_flip(
    mode: Literal["horizontal", "vertical", "horizontal_and_vertical"] = "horizontal",
    change_rate: float = 0.5,
) -> Augment:
    """Mirror images left to right, top to bottom, or one of left to right, top to bottom, and both.

    Args:
        mode: Direction; a person upside down is rarely what a camera sees.
        change_rate: Share of the images that are mirrored.
    """
    # What a changed image may become: (rows reversed, columns reversed), each equally often.
    kinds = {
        "horizontal": [(False, True)],
        "vertical": [(True, False)],
        "horizontal_and_vertical": [(False, True), (True, False), (True, True)],
    }
    chosen = kinds[as_choice("random_flip", "mode", mode, kinds)]
    rate, _ = as_range("random_flip", "change_rate", change_rate, "fixed", 0, 1)

    def flip(images: Any, seed: Any) -> Any:
        number = tf.shape(images)[0]
        coin, kind = split(seed, 2)
        changed = tf.random.stateless_uniform((number,), coin) < rate
        kind = tf.random.stateless_uniform((number,), kind, 0, len(chosen), tf.int32)
        reverse = tf.gather(tf.constant(chosen), kind) & changed[:, None]
        flipped = images
        for axis in sorted({axis for pair in chosen for axis in (0, 1) if pair[axis]}):
            # Gathering pixels in either order is twice as fast as choosing between an image and its mirror image.
            length = tf.shape(images)[axis + 1]
            order = tf.where(reverse[:, axis, None], tf.range(length - 1, -1, -1), tf.range(length))
            flipped = tf.gather(flipped, order, axis=axis + 1, batch_dims=1)
        return tf.ensure_shape(flipped, images.shape)

    return flip
