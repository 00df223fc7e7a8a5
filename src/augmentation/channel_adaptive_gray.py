from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation, split, uniform
from src.augmentation._channels import replicated
from src.augmentation._grey import luma


def channel_adaptive_gray(probability: float = 0.5) -> Augment:
    """Put one channel in the place of all three in three quarters of the images, and make some of the others grey.

    Red, green and blue are drawn equally often; the last quarter becomes grey, 0.299 R + 0.587 G + 0.114 B, with
    `probability` and stays as it is otherwise. By default that is 25 % for each channel, 12.5 % grey and 12.5 %
    untouched (Ye et al., ICCV 2021, who apply it to the infrared images).

    Args:
        probability: Share of the last quarter that becomes grey, in [0, 1].
    """
    grey = augmentation("channel_adaptive_gray", _grey, probability, "rgb")

    def change(images: Any, seed: Any) -> Any:
        choice, own = split(seed, 2)
        quarter = tf.cast(tf.floor(uniform(images, choice, (0, 4))), tf.int32)  # (N, 1, 1, 1)
        exchanged = replicated(images, tf.minimum(quarter, 2)[:, 0, 0, 0])
        return tf.where(quarter < 3, exchanged, grey(images, own))

    return augmentation("channel_adaptive_gray", change, channels="rgb")


def _grey(images: Any, seed: Any) -> Any:
    return tf.repeat(luma(images), 3, axis=-1)
