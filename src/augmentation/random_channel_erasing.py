from typing import Any

import tensorflow as tf

from src.augmentation._augment import Augment, augmentation
from src.augmentation._ranges import Range, as_range
from src.augmentation._rectangles import covered

# The published code fills images that are normalized with ImageNet's mean and deviation with 0.4914, 0.4822, 0.4465:
# 255 * (mean + deviation * value) in pixels.
_FILL = (152.4, 143.8, 129.1)


def random_channel_erasing(
    probability: float = 0.5,
    area: Range = (0.02, 0.4),
    aspect: Range = (0.3, 3.3),
) -> Augment:
    """Cover a random rectangle with one fixed value for each channel (Ye et al., Channel Augmented Joint Learning for
    Visible-Infrared Recognition, ICCV 2021).

    Both modalities get the same fill, which tells nothing about either; `random_erasing` fills with the image's mean.
    Images of one channel get the mean of the three. A rectangle that is higher or wider than the image is cut to it.

    Args:
        probability: Share of the images that lose a rectangle, in [0, 1].
        area: Smallest and largest share of the image; a number v means exactly v.
        aspect: Smallest and largest height / width, drawn uniformly in its logarithm.
    """
    rate, _ = as_range("random_channel_erasing", "probability", probability, "fixed", 0, 1)
    areas = as_range("random_channel_erasing", "area", area, "fixed", 0, 1)
    aspects = as_range("random_channel_erasing", "aspect", aspect, "fixed", 0.01)

    def erase(images: Any, seed: Any) -> Any:
        fill = tf.constant(_FILL) if images.shape[-1] == 3 else tf.reduce_mean(tf.constant(_FILL))
        colour = tf.broadcast_to(fill, (1, 1, 1, images.shape[-1]))
        return covered(images, seed, rate, areas, aspects, colour)

    return augmentation("random_channel_erasing", erase, channels="colour")
