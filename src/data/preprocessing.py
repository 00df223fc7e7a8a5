"""From a file's pixels to the input of a network, as a value that every service shares."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

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
        scale: Factor on pixels in [0, 255].
        offset: Added after the factor.
        interpolation: Method of `tf.image.resize`, without anti-aliasing (`area` averages).
        aspect_ratio: `fit` distorts, `crop` keeps the ratio and takes the centre, `padding` keeps it and adds
            black.
        color_mode: What files are decoded to, whatever their own number of channels.

    Raises:
        ConfigError: an unknown choice, or channels that the colour mode does not have.
    """

    input_shape: tuple[int, int, int]
    scale: float = 1 / 127.5
    offset: float = -1.0
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

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.input_shape[:2]

    def of_shape(self, input_shape: tuple[int, int, int]) -> "Preprocessing":
        """The same for an input of another shape, such as one channel; the channels decide the colour mode."""
        if input_shape[2] == self.input_shape[2]:
            return replace(self, input_shape=input_shape)
        mode: Any = next(
            (m for m, channels in CHANNELS.items() if channels == input_shape[2]), self.color_mode
        )
        return replace(self, input_shape=input_shape, color_mode=mode)

    def rescale(self, pixels: Any) -> Any:
        """Return `pixels * scale + offset`, of float arrays or tensors in [0, 255]."""
        return pixels * self.scale + self.offset
