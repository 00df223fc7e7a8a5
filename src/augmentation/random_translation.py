import keras

from src.augmentation._affine import FillMode, Interpolation, sampling
from src.augmentation._augment import Augment, augmentation
from src.augmentation._keras import of_keras
from src.augmentation._ranges import Range, as_range


def random_translation(
    width_factor: Range,
    height_factor: Range,
    fill_mode: FillMode = "reflect",
    interpolation: Interpolation = "bilinear",
    fill_value: float = 0.0,
    change_rate: float = 1.0,
) -> Augment:
    """Move images.

    Args:
        width_factor: Range of the movement to the right as a share of the width, within [-1, 1]; a number v means
            (-v, v).
        height_factor: The same downwards, as a share of the height.
        fill_mode: What lies outside of the image: `constant`, `reflect`, `wrap`, or the `nearest` pixel.
        interpolation: How pixels between pixels are read.
        fill_value: Value outside of the image for `constant`, in [0, 255].
        change_rate: Share of the images that are changed.
    """
    name = "random_translation"
    layer = keras.layers.RandomTranslation(
        height_factor=as_range(name, "height_factor", height_factor, low=-1, high=1),
        width_factor=as_range(name, "width_factor", width_factor, low=-1, high=1),
        dtype="float32",
        **sampling(name, fill_mode, interpolation, fill_value),
    )
    return augmentation(name, of_keras(layer), change_rate)
