from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation
from src.augmentation._grey import luma


def random_rgb_to_grayscale(change_rate: float = 0.25) -> Augment:
    """Make images grey: three equal channels, 0.299 R + 0.587 G + 0.114 B.

    Args:
        change_rate: Share of the images that are changed.
    """

    def change(images: Any, seed: Any) -> Any:
        return tf.repeat(luma(images), 3, axis=-1)

    return augmentation("random_rgb_to_grayscale", change, change_rate, "rgb")
