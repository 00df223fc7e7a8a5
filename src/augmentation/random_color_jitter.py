from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation, clipped, split, uniform
from src.augmentation._grey import luma
from src.augmentation._hsv import shift_hsv
from src.augmentation._ranges import Range, as_range


def random_color_jitter(
    brightness: Range = 0.15,
    contrast: Range = 0.15,
    saturation: Range = 0.1,
    hue: Range = 0.1,
    change_rate: float = 0.5,
) -> Augment:
    """Change brightness, contrast, saturation and hue, in this order, as other cameras and lights do.

    The changes are those of torchvision's ColorJitter, cut to [0, 255] once after the saturation; the defaults are
    FastReID's.

    Args:
        brightness: Range of f, -1 or more, where pixels are multiplied by 1 + f; a number v means (-v, v).
        contrast: The same for the distance to the image's mean grey.
        saturation: The same for the distance to each pixel's own grey.
        hue: Range of what is added to the hue, where 1 is the full circle; a number v means (-v, v).
        change_rate: Share of the images that are changed.
    """
    given = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    bounds = [as_range("random_color_jitter", name, value, low=-1) for name, value in given.items()]
    turn = as_range("random_color_jitter", "hue", hue, low=-1, high=1)

    def change(images: Any, seed: Any) -> Any:
        *seeds, hue_seed = split(seed, 4)
        draws = (1 + uniform(images, own, pair) for own, pair in zip(seeds, bounds, strict=True))
        bright, contrasted, saturated = draws
        images = images * bright
        mean = tf.reduce_mean(luma(images), axis=(1, 2), keepdims=True)
        images = mean + contrasted * (images - mean)
        grey = luma(images)
        images = clipped(grey + saturated * (images - grey))
        if turn == (0, 0):
            return images
        return shift_hsv(images, uniform(images, hue_seed, turn), 0.0, 0.0)

    return augmentation("random_color_jitter", change, change_rate, "rgb")
