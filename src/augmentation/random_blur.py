from functools import partial
from typing import Any, Literal

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation, choose, whole
from src.augmentation._ranges import Range, as_choice, as_range


def random_blur(
    filter_size: Range,
    padding: Literal["reflect", "constant", "symmetric"] = "reflect",
    constant_values: float = 0,
    change_rate: float = 1.0,
) -> Augment:
    """Replace each pixel by the mean of a square around it.

    Args:
        filter_size: Range of the square's side in pixels, both ends included, 1 or more, such as (1, 4); a number v
            means exactly v. 1 changes nothing.
        padding: What lies outside of the image, as in `tf.pad`.
        constant_values: Value outside of the image for the padding `constant`, in [0, 255].
        change_rate: Share of the images that are changed.
    """
    low, high = as_range("random_blur", "filter_size", filter_size, "fixed", low=1, whole=True)
    mode = as_choice("random_blur", "padding", padding, ("reflect", "constant", "symmetric")).upper()
    outside, _ = as_range("random_blur", "constant_values", constant_values, "fixed", 0, 255)
    filters = [
        partial(_mean, size=size, mode=mode, outside=outside) for size in range(int(low), int(high) + 1)
    ]

    def change(images: Any, seed: Any) -> Any:
        return choose(filters, whole(images, seed, (0, high - low)), images, seed)

    return augmentation("random_blur", change, change_rate)


def _mean(images: Any, seed: Any, size: int, mode: str, outside: float) -> Any:
    before, after = (size - 1) // 2, size // 2
    padded = tf.pad(images, [[0, 0], [before, after], [before, after], [0, 0]], mode, outside)
    return tf.nn.avg_pool2d(padded, size, 1, "VALID")
