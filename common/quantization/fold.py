"""The form that quantizes: convolutions with their batch norms folded in and their activations as own layers."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from common.quantization._gem import GeM
from common.quantization._instance_norm import InstanceNormalization

_WEIGHTED = (tf_keras.layers.Conv2D, tf_keras.layers.DepthwiseConv2D, tf_keras.layers.Dense)
_POOLS = (tf_keras.layers.GlobalAveragePooling2D, tf_keras.layers.GlobalMaxPooling2D, GeM)
_TAKES_MAPS = (
    *(tf_keras.layers.Dense, tf_keras.layers.BatchNormalization, tf_keras.layers.Dropout),
    *(tf_keras.layers.ReLU, tf_keras.layers.LeakyReLU, tf_keras.layers.Activation),
    *(tf_keras.layers.Add, tf_keras.layers.Multiply),
)
"""Layers that do the same to vectors (N, D) and to maps (N, 1, 1, D)."""
_PAIRWISE = (
    *(tf_keras.layers.Add, tf_keras.layers.Multiply),
    *(tf_keras.layers.Maximum, tf_keras.layers.Minimum),
)
"""Layers that may take any number of inputs, of which the HTP computes two at a time."""


def fold_batch_norm(model: tf_keras.Model, keep: Collection[str] = ()) -> tf_keras.Model:
    """Rebuild a functional tf_keras model with the operators that an integer graph has.

    - A batch norm right after a linear convolution or dense layer goes into its weights and bias.
    - One right after a global average pool, such as a BNNeck, makes a depthwise convolution over the whole map of it:
      the mean stays an exact sum of integers up to the embedding. As a pool with a result of its own, in 8 bits, it
      would leave channels that vary little with a step or two, which the BNNeck then spreads to unit variance.
    - Any other one, such as a pre-activation batch norm, becomes a depthwise 1x1 convolution: one weight per channel,
      which the int8 grid of a channel holds exactly.
    - Pooled vectors (N, D) stay maps (N, 1, 1, D) up to the output, and dense layers on them become 1x1
      convolutions: an int8 dense layer has one scale for all its channels in TFLite.
    - A non-linear `activation` argument becomes an `Activation` layer behind its layer.
    - A group norm with a group for each channel becomes an `InstanceNormalization` of four dimensions.
    - A sum or product of more than two becomes a chain of pairs, each of which is quantized; in one piece all but the
      last would stay float on the HTP.

    The outputs agree with the source to float32 rounding. Folding fixes the batch statistics, so fine-tuning
    the result is fine-tuning with frozen statistics.

    Args:
        model: functional model; its layers are not changed.
        keep: names of batch norms to leave as they are.
    """
    targets = {name: norm for name, norm in _fold_targets(model).items() if not {name, norm.name} & set(keep)}
    twins: dict[str, tf_keras.layers.Layer] = {}
    tensors = {id(tensor): tensor for tensor in model.inputs}

    def as_vector(tensor: Any) -> Any:
        """Undo the map form of what is a vector in the source."""
        new = tensors[id(tensor)]
        if len(new.shape) == len(tensor.shape):
            return new
        name = f"{tensor.node.layer.name}_vector"
        return twins.setdefault(name, tf_keras.layers.Flatten(name=name))(new)

    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.is_input:
                continue
            takes_maps = isinstance(node.layer, _TAKES_MAPS) and node.layer.name not in keep
            arguments = tf.nest.map_structure(
                _lookup(tensors) if takes_maps else as_vector, node.call_args[0]
            )
            outputs = _apply(node.layer, arguments, targets, keep, twins)
            tensors |= zip(map(id, tf.nest.flatten(node.outputs)), tf.nest.flatten(outputs), strict=True)
    return tf_keras.Model(model.input, tf.nest.map_structure(as_vector, model.output), name=model.name)


def _lookup(tensors: Mapping[int, Any]) -> Callable[[Any], Any]:
    return lambda tensor: tensors[id(tensor)]


def consumers(model: tf_keras.Model) -> dict[str, list[tf_keras.layers.Layer]]:
    """Return, by layer name, the layers that read any output of that layer."""
    readers: dict[str, list[tf_keras.layers.Layer]] = {layer.name: [] for layer in model.layers}
    for nodes in model._nodes_by_depth.values():
        for node in nodes:
            for tensor in [] if node.is_input else tf.nest.flatten(node.keras_inputs):
                readers[tensor.node.layer.name].append(node.layer)
    return readers


def _fold_targets(model: tf_keras.Model) -> dict[str, tf_keras.layers.BatchNormalization]:
    """Map the name of each layer that a batch norm can be folded into to that batch norm."""
    readers = consumers(model)
    calls = Counter(node.layer.name for nodes in model._nodes_by_depth.values() for node in nodes)
    outputs = {tensor.node.layer.name for tensor in tf.nest.flatten(model.output)}
    targets = {}
    for layer in model.layers:
        following = readers[layer.name]
        # A layer that is called several times, as in a trunk behind two stems, folds where each call has this reader.
        if (
            isinstance(layer, (*_WEIGHTED, tf_keras.layers.GlobalAveragePooling2D))
            and getattr(layer, "activation", tf_keras.activations.linear) is tf_keras.activations.linear
            and len({reader.name for reader in following}) == 1
            and isinstance(following[0], tf_keras.layers.BatchNormalization)
            and len(following) == calls[layer.name] == calls[following[0].name]
            and layer.name not in outputs
        ):
            targets[layer.name] = following[0]
    return targets


def _apply(
    layer: tf_keras.layers.Layer,
    inputs: Any,
    targets: Mapping[str, tf_keras.layers.BatchNormalization],
    keep: Collection[str],
    twins: dict[str, tf_keras.layers.Layer],
) -> Any:
    """Apply the quantizable twin of `layer`; a batch norm that was folded is the identity."""
    if layer in targets.values():
        return inputs
    if isinstance(layer, _PAIRWISE) and len(inputs) > 2:
        return _in_pairs(layer, inputs, twins)
    is_new = layer.name not in twins
    is_affine = isinstance(layer, tf_keras.layers.BatchNormalization) and layer.name not in keep
    if is_affine and len(inputs.shape) == 4:
        twin = twins.setdefault(layer.name, tf_keras.layers.DepthwiseConv2D(1, name=layer.name))
        outputs, weights = twin(inputs), _affine_weights(layer)
    else:
        twin = (
            twins.setdefault(layer.name, _twin(layer, inputs, layer.name in targets))
            if is_new
            else twins[layer.name]
        )
        outputs, weights = twin(inputs), _weights(layer, targets.get(layer.name), inputs)
    if is_new:
        twin.set_weights([w.reshape(v.shape) for w, v in zip(weights, twin.weights, strict=True)])
    if isinstance(layer, _WEIGHTED) and layer.activation is not tf_keras.activations.linear:
        name = f"{layer.name}_activation"
        return twins.setdefault(name, tf_keras.layers.Activation(layer.activation, name=name))(outputs)
    return outputs


def _in_pairs(
    layer: tf_keras.layers.Layer, inputs: list[Any], twins: dict[str, tf_keras.layers.Layer]
) -> Any:
    """Apply `layer` to two at a time, from the first on; the last pair has its name."""
    result = inputs[0]
    for index, other in enumerate(inputs[1:], start=1):
        name = layer.name if index == len(inputs) - 1 else f"{layer.name}_pair{index}"
        result = twins.setdefault(name, type(layer)(name=name))([result, other])
    return result


def _twin(layer: tf_keras.layers.Layer, inputs: Any, is_folded: bool) -> tf_keras.layers.Layer:
    if isinstance(layer, tf_keras.layers.GlobalAveragePooling2D) and is_folded:
        return tf_keras.layers.DepthwiseConv2D(inputs.shape[1:3], name=layer.name)
    config = layer.get_config()
    if isinstance(layer, _POOLS):
        config |= {"keepdims": True}
    if isinstance(layer, _WEIGHTED):
        config |= {"activation": "linear", "use_bias": layer.use_bias or is_folded}
    if isinstance(layer, tf_keras.layers.Dense) and len(inputs.shape) == 4:
        return tf_keras.layers.Conv2D(layer.units, 1, use_bias=config["use_bias"], name=layer.name)
    if isinstance(layer, tf_keras.layers.GroupNormalization) and _is_by_channel(layer, inputs):
        config = {key: config[key] for key in ("name", "epsilon", "center", "scale")}
        return InstanceNormalization(**config)
    return type(layer).from_config(config)


def _is_by_channel(layer: tf_keras.layers.GroupNormalization, inputs: Any) -> bool:
    return len(inputs.shape) == 4 and layer.axis in (-1, 3) and layer.groups in (-1, inputs.shape[-1])


def _affine(batch_norm: tf_keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, shift) of shape (C,) in float64 such that batch_norm(x) = scale * x + shift."""
    mean, variance = (np.asarray(w, np.float64) for w in (batch_norm.moving_mean, batch_norm.moving_variance))
    gamma = np.asarray(batch_norm.gamma, np.float64) if batch_norm.scale else 1.0
    beta = np.asarray(batch_norm.beta, np.float64) if batch_norm.center else 0.0
    scale = gamma / np.sqrt(variance + batch_norm.epsilon)
    return scale, beta - mean * scale


