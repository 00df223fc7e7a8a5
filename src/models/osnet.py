"""OSNet: Zhou et al., Omni-Scale Feature Learning for Person Re-Identification, ICCV 2019.

As published, with the 512-d embedding; the suffix is the width multiplier in hundredths. Layers follow the
paper and PyTorch in padding and batch norm, so that published weights fit. They are written so that they
quantize: the gate's sigmoid is a layer of its own, its products are `Multiply`, streams are added in pairs.
"""

import keras
from keras import layers

from src.models._convolution import batch_norm, convolution, he
from src.models._inputs import image_input

_EMBEDDING_SIZE = 512
_STREAMS = 4
_GATE_REDUCTION = 16


def osnet_a025(input_shape: tuple[int, int, int] = (256, 128, 3)) -> keras.Model:
    """OSNet x0.25: rescaled images (N, H, W, C) to features (N, 512)."""
    return _osnet("osnet_a025", (16, 64, 96, 128), input_shape)


def osnet_a050(input_shape: tuple[int, int, int] = (256, 128, 3)) -> keras.Model:
    """OSNet x0.5: rescaled images (N, H, W, C) to features (N, 512)."""
    return _osnet("osnet_a050", (32, 128, 192, 256), input_shape)


def osnet_a075(input_shape: tuple[int, int, int] = (256, 128, 3)) -> keras.Model:
    """OSNet x0.75: rescaled images (N, H, W, C) to features (N, 512)."""
    return _osnet("osnet_a075", (48, 192, 288, 384), input_shape)


def osnet_a100(input_shape: tuple[int, int, int] = (256, 128, 3)) -> keras.Model:
    """OSNet x1.0: rescaled images (N, H, W, C) to features (N, 512)."""
    return _osnet("osnet_a100", (64, 256, 384, 512), input_shape)


def _osnet(name: str, channels: tuple[int, int, int, int], input_shape: tuple[int, int, int]) -> keras.Model:
    images = image_input(input_shape)  # (N, 256, 128, 3)
    x = convolution(images, channels[0], "conv1", kernel_size=7, strides=2)  # (N, 128, 64, C0)
    x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)  # zeros are below no activation: a ReLU stands before
    x = layers.MaxPooling2D(3, strides=2, name="maxpool")(x)  # (N, 64, 32, C0)
    for stage, width in zip(("conv2", "conv3"), channels[1:3], strict=True):
        x = _block(x, width, f"{stage}_1")
        x = _block(x, width, f"{stage}_2")
        x = convolution(x, width, f"{stage}_transition")
        x = layers.AveragePooling2D(2, name=f"{stage}_transition_pool")(x)  # (N, 32, 16, C1), (N, 16, 8, C2)
    x = _block(x, channels[3], "conv4_1")
    x = _block(x, channels[3], "conv4_2")
    x = convolution(x, channels[3], "conv5")  # (N, 16, 8, C3)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(
        _EMBEDDING_SIZE, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01), name="fc"
    )(x)
    return keras.Model(images, layers.ReLU(name="features")(batch_norm(x, "fc")), name=name)


def _block(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    """Omni-scale block: streams of 1, 2, 3, 4 light convolutions, weighted by one shared gate and summed."""
    middle = width // 4
    reduced = convolution(x, middle, f"{name}_conv1")
    squeeze, excite = _gate_convolutions(middle, f"{name}_gate")
    fused = None
    for stream in range(1, _STREAMS + 1):
        prefix = f"{name}_stream{stream}"
        y = reduced
        for depth in range(1, stream + 1):
            y = _light_conv(y, middle, f"{prefix}_{depth}")
        weights = layers.GlobalAveragePooling2D(keepdims=True, name=f"{prefix}_pool")(y)  # (N, 1, 1, middle)
        weights = layers.Activation("sigmoid", name=f"{prefix}_gate")(excite(squeeze(weights)))
        y = layers.Multiply(name=f"{prefix}_gated")([y, weights])
        fused = y if fused is None else layers.Add(name=f"{prefix}_add")([fused, y])
    expanded = convolution(fused, width, f"{name}_conv3", relu=False)
    shortcut = x if x.shape[-1] == width else convolution(x, width, f"{name}_downsample", relu=False)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([expanded, shortcut]))


def _gate_convolutions(width: int, name: str) -> tuple[keras.Layer, keras.Layer]:
    """Return the two convolutions of a gate, which its block calls once for each stream."""
    squeeze = layers.Conv2D(
        width // _GATE_REDUCTION, 1, activation="relu", kernel_initializer=he("fan_out"), name=f"{name}_fc1"
    )
    return squeeze, layers.Conv2D(width, 1, kernel_initializer=he("fan_out"), name=f"{name}_fc2")


def _light_conv(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    """A linear 1x1 convolution and a 3x3 depthwise one, then batch norm and ReLU."""
    x = layers.Conv2D(width, 1, use_bias=False, kernel_initializer=he("fan_out"), name=f"{name}_pointwise")(x)
    # Keras swaps the fans of a depthwise kernel: its fan_in is PyTorch's fan_out.
    x = layers.DepthwiseConv2D(
        3, padding="same", use_bias=False, depthwise_initializer=he("fan_in"), name=f"{name}_depthwise"
    )(x)
    return layers.ReLU(name=f"{name}_relu")(batch_norm(x, name))
