"""Arguments that all geometric changes have."""

from typing import Any, Literal, get_args

from src.augmentation._ranges import as_choice, as_range

FillMode = Literal["constant", "reflect", "wrap", "nearest"]
Interpolation = Literal["nearest", "bilinear"]


def sampling(function: str, fill_mode: str, interpolation: str, fill_value: float) -> dict[str, Any]:
    """Check how pixels are read that lie between pixels or outside of the image.

    Raises:
        ValueError: an unknown choice, or a fill value outside of [0, 255].
    """
    return {
        "fill_mode": as_choice(function, "fill_mode", fill_mode, get_args(FillMode)),
        "interpolation": as_choice(function, "interpolation", interpolation, get_args(Interpolation)),
        "fill_value": as_range(function, "fill_value", fill_value, "fixed", 0, 255)[0],
    }