def _affine_weights(batch_norm: tf_keras.layers.BatchNormalization) -> list[np.ndarray]:
    scale, shift = _affine(batch_norm)
    return [scale.astype(np.float32)[None, None, :, None], shift.astype(np.float32)]  # (1, 1, C, 1), (C,)


def _weights(layer: tf_keras.layers.Layer, batch_norm: Any, inputs: Any) -> list[np.ndarray]:
    """Return the layer's weights with `batch_norm` folded in, if there is one; those of a mean are all equal."""
    weights = layer.get_weights()
    if batch_norm is None:
        return weights
    if isinstance(layer, tf_keras.layers.GlobalAveragePooling2D):
        share, shift = _affine_weights(batch_norm)
        size = inputs.shape[1:3]
        return [np.tile(share / np.float32(math.prod(size)), (*size, 1, 1)), shift]
    kernel = weights[0].astype(np.float64)
    bias = weights[1] if layer.use_bias else 0.0
    scale, shift = _affine(batch_norm)
    if isinstance(layer, tf_keras.layers.DepthwiseConv2D):
        kernel = kernel * scale.reshape(kernel.shape[2:])  # (h, w, C, M) by (C, M)
    else:
        kernel = kernel * scale  # (..., out) by (out,)
    return [kernel.astype(np.float32), (bias * scale + shift).astype(np.float32)]
