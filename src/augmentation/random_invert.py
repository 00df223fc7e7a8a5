from typing import Any

from src.augmentation._augment import Augment, augmentation


def random_invert(change_rate: float = 0.25) -> Augment:
    """Turn images into their negative, 255 - x.

    Args:
        change_rate: Share of the images that are changed.
    """

    def change(images: Any, seed: Any) -> Any:
        return 255 - images

    return augmentation("random_invert", change, change_rate, "colour")
