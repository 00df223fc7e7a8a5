"""MobileNet V1: Howard et al., MobileNets, 2017.

The suffix is the width multiplier in hundredths. Published weights expect images in [-1, 1].
"""

import keras

from src.models._applications import as_backbone
from src.models._inputs import image_input

# Of the sizes of image for which weights are published, 224 serves all: the networks are convolutional.
_WEIGHTS = "mobilenet/mobilenet_{width}_224_tf_no_top.h5"
_WIDTHS = {0.25: "2_5", 0.5: "5_0", 0.75: "7_5", 1.0: "1_0"}


def mobilenetv1_a025(
    input_shape: tuple[int, int, int] = (256, 128, 3), pretrained: bool = False
) -> keras.Model:
    """MobileNet V1 of width 0.25: rescaled images (N, H, W, C) to features (N, 256)."""
    return _mobilenetv1("mobilenetv1_a025", 0.25, input_shape, pretrained)


def mobilenetv1_a050(
    input_shape: tuple[int, int, int] = (256, 128, 3), pretrained: bool = False
) -> keras.Model:
    """MobileNet V1 of width 0.5: rescaled images (N, H, W, C) to features (N, 512)."""
    return _mobilenetv1("mobilenetv1_a050", 0.5, input_shape, pretrained)


def mobilenetv1_a075(
    input_shape: tuple[int, int, int] = (256, 128, 3), pretrained: bool = False
) -> keras.Model:
    """MobileNet V1 of width 0.75: rescaled images (N, H, W, C) to features (N, 768)."""
    return _mobilenetv1("mobilenetv1_a075", 0.75, input_shape, pretrained)


def mobilenetv1_a100(
    input_shape: tuple[int, int, int] = (256, 128, 3), pretrained: bool = False
) -> keras.Model:
    """MobileNet V1 of width 1: rescaled images (N, H, W, C) to features (N, 1024)."""
    return _mobilenetv1("mobilenetv1_a100", 1.0, input_shape, pretrained)


def _mobilenetv1(name: str, width: float, input_shape: tuple[int, int, int], pretrained: bool) -> keras.Model:
    images = image_input(input_shape)
    network = keras.applications.MobileNet(input_tensor=images, alpha=width, include_top=False, weights=None)
    weights = _WEIGHTS.format(width=_WIDTHS[width]) if pretrained else None
    return as_backbone(network, name, weights)
