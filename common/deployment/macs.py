from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from common.config import ConfigError
from common.runtime.onnx_file import load_graph

_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}


def count_macs(onnx_path: Path) -> dict[str, int]:
    """Count the multiply-accumulates and the parameters of an ONNX graph, float or QDQ, for one image.

    Convolutions, Gemm and MatMul count; what is cheap beside them (pooling, additions, activations) does not,
    as is usual. Parameters are the non-scalar weights and biases, without scales, zero points and shapes; a
    tensor that several operators share counts once.

    Returns:
        ``macs = convolution_macs + matmul_macs``, those two, and ``parameters``.

    Raises:
        ConfigError: The file is unreadable, or the shapes of its operators cannot be inferred.
    """
    model, batch, shapes = load_with_shapes(onnx_path)
    totals = {"convolution_macs": 0, "matmul_macs": 0}
    for node in model.graph.node:
        if node.op_type in _COUNTERS:
            kind, counter = _COUNTERS[node.op_type]
            try:
                totals[kind] += counter(node, shapes)
            except KeyError as error:
                raise ConfigError(
                    f"{onnx_path}: the shape of {error} at {node.op_type} '{node.name}' is unknown. "
                    "Export the model with a static input shape."
                ) from error
    totals = {kind: macs // batch for kind, macs in totals.items()}
    return {"macs": sum(totals.values()), **totals, "parameters": _parameters(model.graph)}


def load_with_shapes(onnx_path: Path) -> tuple[Any, int, dict[str, tuple[int, ...]]]:
    """Load a graph without its external weights, and infer its shapes; a free batch is taken as 1.

    Returns:
        The ONNX model, its batch, and every fully known shape by tensor name.

    Raises:
        ConfigError: The file is unreadable, or the shapes of its operators cannot be inferred.
    """
    import onnx

    model = load_graph(onnx_path)
    batch = _fix_batch(model)
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ConfigError(f"{onnx_path}: the shapes cannot be inferred: {error}") from error
    return model, batch, _shapes(model)


def _fix_batch(model: Any) -> int:
    """Set a free batch to 1; return the batch."""
    weights = {tensor.name for tensor in model.graph.initializer}
    first = next(value for value in model.graph.input if value.name not in weights)
    dim = first.type.tensor_type.shape.dim[0]
    if dim.dim_value <= 0:
        dim.dim_value = 1
        for output in model.graph.output:  # else their old, free batch would clash with the inferred one
            output.type.tensor_type.ClearField("shape")
    return dim.dim_value


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Fully known shapes by tensor name."""
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        dims = tuple(dim.dim_value for dim in tensor.shape.dim)
        if tensor.HasField("shape") and all(dim > 0 for dim in dims):
            shapes[value.name] = dims
    return shapes


def _conv(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    # Weights (C_out, C_in / group, kernel...): an output value is a dot product over all but the first axis
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _conv_transpose(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    # Weights (C_in, C_out / group, kernel...): every input value is spread over all but the first axis
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _matmul(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]


_COUNTERS = {
    "Conv": ("convolution_macs", _conv),
    "ConvTranspose": ("convolution_macs", _conv_transpose),
    "MatMul": ("matmul_macs", _matmul),
    "Gemm": ("matmul_macs", _gemm),
}


def _parameters(graph: Any) -> int:
    """Elements of the weights and biases: floats, or integers that a DequantizeLinear turns into floats."""
    import onnx

    helpers: set[str] = set()
    dequantized: set[str] = set()
    for node in graph.node:
        if node.op_type in _QUANTIZERS:
            dequantized.add(node.input[0])
            helpers.update(node.input[1:])
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return sum(
        math.prod(tensor.dims)
        for tensor in graph.initializer
        if tensor.dims
        and (tensor.data_type in floats or tensor.name in dequantized)
        and tensor.name not in helpers - dequantized
    )
