"""One range for all channels that only batch norms read, so that an 8-bit grid has as many steps for each of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from common.quantization.qat import Calibration

_CEILING = 6.0  # of ReLU6
_POOLS = (
    *(layers.MaxPooling2D, layers.AveragePooling2D),
    *(layers.GlobalMaxPooling2D, layers.GlobalAveragePooling2D),
)
_PASSES = (*_POOLS, layers.Add, layers.ZeroPadding2D, layers.Dropout, layers.Identity)
"""Layers that give scaled channels for scaled channels, as do ReLU and ReLU6."""
_LINEAR = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)


@dataclass
class _Stream:
    """Tensors whose channels are scaled together."""

    tensors: list[keras.KerasTensor]
    passes: list[Any]
    """Layers between them."""
    writers: list[Any]
    readers: list[Any]

    @property
    def rounded(self) -> list[keras.KerasTensor]:
        """Without what a ReLU reads, which an integer graph never rounds."""
        clipped = {id(_only_input(layer)) for layer in self.passes if _is_relu(layer)}
        return [tensor for tensor in self.tensors if id(tensor) not in clipped]

    def factors(self, greatest: np.ndarray) -> np.ndarray:
        """What brings channels to one range, (C,) from (C,); 1 for those that are always 0, and where ReLU6 forbids."""
        ceiling = _CEILING if any(map(_is_relu6, self.passes)) else np.inf
        is_scaled = (greatest > 0) & (greatest.max() <= ceiling)
        return np.divide(greatest.max(), greatest, out=np.ones_like(greatest), where=is_scaled)


def equalize_channels(model: keras.Model, calibration: Calibration) -> keras.Model:
    """Scale channels that only batch norms read to one range, and the batch norms back; the embeddings stay the same.

    An activation has one step for all of its channels, and a batch norm spreads to unit variance what varies little in
    some, and the step with it. So it is before a BNNeck, where half of the means of trained `mobilenetv2_a100` vary by
    less than a step, and in the residual streams of ResNetV2. Scaling a channel where it is written, past layers that
    keep scales, and dividing where a batch norm reads it changes neither the float network nor the integers of kernels
    with one scale a channel (cross-layer equalisation, Nagel et al., Data-Free Quantization, 2019, equation 6, without
    what it costs where convolutions read). The greatest absolute value of each channel, which the grid must hold,
    becomes that of the greatest one. A ReLU6 clips a scaled channel where its range on the calibration images ends.

    Args:
        model: Rescaled images (N, H, W, C) to embeddings (N, D).
        calibration: Yields rescaled float32 batches (n, H, W, C).

    Returns:
        A copy with other weights; the model itself where there are no such channels. Behind convolutions and dense
        layers a batch norm needs none, as it is folded into them.
    """
    if not (streams := _streams(model)):
        return model
    greatest = [np.zeros(stream.tensors[0].shape[-1], np.float32) for stream in streams]
    rounded = [(values, x) for values, stream in zip(greatest, streams, strict=True) for x in stream.rounded]
    watched = keras.Model(model.input, [tensor for _, tensor in rounded])
    for images in calibration():
        for (values, _), x in zip(rounded, keras.tree.flatten(watched(images, training=False)), strict=True):
            np.maximum(values, np.abs(x).reshape(-1, len(values)).max(axis=0), out=values)
    scaled = keras.models.clone_model(model)
    scaled.set_weights(model.get_weights())
    for stream, values in zip(streams, greatest, strict=True):
        factors = stream.factors(values)
        for layer in stream.writers:
            _scale_written(scaled.get_layer(layer.name), factors)
        for layer in stream.readers:
            norm = scaled.get_layer(layer.name)
            norm.moving_mean.assign(norm.moving_mean * factors)
            norm.gamma.assign(norm.gamma / factors)
    return scaled


def _scale_written(layer: Any, factors: np.ndarray) -> None:
    if isinstance(layer, layers.BatchNormalization):
        layer.gamma.assign(layer.gamma * factors)
        layer.beta.assign(layer.beta * factors)
        return
    kernel = layer.kernel
    is_depthwise = isinstance(layer, layers.DepthwiseConv2D)  # (h, w, C, M), others (..., C)
    kernel.assign(kernel * (factors.reshape(kernel.shape[2:]) if is_depthwise else factors))
    if layer.use_bias:
        layer.bias.assign(layer.bias * factors)


def _streams(model: keras.Model) -> list[_Stream]:
    """What linear layers and batch norms write and nothing but batch norms reads, with a layer in between."""
    nodes = [node for nodes in model._nodes_by_depth.values() for node in nodes if node.input_tensors]
    calls = Counter(id(node.operation) for node in nodes)
    ends = {id(tensor) for tensor in (*model.inputs, *model.outputs)}
    found = []
    for passing in _connected([node for node in nodes if _passes(node.operation)]):
        tensors = {id(tensor): tensor for node in passing for tensor in (*node.input_tensors, *node.outputs)}
        others = [node for node in nodes if node not in passing]
        writers = [n.operation for n in others if tensors.keys() & {id(tensor) for tensor in n.outputs}]
        readers = [n.operation for n in others if tensors.keys() & {id(tensor) for tensor in n.input_tensors}]
        if (
            not tensors.keys() & ends
            and len({tensor.shape[-1] for tensor in tensors.values()}) == 1
            and all(calls[id(layer)] == 1 for layer in (*writers, *readers))
            and all(map(_writes, writers))
            and all(isinstance(layer, layers.BatchNormalization) and layer.scale for layer in readers)
        ):
            passes = [node.operation for node in passing]
            found.append(_Stream(list(tensors.values()), passes, writers, readers))
    return found


def _connected(nodes: Sequence[Any]) -> list[list[Any]]:
    """Nodes in groups that share tensors."""
    groups: list[tuple[set[int], list[Any]]] = []
    for node in nodes:
        tensors, members = {id(tensor) for tensor in (*node.input_tensors, *node.outputs)}, [node]
        for group in [group for group in groups if group[0] & tensors]:
            groups.remove(group)
            tensors |= group[0]
            members += group[1]
        groups.append((tensors, members))
    return [members for _, members in groups]


def _passes(layer: Any) -> bool:
    return isinstance(layer, _PASSES) or _is_relu(layer)


def _writes(layer: Any) -> bool:
    if isinstance(layer, layers.BatchNormalization):
        return bool(layer.scale and layer.center)
    return isinstance(layer, _LINEAR) and layer.activation is keras.activations.linear


def _is_relu(layer: Any) -> bool:
    """Whether the layer is a ReLU or a ReLU6."""
    if isinstance(layer, layers.ReLU):
        return layer.max_value in (None, _CEILING) and not layer.negative_slope and not layer.threshold
    is_plain = isinstance(layer, layers.Activation) and layer.activation is keras.activations.relu
    return is_plain or _is_relu6(layer)


def _is_relu6(layer: Any) -> bool:
    if isinstance(layer, layers.ReLU):
        return layer.max_value == _CEILING
    return isinstance(layer, layers.Activation) and layer.activation is keras.activations.relu6


def _only_input(layer: Any) -> keras.KerasTensor:
    return layer._inbound_nodes[0].input_tensors[0]
