from typing import Any

from src.augmentation._augment import Augment, augmentation, whole
from src.augmentation._channels import replicated


def random_channel_exchange(change_rate: float = 1.0) -> Augment:
    """Put red, green or blue, each equally often, in the place of all three channels.

    A visible image then has, as a thermal one, no colour to recognize people by (Ye et al., Channel Augmented Joint
    Learning for Visible-Infrared Recognition, ICCV 2021). There it makes the second visible view of a joint training,
    of which every image is changed.

    Args:
        change_rate: Share of the images that are changed.
    """

    def change(images: Any, seed: Any) -> Any:
        return replicated(images, whole(images, seed, (0, 2)))

    return augmentation("random_channel_exchange", change, change_rate, "rgb")
