"""The operations that AugMix and RandAugment choose from."""

from math import atan, tau

from src.augmentation._augment import Augment, keep
from src.augmentation.random_autocontrast import random_autocontrast
from src.augmentation.random_color_jitter import random_color_jitter
from src.augmentation.random_equalize import random_equalize
from src.augmentation.random_posterize import random_posterize
from src.augmentation.random_rotation import random_rotation
from src.augmentation.random_sharpness import random_sharpness
from src.augmentation.random_shear import random_shear_x, random_shear_y
from src.augmentation.random_solarize import random_solarize
from src.augmentation.random_translation import random_translation


def general_operations(strength: float) -> list[Augment]:
    """Return the nine operations of AugMix, in any number of channels.

    Args:
        strength: In [0, 1]; at 1 images turn by up to 30 degrees, shear by up to 0.3, move by up to a third, keep 4
            bits or more, and are solarized from any threshold on.
    """
    shear = atan(0.3 * strength) / tau
    black = {"fill_mode": "constant"}
    return [
        random_autocontrast(cutoff=0, change_rate=1),
        random_equalize(change_rate=1),
        random_posterize((8 - round(4 * strength), 8)),
        random_rotation(30 / 360 * strength, **black),  # type: ignore[arg-type]
        random_solarize((255 * (1 - strength), 255), change_rate=1),
        random_shear_x(shear, **black),  # type: ignore[arg-type]
        random_shear_y(shear, **black),  # type: ignore[arg-type]
        random_translation(strength / 3, 0, **black),  # type: ignore[arg-type]
        random_translation(0, strength / 3, **black),  # type: ignore[arg-type]
    ]


def colour_operations(strength: float) -> list[Augment]:
    """Return the further operations of RandAugment, for three channels: factors of up to 1 +- 0.9 at strength 1."""
    change = 0.9 * strength
    return [
        keep,
        random_color_jitter(change, 0, 0, 0, change_rate=1),
        random_color_jitter(0, change, 0, 0, change_rate=1),
        random_color_jitter(0, 0, change, 0, change_rate=1),
        random_sharpness(change),
    ]
