from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import ConfigError
from common.deployment.macs import count_macs, load_with_shapes

# What an integer graph for the NPU does not execute: encodings, views, and what is fused into its producer
_FREE = {
    *("QuantizeLinear", "DequantizeLinear", "Cast", "Constant", "Shape", "Identity", "Dropout"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze"),
    *("Relu", "Clip", "LeakyRelu", "PRelu"),
}
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_CHANNELWISE = {"Add", "Sub", "Mul", "Div", "BatchNormalization"}


@dataclass(frozen=True)
class GraphFeatures:
    """What a network asks of an NPU for one image, with 8-bit weights and activations.

    Attributes:
        macs: Multiply-accumulates of convolutions and matrix products.
        weight_bytes: Weights and biases, one byte each (the 32-bit biases are few).
        activation_bytes: Results of the operators, one byte a value.
        operators: Operators that the NPU executes: without encodings, views and fused activations.
        input_normalization: Whether the image is shifted or scaled channel by channel before the first product.
    """

    macs: int
    weight_bytes: int
    activation_bytes: int
    operators: int
    input_normalization: bool


def graph_features(onnx_path: Path) -> GraphFeatures:
    """Count the features of an ONNX graph; a float graph and its quantized form have the same.

    Raises:
        ConfigError: The file is unreadable, the shapes of its operators cannot be inferred, or activations have more
            than 8 bits.
    """
    counts = count_macs(onnx_path)
    model, batch, shapes = load_with_shapes(onnx_path)
    if wide := next(_wide_activations(model.graph), None):
        raise ConfigError(f"{onnx_path}: no latency is estimated, because '{wide}' has 16 bits, expected 8")
    executed = [node for node in model.graph.node if node.op_type not in _FREE]
    values = sum(math.prod(shapes.get(name, ())) for node in executed for name in node.output if name)
    return GraphFeatures(
        macs=counts["macs"],
        weight_bytes=counts["parameters"],
        activation_bytes=values // batch,
        operators=len(executed),
        input_normalization=_normalizes(model.graph, shapes),
    )


def _wide_activations(graph: Any) -> Iterator[str]:
    """Tensors that are quantized to 16 bits."""
    import onnx

    wide = {
        t.name for t in graph.initializer if t.data_type in (onnx.TensorProto.UINT16, onnx.TensorProto.INT16)
    }
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and wide.intersection(node.input[2:]):
            yield node.input[0]


def _normalizes(graph: Any, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Follow the image to the first products; look for arithmetic with one constant a channel on the way."""
    constants = {tensor.name for tensor in graph.initializer}
    reached = {value.name for value in graph.input} - constants
    for node in graph.node:  # in the order of execution
        if node.op_type in _FREE and constants.issuperset(filter(None, node.input)):
            constants.update(node.output)
        elif reached.intersection(node.input) and node.op_type not in _PRODUCTS:
            sizes = [math.prod(shapes.get(name, ())) for name in node.input if name in constants]
            if node.op_type in _CHANNELWISE and max(sizes, default=1) > 1:
                return True
            reached.update(node.output)
    return False
