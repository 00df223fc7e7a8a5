import keras

from src.augmentation._affine import FillMode, Interpolation, sampling
from src.augmentation._augment import Augment, augmentation
from src.augmentation._keras import of_keras
from src.augmentation._ranges import Range, as_range


def random_rotation(
    factor: Range,
    fill_mode: FillMode = "reflect",
    interpolation: Interpolation = "bilinear",
    fill_value: float = 0.0,
    change_rate: float = 1.0,
) -> Augment:
    """Turn images about their centre.

    Args:
        factor: Range of the angle as a share of a full turn, counter-clockwise; a number v means (-v, v).
        fill_mode: What lies outside of the image: `constant`, `reflect`, `wrap`, or the `nearest` pixel.
        interpolation: How pixels between pixels are read.
        fill_value: Value outside of the image for `constant`, in [0, 255].
        change_rate: Share of the images that are changed.
    """
    name = "random_rotation"
    layer = keras.layers.RandomRotation(
        as_range(name, "factor", factor, low=-1, high=1),
        dtype="float32",
        **sampling(name, fill_mode, interpolation, fill_value),
    )
    return augmentation(name, of_keras(layer), change_rate)
