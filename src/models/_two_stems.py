"""Networks for visible and thermal images: a stem for each modality, and a trunk that they share.

In training the two batches are put behind one another, visible images first, so that the trunk's batch norms and the
losses see both. For inference each modality is a network of its own, with the trunk's weights in common.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from common.config import ConfigError
from common.layers.batch_part import BatchPart
from common.layers.replay import Call, replay

MODALITIES = ("visible", "thermal")
JOINED = "modalities"
"""Name of the layer that puts the two batches behind one another."""


def has_two_stems(model: keras.Model) -> bool:
    """Whether a model takes visible and thermal images."""
    return isinstance(model.input, dict) and set(model.input) == set(MODALITIES)


def input_shapes(model: keras.Model) -> dict[str, tuple[int, int, int]]:
    """Height, width and channels of the images that a model takes, by modality; `{"": shape}` of one with one input."""
    if has_two_stems(model):
        return {name: tuple(model.input[name].shape[1:]) for name in MODALITIES}
    return {"": tuple(model.input_shape[1:])}


def with_two_stems(single: keras.Model, stem_end: str, thermal_channels: int, call: Call) -> keras.Model:
    """Build a network for two modalities in the form of one for a single modality.

    Layers up to `stem_end` become two, `visible_<name>` and `thermal_<name>`; the others keep their names. Weights are
    new (see `start_from_single`).

    Args:
        single: Images (N, H, W, C) to features (N, D).
        stem_end: Name of the last layer that each modality has for itself.
        thermal_channels: Channels of thermal images.
        call: Makes the calls of the trunk.

    Returns:
        {"visible": (N, H, W, C), "thermal": (M, H, W, thermal_channels)} to features (N + M, D).
    """
    end = single.get_layer(stem_end).output
    channels = (single.input_shape[-1], thermal_channels)
    images, maps = {}, []
    for modality, count in zip(MODALITIES, channels, strict=True):
        images[modality] = keras.Input((*single.input_shape[1:3], count), name=modality)
        stem = keras.Model(single.input, end)
        made = replay(stem, {single.input: images[modality]}, copies(prefix=f"{modality}_"))
        maps.append(made(end))
    joined = layers.Concatenate(axis=0, name=JOINED)(maps)
    features = replay(single, {end: joined}, call)(single.output)
    return keras.Model(images, features, name=single.name)


def copies(prefix: str = "", changes: Mapping[str, Mapping[str, Any]] | None = None) -> Call:
    """Return calls of new layers of the same configuration; a layer that is called again stays one layer.

    Args:
        prefix: Of the new layers' names.
        changes: Layer name to arguments that differ.
    """
    made: dict[str, keras.Layer] = {}

    def call(layer: keras.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if layer.name not in made:
            config = {
                **layer.get_config(),
                "name": prefix + layer.name,
                **(changes or {}).get(layer.name, {}),
            }
            made[layer.name] = type(layer).from_config(config)
        return made[layer.name](*args, **kwargs)

    return call


def with_necks(network: keras.Model, necks: Sequence[keras.Layer]) -> keras.Model:
    """Put a neck for each modality on a network of `with_two_stems`."""
    maps = network.get_layer(JOINED).input
    parts = []
    for index, (modality, neck) in enumerate(zip(MODALITIES, necks, strict=True)):
        part = BatchPart(index, name=f"{modality}_features")([network.output, *maps])
        parts.append(neck(part))
    embedding = layers.Concatenate(axis=0, name="bnneck")(parts)
    return keras.Model(network.input, embedding, name=network.name)


def bnneck(name: str = "bnneck") -> layers.BatchNormalization:
    """Return the neck: batch norm whose shift is fixed at 0."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, center=False, name=name)


def branches_of(network: keras.Model) -> keras.Model:
    """Return the clean embedding model of a network for two modalities, with shared weights.

    `common.quantization.branches` divides it into one model for each modality.

    Args:
        network: Of `with_two_stems`, with or without a training head.

    Returns:
        {"visible": (N, H, W, C), "thermal": (M, H, W, c)} to {"visible": (N, D), "thermal": (M, D)}.
    """
    output = network.output["embedding"] if isinstance(network.output, dict) else network.output
    parts = {name: of_modality(keras.Model(network.input, output), name) for name in MODALITIES}
    images = {name: part.input for name, part in parts.items()}
    return keras.Model(images, {name: part.output for name, part in parts.items()}, name=network.name)


def of_modality(network: keras.Model, modality: str) -> keras.Model:
    """Return a network for images of one modality, with the same outputs and shared weights.

    Args:
        network: Of `with_two_stems`, with or without a training head.
        modality: `visible` or `thermal`.
    """
    images = keras.Input(network.input[modality].shape[1:], name=modality)
    new = replay(network, {network.input[modality]: images}, _of_one_modality)
    return keras.Model(images, keras.tree.map_structure(new, network.output), name=network.name)


