"""Layers that keep their weights while the others are trained."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import keras

from common.config import ConfigError
from common.indices import parse_indices

KEY = "training.frozen_layers"


class LayerRow(NamedTuple):
    """One top-level layer of a network."""

    number: int
    """Its index."""
    name: str
    kind: str
    """Name of its class."""
    frozen: bool
    weights: int
    """Numbers in its weights, moving statistics included."""


def freeze(network: keras.Model, text: str | int | Sequence[int | str] | None) -> list[LayerRow]:
    """Make every layer trainable, then freeze those that `text` selects among the top-level layers.

    A frozen batch norm uses its moving statistics, also in training, and does not update them.

    Args:
        network: A training network; changed in place. Optimizers and compiled steps take their variables from it
            afterwards.
        text: `training.frozen_layers`, see `common.indices.parse_indices`; None freezes nothing.

    Returns:
        All top-level layers in order.

    Raises:
        ConfigError: the text is no index, an index is out of range, a slice is empty, or nothing is left to train.
    """
    try:
        indices = parse_indices(text)
    except ValueError as error:
        raise ConfigError(f"{KEY}: {error}") from error
    selected = {number for index in indices for number in _numbers(index, len(network.layers))}
    network.trainable = False  # setting what is set already does not reach the layers inside
    network.trainable = True
    for number in selected:
        network.layers[number].trainable = False
    if not network.trainable_variables:
        raise ConfigError(
            f"{KEY}: {text} leaves no weight to train; the network has {len(network.layers)} layers"
        )
    return [
        LayerRow(number, layer.name, type(layer).__name__, number in selected, layer.count_params())
        for number, layer in enumerate(network.layers)
    ]


def table_of(rows: Sequence[LayerRow]) -> str:
    """Return the layers as text, a line for each run of frozen or trained ones."""
    lines = [f"{'layers':>11}  {'':<7}  {'weights':>11}  first and last of them"]
    for frozen, run in groupby(rows, key=lambda row: row.frozen):
        first, *others = run
        last = others[-1] if others else first
        names = f"{first.name} ({first.kind})" + (f" ... {last.name} ({last.kind})" if others else "")
        numbers = f"{first.number}-{last.number}" if others else str(first.number)
        weights = sum(row.weights for row in [first, *others])
        lines.append(f"{numbers:>11}  {'frozen' if frozen else 'trained':<7}  {weights:>11,}  {names}")
    frozen_weights = sum(row.weights for row in rows if row.frozen)
    total = sum(row.weights for row in rows)
    frozen_layers = sum(row.frozen for row in rows)
    lines.append(
        f"{frozen_layers} of {len(rows)} layers and {frozen_weights:,} of {total:,} weights are frozen"
    )
    return "\n".join(lines)


def _numbers(index: int | slice, count: int) -> range:
    """Return the layer numbers, from 0, that an index or a slice selects among `count` layers."""
    if isinstance(index, slice):
        numbers = range(count)[index]
        spelling = ":".join("" if part is None else str(part) for part in (index.start, index.stop))
        if not numbers:
            raise ConfigError(f"{KEY}: the slice {spelling} selects none of the network's {count} layers")
        return numbers
    if not -count <= index < count:
        raise ConfigError(
            f"{KEY}: there is no layer {index}, the network has {count} layers: 0 to {count - 1}, or -{count} to -1"
        )
    return range(index % count, index % count + 1)
