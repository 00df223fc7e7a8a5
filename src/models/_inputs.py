import keras

from common.config import ConfigError

_SMALLEST = 32  # five strides of 2


def image_input(input_shape: tuple[int, int, int], smallest: int = _SMALLEST) -> keras.KerasTensor:
    """Return the input tensor `images` (N, H, W, C) of a backbone.

    Raises:
        ConfigError: not three positive integers, or an image smaller than the strides of the networks allow.
    """
    shape = tuple(input_shape)
    if (
        len(shape) != 3
        or not all(isinstance(size, int) and size > 0 for size in shape)
        or min(shape[:2]) < smallest
    ):
        raise ConfigError(
            f"input_shape: expected (height, width, channels) with height and width of at least {smallest}, "
            f"such as (256, 128, 3), received {input_shape}"
        )
    return keras.Input(shape, name="images")
