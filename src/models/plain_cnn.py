import keras
from keras import layers

from src.models._convolution import convolution
from src.models._inputs import image_input

_STAGES = ((24, 2), (48, 2), (64, 1), (96, 2), (128, 1), (192, 2))
"""Filters and stride of each convolution."""


def plain_cnn(input_shape: tuple[int, int, int] = (128, 64, 3), width: float = 1.0) -> keras.Model:
    """Build six plain 3x3 convolutions: rescaled images (N, H, W, C) to features (N, 192 * width).

    A network for experiments on a CPU: dense convolutions are what it computes fastest.

    Args:
        input_shape: Height, width and channels.
        width: Factor on the filters of every convolution; 0.5 leaves a quarter of the weights.

    Raises:
        ValueError: `width` leaves a convolution without a filter.
    """
    if round(_STAGES[0][0] * width) < 1:
        raise ValueError(f"width: expected at least {1 / _STAGES[0][0]:.3f}, received {width}")
    images = image_input(input_shape)  # (N, 128, 64, 3)
    x = images
    for number, (filters, strides) in enumerate(_STAGES, start=1):
        x = convolution(x, round(filters * width), f"conv{number}", kernel_size=3, strides=strides)
    # With width 1: (N, 64, 32, 24), (N, 32, 16, 48), (N, 32, 16, 64), (N, 16, 8, 96), (N, 16, 8, 128), (N, 8, 4, 192)
    return keras.Model(images, layers.GlobalAveragePooling2D(name="features")(x), name="plain_cnn")
