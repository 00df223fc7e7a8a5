"""The section data_augmentation as one function."""

from collections.abc import Mapping
from typing import Any

from common.config import ConfigError
from src.augmentation._augment import Augment
from src.registries import AUGMENTATIONS

_BETWEEN_SEEDS = 1_000_003


def sequence(components: Mapping[str, Mapping[str, Any] | None]) -> Augment | None:
    """Build the augmentations that a configuration names; they run in their order of appearance.

    Returns:
        One function, or None where nothing is named.

    Raises:
        ConfigError: a name or an argument is unknown, or an argument has a value that the augmentation refuses.
    """
    functions = [_built(name, arguments) for name, arguments in components.items()]
    if not functions:
        return None

    def augment(images: Any, seed: Any) -> Any:
        for number, function in enumerate(functions):
            images = function(images, seed + [number * _BETWEEN_SEEDS, 0])
        return images

    return augment


def _built(name: str, arguments: Mapping[str, Any] | None) -> Augment:
    try:
        function: Augment = AUGMENTATIONS.build(name, arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"augmentation '{name}' cannot be made: {error}") from error
    return function
