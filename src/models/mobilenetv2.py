"""MobileNet V2: Sandler et al., Inverted Residuals and Linear Bottlenecks, CVPR 2018.

The suffix is the width multiplier in hundredths. Published weights expect images in [-1, 1].
"""

import keras

from src.models._applications import as_backbone
from src.models._inputs import image_input

# Of the sizes of image for which weights are published, 224 serves all: the networks are convolutional.
_WEIGHTS = "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{width}_224_no_top.h5"


def mobilenetv2_a035(
    input_shape: tuple[int, int, int] = (256, 128, 3), pretrained: bool = False
) -> keras.Model:
    """MobileNet V2 of width 0.35: rescaled images (N, H, W, C) to features (N, 1280)."""
    return _mobilenetv2("mobilenetv2_a035", 0.35, input_shape, pretrained)


def mobilenetv2_a050(
    input_shape: tuple[int, int, int] = (256, 128, 3), pretrained: bool = False
) -> keras.Model:
    """MobileNet V2 of width 0.5: rescaled images (N, H, W, C) to features (N, 1280)."""
    return _mobilenetv2("mobilenetv2_a050", 0.5, input_shape, pretrained)


def mobilenetv2_a075(
    input_shape: tuple[int, int, int] = (256, 128, 3), pretrained: bool = False
) -> keras.Model:
    """MobileNet V2 of width 0.75: rescaled images (N, H, W, C) to features (N, 1280)."""
    return _mobilenetv2("mobilenetv2_a075", 0.75, input_shape, pretrained)


def mobilenetv2_a100(
    input_shape: tuple[int, int, int] = (256, 128, 3), pretrained: bool = False
) -> keras.Model:
    """MobileNet V2 of width 1: rescaled images (N, H, W, C) to features (N, 1280)."""
    return _mobilenetv2("mobilenetv2_a100", 1.0, input_shape, pretrained)


def mobilenetv2_a130(
    input_shape: tuple[int, int, int] = (256, 128, 3), pretrained: bool = False
) -> keras.Model:
    """MobileNet V2 of width 1.3: rescaled images (N, H, W, C) to features (N, 1664)."""
    return _mobilenetv2("mobilenetv2_a130", 1.3, input_shape, pretrained)


def mobilenetv2_a140(
    input_shape: tuple[int, int, int] = (256, 128, 3), pretrained: bool = False
) -> keras.Model:
    """MobileNet V2 of width 1.4: rescaled images (N, H, W, C) to features (N, 1792)."""
    return _mobilenetv2("mobilenetv2_a140", 1.4, input_shape, pretrained)


def _mobilenetv2(name: str, width: float, input_shape: tuple[int, int, int], pretrained: bool) -> keras.Model:
    images = image_input(input_shape)
    network = keras.applications.MobileNetV2(
        input_tensor=images, alpha=width, include_top=False, weights=None
    )
    return as_backbone(network, name, _WEIGHTS.format(width=width) if pretrained else None)
