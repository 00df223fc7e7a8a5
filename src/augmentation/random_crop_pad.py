from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment


def random_crop_pad(padding: int = 10) -> Augment:
    """Move each image by up to `padding` pixels in both directions; what comes into view is black.

    The same as padding all sides and cutting a random window of the original size (Luo et al. 2019, "Bag of
    Tricks and a Strong Baseline for Deep Person Re-identification").

    Args:
        padding: Pixels of the network's input, 0 or more.
    """
    if padding < 0:
        raise ValueError(f"random_crop_pad: padding must be 0 or more pixels, got {padding}")

    def crop(images: Any, seed: Any) -> Any:
        shape = tf.shape(images)
        offsets = tf.random.stateless_uniform((shape[0], 2), seed, 0, 2 * padding + 1, tf.int32)
        padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
        rows = offsets[:, :1] + tf.range(shape[1])[None]
        columns = offsets[:, 1:] + tf.range(shape[2])[None]
        moved = tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
        return tf.ensure_shape(moved, images.shape)

    return crop
