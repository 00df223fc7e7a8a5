"""ResNet in the form of the published PyTorch weights, and with IBN.

He et al., Deep Residual Learning for Image Recognition, 2016, with the stride in the 3x3 convolution (torchvision's
"v1.5"); Pan et al., Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net, ECCV 2018. For
re-identification the last stage has stride 1 (Luo et al., Bag of Tricks, 2019): twice the height and width before
pooling, and half as many multiply-accumulates again.
"""

from typing import Literal

import keras
from keras import layers

from src.models._convolution import batch_norm, convolution, he
from src.models._inputs import image_input

_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4
_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def resnet50(
    input_shape: tuple[int, int, int] = (256, 128, 3), last_stride: Literal[1, 2] = 1
) -> keras.Model:
    """ResNet-50: rescaled images (N, H, W, C) to features (N, 2048)."""
    return _resnet("resnet50", 50, input_shape, last_stride, ibn=False)


def resnet101(
    input_shape: tuple[int, int, int] = (256, 128, 3), last_stride: Literal[1, 2] = 1
) -> keras.Model:
    """ResNet-101: rescaled images (N, H, W, C) to features (N, 2048)."""
    return _resnet("resnet101", 101, input_shape, last_stride, ibn=False)


def resnet50_ibn_a(
    input_shape: tuple[int, int, int] = (256, 128, 3), last_stride: Literal[1, 2] = 1
) -> keras.Model:
    """ResNet-50 with instance and batch norm: rescaled images (N, H, W, C) to features (N, 2048)."""
    return _resnet("resnet50_ibn_a", 50, input_shape, last_stride, ibn=True)


def _resnet(
    name: str, depth: int, input_shape: tuple[int, int, int], last_stride: int, ibn: bool
) -> keras.Model:
    if last_stride not in (1, 2):
        raise ValueError(f"last_stride: expected 1 or 2, received {last_stride}")
    images = image_input(input_shape)  # (N, 256, 128, 3)
    x = convolution(images, _WIDTHS[0], "conv1", kernel_size=7, strides=2)  # (N, 128, 64, 64)
    x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)  # zeros are below no activation: a ReLU stands before
    x = layers.MaxPooling2D(3, strides=2, name="maxpool")(x)  # (N, 64, 32, 64)
    for stage, (width, blocks) in enumerate(zip(_WIDTHS, _DEPTHS[depth], strict=True), start=1):
        for block in range(1, blocks + 1):
            strides = (1, 2, 2, last_stride)[stage - 1] if block == 1 else 1
            x = _bottleneck(x, width, strides, ibn and stage < 4, f"layer{stage}_{block}")
    # (N, 64, 32, 256), (N, 32, 16, 512), (N, 16, 8, 1024), (N, 16, 8, 2048)
    return keras.Model(images, layers.GlobalAveragePooling2D(name="features")(x), name=name)


def _bottleneck(x: keras.KerasTensor, width: int, strides: int, ibn: bool, name: str) -> keras.KerasTensor:
    """1x1, 3x3 and 1x1 convolutions beside the identity, or a projection in the first block of a stage."""
    y = _instance_batch(x, width, f"{name}_conv1") if ibn else convolution(x, width, f"{name}_conv1")
    y = convolution(y, width, f"{name}_conv2", kernel_size=3, strides=strides)
    y = convolution(y, width * _EXPANSION, f"{name}_conv3", relu=False)
    if name.endswith("_1"):
        x = convolution(x, width * _EXPANSION, f"{name}_downsample", strides=strides, relu=False)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([y, x]))


def _instance_batch(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    """IBN-a: instance norm on the first half of the channels, batch norm on the others.

    The halves are two convolutions, so that the second one quantizes with its batch norm folded in.
    """
    halves = []
    for part in ("in", "bn"):
        half = layers.Conv2D(
            width // 2, 1, use_bias=False, kernel_initializer=he("fan_out"), name=f"{name}_{part}_half"
        )(x)
        halves.append(half)
    instance = layers.GroupNormalization(groups=-1, epsilon=1e-5, name=f"{name}_in")(halves[0])
    joined = layers.Concatenate(name=f"{name}_halves")([instance, batch_norm(halves[1], name)])
    return layers.ReLU(name=f"{name}_relu")(joined)
