import keras

from src.augmentation._augment import Augment, augmentation
from src.augmentation._keras import of_keras
from src.augmentation._ranges import Range, as_range


def random_brightness(factor: Range, change_rate: float = 1.0) -> Augment:
    """Add 255 f to all pixels.

    Args:
        factor: Range of f, within [-1, 1]; a number v means (-v, v).
        change_rate: Share of the images that are changed.
    """
    bounds = as_range("random_brightness", "factor", factor, low=-1, high=1)
    layer = keras.layers.RandomBrightness(bounds, value_range=(0, 255), dtype="float32")
    return augmentation("random_brightness", of_keras(layer), change_rate, "colour")
