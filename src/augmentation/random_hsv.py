from typing import Any

from src.augmentation._augment import Augment, augmentation, split, uniform
from src.augmentation._hsv import shift_hsv
from src.augmentation._ranges import Range, as_range


def random_hsv(
    hue_delta: Range, saturation_delta: Range, value_delta: Range, change_rate: float = 1.0
) -> Augment:
    """Add to hue, saturation and value. Hue goes round; saturation and value are cut to [0, 1].

    Args:
        hue_delta: Range of what is added to the hue, where 1 is the full circle; a number v means (-v, v).
        saturation_delta: The same for the saturation in [0, 1].
        value_delta: The same for the value in [0, 1].
        change_rate: Share of the images that are changed.
    """
    given = {"hue_delta": hue_delta, "saturation_delta": saturation_delta, "value_delta": value_delta}
    bounds = [as_range("random_hsv", name, value, low=-1, high=1) for name, value in given.items()]
    return augmentation("random_hsv", _shift(*bounds), change_rate, "rgb")


def random_hue(delta: Range, change_rate: float = 1.0) -> Augment:
    """Add to the hue, which goes round.

    Args:
        delta: Range of what is added, where 1 is the full circle; a number v means (-v, v).
        change_rate: Share of the images that are changed.
    """
    bounds = as_range("random_hue", "delta", delta, low=-1, high=1)
    return augmentation("random_hue", _shift(bounds, (0, 0), (0, 0)), change_rate, "rgb")


def random_saturation(delta: Range, change_rate: float = 1.0) -> Augment:
    """Add to the saturation, which is cut to [0, 1].

    Args:
        delta: Range of what is added, within [-1, 1]; a number v means (-v, v).
        change_rate: Share of the images that are changed.
    """
    bounds = as_range("random_saturation", "delta", delta, low=-1, high=1)
    return augmentation("random_saturation", _shift((0, 0), bounds, (0, 0)), change_rate, "rgb")


def random_value(delta: Range, change_rate: float = 1.0) -> Augment:
    """Add to the value of the HSV representation, which is cut to [0, 1].

    Args:
        delta: Range of what is added, within [-1, 1]; a number v means (-v, v).
        change_rate: Share of the images that are changed.
    """
    bounds = as_range("random_value", "delta", delta, low=-1, high=1)
    return augmentation("random_value", _shift((0, 0), (0, 0), bounds), change_rate, "rgb")


def _shift(*bounds: tuple[float, float]) -> Augment:
    def change(images: Any, seed: Any) -> Any:
        draws = (uniform(images, own, pair) for own, pair in zip(split(seed, 3), bounds, strict=True))
        return shift_hsv(images, *draws)

    return change
