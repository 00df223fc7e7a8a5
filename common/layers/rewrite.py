"""Copies of a functional model with another implementation of batch norm and another precision."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras

from common.layers.fused_batch_norm import FusedBatchNormalization
from common.layers.matmul_gradient_conv2d import MatmulGradientConv2D


def with_fused_batch_norm(model: keras.Model, dtype_policy: str = "float32") -> keras.Model:
    """Copy a model for training: batch norm on the fused kernel, layers under `dtype_policy`.

    In bfloat16, kernels of convolutions have their gradients from matrix products.
    Layers that give an output of the model compute in float32 under any policy, so that losses and distances
    see full precision. Names, structure of inputs and outputs, shared layers and weights are kept; the copy
    has its own variables and is not compiled. What it has learned goes back by `set_weights` of the model, which any
    Keras can open once saved.

    Args:
        model: A functional model.
        dtype_policy: `float32`, `mixed_bfloat16` or `mixed_float16`.
    """
    replacements: dict[type[keras.Layer], type[keras.Layer]] = {
        keras.layers.BatchNormalization: FusedBatchNormalization
    }
    if dtype_policy == "mixed_bfloat16":
        replacements[keras.layers.Conv2D] = MatmulGradientConv2D
    return _rewrite(model, replacements, dtype_policy)


def with_synchronized_batch_norm(model: keras.Model) -> keras.Model:
    """Copy a model for a strategy of `tf.distribute`: batch norm takes its statistics over all replicas.

    To be called in the strategy's scope. Precision is kept; the fused kernel, which knows one device, is not used.
    """
    cls = keras.layers.BatchNormalization
    return _rewrite(model, {FusedBatchNormalization: cls, cls: cls}, None, {"synchronized": True})


def _rewrite(
    model: keras.Model,
    replacements: dict[type[keras.Layer], type[keras.Layer]],
    dtype_policy: str | None,
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> keras.Model:
    """Copy a model with other classes of layers; `arguments` are added to theirs, `dtype_policy` None keeps theirs."""
    output_layers = {tensor._keras_history.operation.name for tensor in model.outputs}

    def clone(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if dtype_policy is not None:
            config["dtype"] = "float32" if layer.name in output_layers else dtype_policy
        if type(layer) not in replacements:
            return type(layer).from_config(config)
        return replacements[type(layer)].from_config({**config, **arguments})

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    copy.set_weights(model.get_weights())
    return copy
