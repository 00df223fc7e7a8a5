from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation


def random_rgb_to_hsv(change_rate: float = 0.25) -> Augment:
    """Put hue, saturation and value, each times 255, in the place of red, green and blue.

    Args:
        change_rate: Share of the images that are changed.
    """

    def change(images: Any, seed: Any) -> Any:
        return 255 * tf.image.rgb_to_hsv(images / 255)

    return augmentation("random_rgb_to_hsv", change, change_rate, "rgb")
