"""Non-local blocks: Wang et al., Non-local Neural Networks, CVPR 2018; Ye et al., AGW, 2021."""

from collections.abc import Callable
from typing import Literal, get_args

import keras
from keras import layers

NonLocal = Literal["agw", "embedded", "none"]


def non_local(x: keras.KerasTensor, kind: str, name: str) -> keras.KerasTensor:
    """Add to every position what it draws from all positions. A new block is the identity, so it disturbs no weights.

    - `agw`: as in the published code of AGW: theta, phi and g have a single channel, and the affinity of two positions
      is theta * phi / (H * W), without a softmax. Then the sum over positions is the same for all, and the block is
      products and a mean: nearly free, and made of layers that quantize.
    - `embedded`: the embedded Gaussian of the paper: half of the channels, and a softmax over all positions.
    - `none`: nothing.

    Args:
        x: (N, H, W, C), with H and W known.
        kind: One of `NonLocal`.
        name: Prefix of the layers' names.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in _ATTENTIONS and kind != "none":
        raise ValueError(f"non_local: expected one of {', '.join(get_args(NonLocal))}, received {kind!r}")
    if kind == "none":
        return x
    channels = x.shape[-1]
    y = _ATTENTIONS[kind](x, name)
    y = layers.Conv2D(channels, 1, name=f"{name}_w")(y)
    y = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer="zeros", name=f"{name}_w_bn")(
        y
    )
    return layers.Add(name=f"{name}_add")([x, y])


def _single_channel(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    theta, phi, g = (layers.Conv2D(1, 1, name=f"{name}_{part}")(x) for part in ("theta", "phi", "g"))
    drawn = layers.Multiply(name=f"{name}_phi_g")([phi, g])  # (N, H, W, 1)
    drawn = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(drawn)  # (N, 1, 1, 1)
    return layers.Multiply(name=f"{name}_attention")([theta, drawn])


def _embedded_gaussian(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    _, height, width, channels = x.shape
    inner = channels // 2
    theta, phi, g = (
        layers.Reshape((height * width, inner), name=f"{name}_{part}_positions")(
            layers.Conv2D(inner, 1, name=f"{name}_{part}")(x)
        )
        for part in ("theta", "phi", "g")
    )
    affinity = layers.Dot(axes=(2, 2), name=f"{name}_affinity")([theta, phi])  # (N, HW, HW)
    attention = layers.Softmax(name=f"{name}_attention")(affinity)
    drawn = layers.Dot(axes=(2, 1), name=f"{name}_drawn")([attention, g])  # (N, HW, inner)
    return layers.Reshape((height, width, inner), name=f"{name}_map")(drawn)


_ATTENTIONS: dict[str, Callable[[keras.KerasTensor, str], keras.KerasTensor]] = {
    "agw": _single_channel,
    "embedded": _embedded_gaussian,
}
