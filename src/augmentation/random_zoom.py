import keras

from src.augmentation._affine import FillMode, Interpolation, sampling
from src.augmentation._augment import Augment, augmentation
from src.augmentation._keras import of_keras
from src.augmentation._ranges import Range, as_range


def random_zoom(
    width_factor: Range,
    height_factor: Range | None = None,
    fill_mode: FillMode = "reflect",
    interpolation: Interpolation = "bilinear",
    fill_value: float = 0.0,
    change_rate: float = 1.0,
) -> Augment:
    """Zoom out of images (factors above 0) or into them (below 0).

    Args:
        width_factor: Range of f, above -1 and up to 1, where the part of the scene that is seen has 1 + f times the
            image's width; a number v means (-v, v).
        height_factor: The same for the height; the width's draw where it is not set, so that nothing is distorted.
        fill_mode: What lies outside of the image: `constant`, `reflect`, `wrap`, or the `nearest` pixel.
        interpolation: How pixels between pixels are read.
        fill_value: Value outside of the image for `constant`, in [0, 255].
        change_rate: Share of the images that are changed.
    """
    name = "random_zoom"
    width = as_range(name, "width_factor", width_factor, low=-0.99, high=1)
    height = (
        width if height_factor is None else as_range(name, "height_factor", height_factor, low=-0.99, high=1)
    )
    layer = keras.layers.RandomZoom(
        height_factor=height,
        width_factor=None if height_factor is None else width,
        dtype="float32",
        **sampling(name, fill_mode, interpolation, fill_value),
    )
    return augmentation(name, of_keras(layer), change_rate)
