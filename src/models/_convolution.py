"""Convolutions with PyTorch's padding, batch-norm constants and initial weights, so that published weights fit."""

import keras
from keras import layers


def convolution(
    x: keras.KerasTensor,
    width: int,
    name: str,
    kernel_size: int = 1,
    strides: int = 1,
    relu: bool = True,
) -> keras.KerasTensor:
    """A convolution without bias, batch norm, and ReLU unless it is linear. Both sides of the image are padded alike.

    Args:
        x: (N, H, W, C).
        width: Filters.
        name: Of the convolution; the other layers add a suffix.
        kernel_size: Odd.
        strides: Of both directions.
        relu: Whether a ReLU follows.
    """
    if kernel_size > 1 and strides > 1:  # Keras's "same" pads one side more than the other
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
    padding = "same" if strides == 1 else "valid"
    x = layers.Conv2D(
        width, kernel_size, strides, padding, use_bias=False, kernel_initializer=he("fan_out"), name=name
    )(x)
    x = batch_norm(x, name)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def batch_norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """PyTorch's constants, which differ from Keras's."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)


def he(mode: str) -> keras.initializers.Initializer:
    """Kaiming's normal initialization with `fan_in` or `fan_out`."""
    return keras.initializers.VarianceScaling(2.0, mode, "untruncated_normal")
