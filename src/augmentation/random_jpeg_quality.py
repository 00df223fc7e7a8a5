from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation, whole
from src.augmentation._ranges import Range, as_range


def random_jpeg_quality(jpeg_quality: Range, change_rate: float = 1.0) -> Augment:
    """Compress images as JPEG and read them again. One image after the other: slow.

    Args:
        jpeg_quality: Range of the quality, both ends included, from 0 to 100, such as (50, 100); a number v means
            exactly v.
        change_rate: Share of the images that are changed.
    """
    bounds = as_range("random_jpeg_quality", "jpeg_quality", jpeg_quality, "fixed", 0, 100, whole=True)

    def change(images: Any, seed: Any) -> Any:
        pixels = tf.cast(tf.round(images), tf.uint8)
        compressed = tf.map_fn(
            lambda pair: tf.image.adjust_jpeg_quality(*pair),
            (pixels, whole(images, seed, bounds)),
            fn_output_signature=tf.TensorSpec(images.shape[1:], tf.uint8),
        )
        return tf.cast(compressed, tf.float32)

    return augmentation("random_jpeg_quality", change, change_rate, "colour")
