"""From a file's pixels to the input of a network, as a value that every service shares."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from common.config import ConfigError

Interpolation = Literal[
    "bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic"
]
AspectRatio = Literal["fit", "crop", "padding"]
ColorMode = Literal["grayscale", "rgb", "rgba"]

CHANNELS: dict[str, int] = {"grayscale": 1, "rgb": 3, "rgba": 4}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input: decoded, resized to uint8, then `pixel * scale + offset`.

    Attributes:
        input_shape: Height, width, channels of the network's input.
        scale: Factor on pixels in [0, 255]: one number, or one for each channel.
        offset: Added after the factor, likewise.
        interpolation: Method of `tf.image.resize`, without anti-aliasing (`area` averages).
        aspect_ratio: `fit` distorts, `crop` keeps the ratio and takes the centre, `padding` keeps it and adds
            black.
        color_mode: What files are decoded to, whatever their own number of channels.

    Raises:
        ConfigError: an unknown choice, or a number of channels that the colour mode, scale or offset do not have.
    """

    input_shape: tuple[int, int, int]
    scale: float | tuple[float, ...] = 1 / 127.5
    offset: float | tuple[float, ...] = -1.0
    interpolation: Interpolation = "bilinear"
    aspect_ratio: AspectRatio = "fit"
    color_mode: ColorMode = "rgb"

    def __post_init__(self) -> None:
        for name, choices in (
            ("interpolation", get_args(Interpolation)),
            ("aspect_ratio", get_args(AspectRatio)),
            ("color_mode", get_args(ColorMode)),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"preprocessing: {name} must be one of {', '.join(choices)}, got '{value}'")
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise ConfigError(f"input_shape must be (height, width, channels), got {self.input_shape}")
        channels = CHANNELS[self.color_mode]
        if self.input_shape[2] != channels:
            raise ConfigError(
                f"color_mode '{self.color_mode}' has {channels} channel(s), "
                f"input_shape {self.input_shape} asks for {self.input_shape[2]}: change one of them"
            )
        for name in ("scale", "offset"):
            values = getattr(self, name)
            if not isinstance(values, list | tuple):
                continue
            if len(values) != channels:
                raise ConfigError(
                    f"preprocessing.rescaling.{name}: expected one number, or one for each of {channels} channel(s), "
                    f"received {list(values)}"
                )
            object.__setattr__(self, name, tuple(values))  # a manifest in JSON brings a list

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.input_shape[:2]

    def of_shape(self, input_shape: tuple[int, int, int]) -> "Preprocessing":
        """The same for an input of another shape, such as one channel; the channels decide the colour mode.

        Scale and offset of each channel become their means where the number of channels differs.
        """
        if input_shape[2] == self.input_shape[2]:
            return replace(self, input_shape=input_shape)
        mode: Any = next(
            (m for m, channels in CHANNELS.items() if channels == input_shape[2]), self.color_mode
        )
        scale, offset = (float(np.mean(v)) if isinstance(v, tuple) else v for v in (self.scale, self.offset))
        return replace(self, input_shape=input_shape, color_mode=mode, scale=scale, offset=offset)

    def rescale(self, pixels: Any) -> Any:
        """Return `pixels * scale + offset`, of float arrays or tensors in [0, 255]."""
        scale, offset = (
            np.asarray(value, np.float32) if isinstance(value, tuple) else value
            for value in (self.scale, self.offset)
        )
        return pixels * scale + offset