def _of_one_modality(layer: keras.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Join and part nothing where there is one modality only."""
    if isinstance(layer, BatchPart):
        whole, *parts = args[0]
        return whole if parts[layer.index] is not None else None
    if isinstance(layer, layers.Concatenate) and layer.axis == 0:
        return next(part for part in args[0] if part is not None)
    return layer(*args, **kwargs)


def joined(branches: keras.Model) -> keras.Model:
    """Undo `branches_of`: return the network whose trunk sees both modalities at once, with shared weights."""
    models = [keras.Model(branches.input[name], branches.output[name]) for name in MODALITIES]
    names = [{layer.name for layer in model.layers} for model in models]
    shared = names[0] & names[1]
    images = {name: keras.Input(branches.input[name].shape[1:], name=name) for name in MODALITIES}
    maps, ends = [], []
    for modality, model in zip(MODALITIES, models, strict=True):
        entry = next(layer for layer in model.layers if layer.name in shared)
        end = input_in(model, entry)
        maps.append(replay(model, {branches.input[modality]: images[modality]}, _called)(end))
        ends.append(end)
    whole = layers.Concatenate(axis=0, name=JOINED)(maps)
    necks = [model.layers[-1] for model in models]
    embedding = replay(models[0], {ends[0]: whole}, _called)
    if necks[0].name in shared:
        return keras.Model(images, embedding(models[0].output), name=branches.name)
    features = embedding(input_in(models[0], necks[0]))
    return with_necks(keras.Model(images, features, name=branches.name), necks)


def _called(layer: keras.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return layer(*args, **kwargs)


def input_in(model: keras.Model, layer: keras.Layer) -> keras.KerasTensor:
    """Return the first input of a layer in a model; in other models it may have others."""
    nodes = (node for nodes in model._nodes_by_depth.values() for node in nodes)
    return next(node.input_tensors[0] for node in nodes if node.operation is layer)


class Copied(NamedTuple):
    """Weights that went from one layer to others."""

    source: str
    targets: tuple[str, ...]
    weights: int
    """Numbers in each target."""


def start_from_single(network: keras.Model, single: keras.Model) -> list[Copied]:
    """Copy the weights of a network for one modality into one with two stems or two branches; both start from its own.

    For thermal images of one channel the kernel of the first convolution is summed over its input channels: an image
    then gives what it gives in three equal channels. Layers of the same name correspond, so `single` is the backbone
    that `network` is made of, by itself or in an embedding model; non-local blocks stay as they are.

    Args:
        network: Of `with_two_stems`, or `idkl`, with or without a training head; changed in place.
        single: For example the model of a first training on visible images.

    Returns:
        What was copied, in the order of the layers of `single`.

    Raises:
        ConfigError: a layer of `single` has no place in `network`, or weights of another shape.
    """
    names = {layer.name: layer for layer in network.layers if layer.weights}
    copied = []
    for layer in single.layers:
        if not layer.weights:
            continue
        targets = tuple(name for name in _targets(layer.name) if name in names)
        if not targets:
            raise ConfigError(
                f"model '{single.name}' has a layer '{layer.name}' with weights, for which '{network.name}' has no "
                "place: expected the backbone that it is made of"
            )
        for target in targets:
            _copy(layer, names[target])
        copied.append(Copied(layer.name, targets, names[targets[-1]].count_params()))
    return copied


def table_of_copies(network: keras.Model, copied: Sequence[Copied]) -> str:
    """Return what `start_from_single` copied as text, a line for each kind of target, and what is new."""
    lines = [f"{'layers':>8}  {'weights':>11}  first and last of them"]
    for what, is_own in (("of each modality", False), ("of the trunk", True)):
        rows = [row for row in copied if (row.targets[0] == row.source) == is_own]
        if rows:
            weights = sum(row.weights for row in rows)
            lines.append(f"{len(rows):>8}  {weights:>11,}  {what}: {rows[0].source} ... {rows[-1].source}")
    reached = {name for row in copied for name in row.targets}
    new = [layer for layer in network.layers if layer.weights and layer.name not in reached]
    if new:
        weights = sum(layer.count_params() for layer in new)
        lines.append(f"{len(new):>8}  {weights:>11,}  new: {new[0].name} ... {new[-1].name}")
    return "\n".join(lines)


def _targets(name: str) -> list[str]:
    prefixed = (f"{prefix}_{name}" for prefix in (*MODALITIES, "specific"))
    return [name, *prefixed, *(f"{name}_{modality}" for modality in MODALITIES)]


def _copy(source: keras.Layer, target: keras.Layer) -> None:
    values = source.get_weights()
    shapes = [tuple(weight.shape) for weight in target.weights]
    if shapes and len(shapes[0]) == 4 and shapes[0][2] == 1 != values[0].shape[2]:
        values[0] = np.sum(values[0], axis=2, keepdims=True)  # (h, w, 3, out) to (h, w, 1, out)
    if [value.shape for value in values] != shapes:
        raise ConfigError(
            f"layer '{source.name}' has weights of the shapes {[value.shape for value in values]}, but "
            f"'{target.name}' needs {shapes}: expected the backbone that the network is made of"
        )
    target.set_weights(values)
