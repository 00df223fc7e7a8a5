from typing import Any

import tensorflow as tf

from src.augmentation._affine import Interpolation
from src.augmentation._augment import Augment, augmentation, split, uniform
from src.augmentation._ranges import Range, as_choice, as_range


def random_crop(
    crop_center_x: Range = (0.25, 0.75),
    crop_center_y: Range = (0.25, 0.75),
    crop_width: Range = (0.6, 0.9),
    crop_height: Range = (0.6, 0.9),
    interpolation: Interpolation = "bilinear",
    change_rate: float = 0.9,
) -> Augment:
    """Cut a rectangle out and scale it to the size of the image. A rectangle that reaches out is cut to the image.

    Args:
        crop_center_x: Range of the rectangle's centre from left to right, 0 to 1; a number v means exactly v.
        crop_center_y: The same from top to bottom.
        crop_width: Range of its width as a share of the image's; a number v means exactly v.
        crop_height: Range of its height as a share of the image's.
        interpolation: How it is scaled.
        change_rate: Share of the images that are changed.
    """
    given = {
        "crop_center_y": (crop_center_y, 0),
        "crop_center_x": (crop_center_x, 0),
        "crop_height": (crop_height, 0.01),
        "crop_width": (crop_width, 0.01),
    }
    bounds = [as_range("random_crop", name, value, "fixed", low, 1) for name, (value, low) in given.items()]
    method = as_choice("random_crop", "interpolation", interpolation, ("nearest", "bilinear"))

    def change(images: Any, seed: Any) -> Any:
        draws = [uniform(images, own, pair) for own, pair in zip(split(seed, 4), bounds, strict=True)]
        y, x, height, width = (draw[:, 0, 0, 0] for draw in draws)
        corners = tf.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], axis=1)
        shape = tf.shape(images)
        return tf.image.crop_and_resize(
            images, tf.clip_by_value(corners, 0.0, 1.0), tf.range(shape[0]), shape[1:3], method
        )

    return augmentation("random_crop", change, change_rate)
