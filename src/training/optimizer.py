"""From the configuration's names to Keras's objects."""

from collections.abc import Callable
from typing import Any

import keras

from common.config import ConfigError
from src.schema import Adaptation, Training


def optimizer_of(training: Training | Adaptation) -> keras.optimizers.Optimizer:
    """Return the optimizer of a training, which scales the loss where it computes in float16.

    Raises:
        ConfigError: an argument has a value that Keras refuses.
    """
    name, arguments = training.optimizer.name, training.optimizer.arguments
    optimizer = built(f"optimizer '{name}'", lambda: getattr(keras.optimizers, name)(**arguments))
    if training.mixed_precision == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def built(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a constructor whose arguments come from the configuration, and name it when it refuses one."""
    try:
        return function(*arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what} cannot be made: {error}") from error
