"""Keras 3 to tf_keras (Keras 2), the only Keras that TFMOT accepts."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tf_keras

from common.quantization._gem import GeM

_SHARED = (
    *("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose", "Dense"),
    *("BatchNormalization", "LayerNormalization", "GroupNormalization", "UnitNormalization", "Rescaling"),
    *("Activation", "ReLU", "PReLU", "Softmax"),
    *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot"),
    *("GlobalAveragePooling2D", "GlobalMaxPooling2D", "AveragePooling2D", "MaxPooling2D"),
    *("ZeroPadding2D", "Cropping2D", "UpSampling2D", "Flatten", "Reshape", "Permute", "Dropout"),
)

_OTHER_ACTIVATIONS = ("hard_sigmoid",)
"""Of other values in the two Keras: relu6(x + 3) / 6 here, and 0.2 x + 0.5 between 0 and 1 in tf_keras."""

TWINS: dict[str, Callable[..., tf_keras.layers.Layer]] = {
    **{name: getattr(tf_keras.layers, name) for name in _SHARED},
    "LeakyReLU": lambda negative_slope, name: tf_keras.layers.LeakyReLU(negative_slope, name=name),
    "FusedBatchNormalization": tf_keras.layers.BatchNormalization,
    "GeM": GeM,
}
"""Class name of a Keras 3 layer -> what builds its tf_keras twin from the same configuration keys.

