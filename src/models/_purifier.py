"""The purifier of IDKL's specific branch: Ren and Zhang, Implicit Discriminative Knowledge Learning, CVPR 2024."""

from typing import NamedTuple

import keras
from keras import layers

from common.layers.gem import GeM

_REDUCTION = 16


class Purified(NamedTuple):
    """A map without its modality's style, and what the purification loss looks at."""

    map: keras.KerasTensor
    """(N, H, W, C)."""
    parts: keras.KerasTensor
    """Pooled: the map before and after its mask (N, 2, C)."""
    normed_parts: keras.KerasTensor
    """The same of the instance-normed map (N, 2, C)."""


def purifier(x: keras.KerasTensor, name: str) -> Purified:
    """Keep of a map what is in it and in its instance-normed form.

    Instance norm takes a modality's style away, and discriminative detail with it. A mask of each of the two says what
    to keep of the other: `mask(IN(x)) * masked x + mask(x) * masked IN(x)`, where a mask is sigmoid(1x1(ReLU(1x1))) of
    each position and channel, as in the published code.

    Args:
        x: (N, H, W, C), after a ReLU.
        name: Prefix of the layers' names.
    """
    normed = layers.GroupNormalization(groups=-1, epsilon=1e-5, name=f"{name}_in")(x)
    mask, normed_mask = _mask(x, f"{name}_mask"), _mask(normed, f"{name}_in_mask")
    masked = layers.Multiply(name=f"{name}_masked")([mask, x])
    normed_masked = layers.Multiply(name=f"{name}_in_masked")([normed_mask, normed])
    kept = layers.Multiply(name=f"{name}_kept")([normed_mask, masked])
    normed_kept = layers.Multiply(name=f"{name}_in_kept")([mask, normed_masked])
    return Purified(
        layers.Add(name=f"{name}_add")([kept, normed_kept]),
        _pooled((x, masked), f"{name}_parts"),
        _pooled((normed, normed_masked), f"{name}_in_parts"),
    )


def _mask(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    channels = x.shape[-1]
    y = layers.Conv2D(channels // _REDUCTION, 1, activation="relu", name=f"{name}_fc1")(x)
    y = layers.Conv2D(channels, 1, name=f"{name}_fc2")(y)
    return layers.Activation("sigmoid", name=name)(y)


def _pooled(maps: tuple[keras.KerasTensor, ...], name: str) -> keras.KerasTensor:
    rows = [
        layers.Reshape((1, maps[0].shape[-1]), name=f"{name}_{number}")(
            GeM(name=f"{name}_{number}_pool")(part)
        )
        for number, part in enumerate(maps)
    ]
    return layers.Concatenate(axis=1, name=name)(rows)
