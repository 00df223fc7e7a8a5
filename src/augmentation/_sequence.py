"""The section data_augmentation as one function."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from common.config import ConfigError
from src.augmentation._augment import Augment
from src.registries import AUGMENTATIONS

_BETWEEN_SEEDS = 1_000_003


def sequence(
    components: Mapping[str, Mapping[str, Any] | None], input_shape: tuple[int, int, int] | None = None
) -> Augment | None:
    """Build the augmentations that a configuration names; they run in their order of appearance.

    Args:
        components: Names and arguments.
        input_shape: Height, width, channels of the images: everything is tried on one black image, because a mistake
            that shows first inside of a data set's graph loses its type and its message.

    Returns:
        One function, or None where nothing is named.

    Raises:
        ConfigError: a name or an argument is unknown, or an argument has a value that the augmentation refuses; with
            `input_shape` also colour augmentations of grey images.
    """
    functions = [_built(name, arguments) for name, arguments in components.items()]
    if not functions:
        return None

    def augment(images: Any, seed: Any) -> Any:
        for number, function in enumerate(functions):
            images = function(images, seed + [number * _BETWEEN_SEEDS, 0])
        return images

    if input_shape is not None:
        augment(tf.zeros((1, *input_shape)), tf.zeros(2, tf.int32))
    return augment


def _built(name: str, arguments: Mapping[str, Any] | None) -> Augment:
    try:
        function: Augment = AUGMENTATIONS.build(name, arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"augmentation '{name}' cannot be made: {error}") from error
    return function
