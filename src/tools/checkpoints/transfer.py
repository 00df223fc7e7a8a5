"""From PyTorch's tensors to the weights of a Keras model."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from common.config import ConfigError
from src.tools.checkpoints.sources import Source

_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_SHOWN = 20  # names of a list: enough to see what they have in common


class _Place(NamedTuple):
    """A variable, and its axes in the order of PyTorch's tensor: `tensor.transpose(axes)` fits the variable."""

    variable: Any
    axes: tuple[int, ...]

    @property
    def torch_shape(self) -> tuple[int, ...]:
        return tuple(self.variable.shape[self.axes.index(axis)] for axis in range(len(self.axes)))


def transfer(state: Mapping[str, np.ndarray], model: keras.Model, source: Source) -> Counter[str]:
    """Copy a state dict into a model, if every weight of the model and every tensor is accounted for.

    Args:
        state: Name to tensor, as PyTorch lays them out.
        model: One of `source.models`, of any input size; left as it is where the state dict does not fit.
        source: The project's names.

    Returns:
        What was left out, to the number of tensors.

    Raises:
        ConfigError: a tensor is missing, has no place, has another shape, or should be 0; the message lists them.
    """
    places = _places(model, source)
    left_out = {name: source.reason_to_leave_out(name) for name in state if name not in places}
    mistakes = {
        "missing": [name for name in places if name not in state],
        "without a place in the model": [name for name, what in left_out.items() if what is None],
        "of another shape": [
            f"{name} is {state[name].shape}, expected {place.torch_shape}"
            for name, place in places.items()
            if name in state and state[name].shape != place.torch_shape
        ],
        "not 0, as the model needs": [name for name in source.zeros if name in state and np.any(state[name])],
    }
    if any(mistakes.values()):
        lines = [_line(what, names) for what, names in mistakes.items() if names]
        raise ConfigError("\n  ".join([f"the checkpoint does not fit '{model.name}'", *lines]))
    for name, (variable, axes) in places.items():
        variable.assign(state[name].transpose(axes))
    return Counter(str(what) for what in left_out.values())


def _places(model: keras.Model, source: Source) -> dict[str, _Place]:
    """Name of each tensor that the model needs, to where it goes."""
    places = {}
    for layer in model.layers:
        for variable in layer.weights:
            name = f"{source.module_of(layer.name)}.{_NAMES[variable.name]}"
            assert name not in places, name
            places[name] = _Place(variable, _axes(layer, variable))
    return places


def _axes(layer: keras.Layer, variable: Any) -> tuple[int, ...]:
    if len(variable.shape) == 1:
        return (0,)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return (2, 3, 0, 1)  # (C, 1, h, w) to (h, w, C, 1)
    if isinstance(layer, keras.layers.Conv2D):
        return (2, 3, 1, 0)  # (out, in, h, w) to (h, w, in, out)
    assert isinstance(layer, keras.layers.Dense), layer.name
    return (1, 0)  # (out, in) to (in, out)


def _line(what: str, names: Sequence[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} tensor(s) {what}: {', '.join(names[:_SHOWN])}{more}"