The twin must have its weights in the order, and with the shapes, of the Keras 3 layer.
"""


def to_tf_keras(model: keras.Model) -> tf_keras.Model:
    """Rebuild a functional Keras 3 model in tf_keras from its configuration, and copy the weights.

    Every node is kept: a layer that is called several times stays one layer. Models inside the model are
    inlined, because TFMOT refuses them. Everything becomes float32; Keras 3 on TensorFlow and tf_keras run the
    same kernels, so the outputs agree to float32 rounding.

    Args:
        model: functional model, single or several inputs and outputs (list or dict).

    Raises:
        ValueError: the model is not functional, or has a layer without a twin in `TWINS`, with an argument or an
            activation that tf_keras lacks, or called with several arguments, or an operation that is no layer, such as
            `x + y`.
    """
    if not _is_functional(model):
        raise ValueError(
            f"expected a functional Keras model, received {type(model).__name__} '{getattr(model, 'name', '')}': "
            "build it from keras.Input with the functional API"
        )
    inputs = keras.tree.map_structure(
        lambda tensor: tf_keras.Input(tensor.shape[1:], batch_size=tensor.shape[0], name=tensor.name),
        model.input,
    )
    outputs = _replay(model, inputs, twins={})
    return tf_keras.Model(inputs, outputs, name=model.name)


def _is_functional(layer: Any) -> bool:
    return isinstance(layer, keras.Model) and "input_layers" in layer.get_config()


def _replay(model: keras.Model, inputs: Any, twins: dict[int, tf_keras.layers.Layer]) -> Any:
    """Call the twins of a model's layers on `inputs`, in the order of the model's nodes."""
    config = model.get_config()
    operations = {operation.name: operation for operation in model.operations}
    references = _tensor_references(config["input_layers"])
    tensors = dict(zip(references, keras.tree.flatten(inputs), strict=True))
    pending = [
        (entry["name"], index, node)
        for entry in config["layers"]
        for index, node in enumerate(entry["inbound_nodes"])
    ]
    while pending:
        waiting = []
        for name, index, node in pending:
            if not all(reference in tensors for reference in _node_references(node)):
                waiting.append((name, index, node))
                continue
            arguments = _resolve(node["args"], tensors)
            outputs = _call(operations[name], arguments, node["kwargs"], twins)
            tensors.update({(name, index, i): t for i, t in enumerate(keras.tree.flatten(outputs))})
        if len(waiting) == len(pending):
            raise ValueError(
                f"the nodes of {sorted({name for name, _, _ in waiting})} have no source in the model"
            )
        pending = waiting
    return _resolve_outputs(model, config["output_layers"], tensors)


def _call(
    layer: keras.layers.Layer, arguments: list[Any], kwargs: Mapping[str, Any], twins: dict[int, Any]
) -> Any:
    """Apply the twin of `layer`, made at its first call."""
    _require_twin(layer)
    further = sorted(key for key, value in kwargs.items() if value is not None and key != "training")
    if further or len(arguments) != 1:
        raise ValueError(
            f"layer '{layer.name}' of class {type(layer).__name__}: expected a call with one argument, received "
            f"{len(arguments)}{''.join(f' and {key}' for key in further)}. Write a layer that takes one tensor or a "
            f"list of them, and {_recipe(type(layer).__name__)}"
        )
    if isinstance(layer, keras.Model):
        return _replay(layer, arguments[0], twins)
    twin = twins.get(id(layer)) or _make_twin(layer)
    outputs = twin(arguments[0])
    if id(layer) not in twins:
        twins[id(layer)] = twin
        twin.set_weights([np.asarray(weight, np.float32) for weight in layer.get_weights()])
    return outputs


def _require_twin(layer: Any) -> None:
    """Raise ValueError where an operation is no layer, or its class has no twin."""
    name = type(layer).__name__
    if not isinstance(layer, keras.layers.Layer):
        instead = f"write it as keras.layers.{name}" if name in _SHARED else "write it as a layer of your own"
        raise ValueError(
            f"operation '{layer.name}' of class {name}, such as x + y and keras.ops make, is no layer: {instead}, and "
            f"where that has no tf_keras twin, {_recipe('<its class>')}"
        )
    if name not in TWINS and not isinstance(layer, keras.Model):
        raise ValueError(f"layer '{layer.name}' of class {name} has no tf_keras twin: {_recipe(name)}")


def _recipe(class_name: str) -> str:
    return (
        f"add TWINS['{class_name}'] = <callable that takes its configuration> in common/quantization/bridge.py, or "
        f"rewrite it with one of: {', '.join(sorted(TWINS))}"
    )


def _make_twin(layer: keras.layers.Layer) -> tf_keras.layers.Layer:
    builder, source = TWINS[type(layer).__name__], layer.get_config()
    target = builder.__init__ if inspect.isclass(builder) else builder
    accepted = {name for name in inspect.signature(target).parameters if not _is_training_only(name)}
    defaults = inspect.signature(type(layer).__init__).parameters
    lost = sorted(
        key
        for key, value in source.items()
        if key in defaults
        and key not in accepted
        and not _is_training_only(key)
        and value != defaults[key].default
    )
    if lost:
        told = ", ".join(f"{key}={source[key]!r}" for key in lost)
        raise ValueError(
            f"layer '{layer.name}' of class {type(layer).__name__} has {told}, which its tf_keras twin does not know: "
            f"leave it out, or {_recipe(type(layer).__name__)}"
            f"leave it out, or {_recipe(type(layer).__name__)}"
        )
    _require_same_activation(layer)
    return builder(**{key: value for key, value in source.items() if key in accepted}, name=layer.name)


def _require_same_activation(layer: keras.layers.Layer) -> None:
    """Raise ValueError for a function that tf_keras lacks, or has under this name with other values."""
    function = getattr(layer, "activation", keras.activations.linear)
    name = getattr(function, "__name__", str(function))
    if name in _OTHER_ACTIVATIONS or not _has_activation(name) or keras.activations.get(name) is not function:
        raise ValueError(
            f"layer '{layer.name}' of class {type(layer).__name__}: tf_keras has no activation that gives the values "
            f"of '{name}'. Write it as layers that it has, such as Rescaling and ReLU for hard_sigmoid"
        )


def _has_activation(name: str) -> bool:
    try:
        return tf_keras.activations.get(name) is not None
    except ValueError:
        return False


def _is_training_only(key: str) -> bool:
    """The weights are copied, and the serialized forms of initializers differ between the two Keras."""
    return key == "name" or key.endswith(("_initializer", "_regularizer", "_constraint"))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__"


def _reference(value: Mapping[str, Any]) -> tuple[str, int, int]:
    name, node, index = value["config"]["keras_history"]
    return name, node, index


def _node_references(node: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    found = []
    _map_tensors(node["args"], lambda value: found.append(_reference(value)))
    return found


def _map_tensors(value: Any, function: Callable[[Mapping[str, Any]], Any]) -> Any:
    if _is_tensor(value):
        return function(value)
    if isinstance(value, list | tuple):
        return [_map_tensors(item, function) for item in value]
    return value


def _resolve(arguments: Any, tensors: Mapping[tuple[str, int, int], Any]) -> list[Any]:
    return _map_tensors(arguments, lambda value: tensors[_reference(value)])


def _tensor_references(layers: Any) -> list[tuple[str, int, int]]:
    """Flatten `input_layers`: one [name, node, index], a list of them, or a dict of them, in Keras's order."""
    if isinstance(layers, Mapping):
        return [reference for key in sorted(layers) for reference in _tensor_references(layers[key])]
    if isinstance(layers[0], str):
        return [tuple(layers)]
    return [reference for item in layers for reference in _tensor_references(item)]


def _resolve_outputs(model: keras.Model, layers: Any, tensors: Mapping[tuple[str, int, int], Any]) -> Any:
    if isinstance(layers, Mapping):
        return {key: _resolve_outputs(model, value, tensors) for key, value in layers.items()}
    if isinstance(layers[0], str):
        name, node, index = layers
        # Here, but not in `inbound_nodes`, Keras counts the node that an inner model was built with.
        return tensors[name, node - _is_functional(model.get_layer(name)), index]
    return [_resolve_outputs(model, item, tensors) for item in layers]
