from typing import Any

from src.augmentation._augment import Augment, augmentation, choose, split, whole
from src.augmentation._operations import colour_operations, general_operations
from src.augmentation._ranges import as_range


def rand_augment(num_ops: int = 2, magnitude: float = 9, change_rate: float = 1.0) -> Augment:
    """Apply operations chosen at random, for each image its own (Cubuk et al. 2020, "RandAugment").

    Of the fourteen operations of the paper. A strength is drawn uniformly up to the magnitude, where the paper has one
    strength for all.

    Args:
        num_ops: Operations one after the other, 1 or more.
        magnitude: Strength, 0 to 30.
        change_rate: Share of the images that are changed.
    """
    count = int(as_range("rand_augment", "num_ops", num_ops, "fixed", 1, whole=True)[0])
    strength = as_range("rand_augment", "magnitude", magnitude, "fixed", 0, 30)[0] / 30
    operations = [*general_operations(strength), *colour_operations(strength)]

    def change(images: Any, seed: Any) -> Any:
        for own in split(seed, count):
            choice, own = split(own, 2)
            images = choose(operations, whole(images, choice, (0, len(operations) - 1)), images, own)
        return images

    return augmentation("rand_augment", change, change_rate, "rgb")
