"""From the partial QDQ graph that tf2onnx makes of a TFMOT model to a complete one, all integer on the HTP."""

import numpy as np
import onnx
import tf_keras
from onnx import helper

from common.quantization._onnx_graph import OnnxGraph, attribute
from common.quantization._tfmot import LEAST_STEPS, MOST_STEPS, SMALLEST_CHANNEL
from common.quantization.onnx_export import OPSET, check_converted, tf_keras_to_onnx

_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_COMPLETE = (*_WEIGHTED, "ConvTranspose")
_SAME_GRID = ("MaxPool", "Reshape", "Pad", "Squeeze", "Unsqueeze", "Transpose", "Flatten", "Slice")
_GRID_TOLERANCE = 0.01  # of a step; float32 rounding in the export leaves about 3e-5
_BIAS_LIMIT = 2**30  # half of int32: room for the accumulator


def export_qat_onnx(
    qat_model: tf_keras.Model, batch_size: int = 1, nchw: bool = False, opset: int = OPSET
) -> onnx.ModelProto:
    """Export a model of `prepare_qat` as complete QDQ ONNX; arguments as in `export_onnx`."""
    return complete_qdq(tf_keras_to_onnx(qat_model, batch_size, nchw, opset))


def complete_qdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """Complete a QDQ graph whose activations are quantized but whose weights are floats on an int8 grid.

    tf2onnx folds the fake quantization of the kernels to float32 constants and knows neither int8 weights nor
    int32 biases; runtimes then compute dense layers in float. This pass changes nothing but the
    rounding of biases to int32:

    - MatMul + Add with constants becomes Gemm;
    - Relu and Clip go where the uint8 range behind them clips the same;
    - Q/DQ is repeated across operators that move values without computing (MaxPool, Pad, Reshape, ...);
    - weights become int8 per output channel (scale = max |w| / 127, zero point 0), biases int32 with the scale
      input x weight.

    Raises:
        ValueError: a fake quantization was not converted, weights are on no int8 grid, or the result is not
            complete (`incomplete_nodes`) although the input of that operator is quantized.
    """
    check_converted(model)
    graph = OnnxGraph(onnx.ModelProto.FromString(model.SerializeToString()))
    _fuse_gemm(graph)
    _drop_clipped_activations(graph)
    _move_between_pairs(graph)
    while _repeat_quantization(graph):
        pass
    for node in list(graph.nodes):
        if node.op_type in _WEIGHTED:
            _quantize_weights(graph, node)
    completed = graph.finish()
    missing = incomplete_nodes(completed)
    if missing:
        raise ValueError(f"the QDQ graph is not complete: {'; '.join(missing)}")
    return completed


def incomplete_nodes(model: onnx.ModelProto) -> list[str]:
    """Say which convolutions, Gemm and MatMul would not run as integers, and why; empty for a complete graph."""
    graph = OnnxGraph(onnx.ModelProto.FromString(model.SerializeToString()))
    producers, consumers = graph.producers(), graph.consumers()

    def is_dequantized(name: str) -> bool:
        return name in producers and producers[name].op_type == _DQ

    def is_rounded(node: onnx.NodeProto) -> bool:
        readers = consumers.get(node.output[0], [])
        return bool(readers) and all(
            reader.op_type == _Q or (reader.op_type in ("Relu", "Clip") and is_rounded(reader))
            for reader in readers
        )

    problems = []
    for node in graph.nodes:
        if node.op_type not in _COMPLETE:
            continue
        floats = [name for name in node.input if not is_dequantized(name)]
        problems += [f"{node.op_type} '{node.name}' reads '{name}' in float" for name in floats]
        if not is_rounded(node):
            problems.append(f"{node.op_type} '{node.name}' has an output that is not quantized")
    return problems


def _fuse_gemm(graph: OnnxGraph) -> None:
    consumers = graph.consumers()
    for node in [n for n in graph.nodes if n.op_type == "MatMul" and n.input[1] in graph.constants]:
        readers = consumers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type != "Add" or graph.constants[node.input[1]].ndim != 2:
            continue
        add = readers[0]
        bias = next((name for name in add.input if name in graph.constants), None)
        if bias is None or graph.constants[bias].size != graph.constants[node.input[1]].shape[1]:
            continue
        graph.constants[bias] = graph.constants[bias].reshape(-1)
        gemm = helper.make_node("Gemm", [*node.input, bias], list(add.output), name=node.name)
        graph.nodes.remove(node)
        graph.nodes[graph.nodes.index(add)] = gemm


def _drop_clipped_activations(graph: OnnxGraph) -> None:
    consumers = graph.consumers()
    for node in [n for n in graph.nodes if n.op_type in ("Relu", "Clip")]:
        readers = consumers.get(node.output[0], [])
        if node.output[0] in graph.outputs or not readers or any(r.op_type != _Q for r in readers):
            continue
        if all(_clips_alike(graph, reader, *_activation_range(graph, node)) for reader in readers):
            graph.redirect(node.output[0], node.input[0])
            graph.nodes.remove(node)


def _activation_range(graph: OnnxGraph, node: onnx.NodeProto) -> tuple[float, float]:
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = [float(graph.constants[name]) if name else None for name in [*node.input[1:], "", ""][:2]]
    return -np.inf if bounds[0] is None else bounds[0], np.inf if bounds[1] is None else bounds[1]


def _clips_alike(graph: OnnxGraph, quantize: onnx.NodeProto, low: float, high: float) -> bool:
    """Whether both bounds round to the outermost steps of a grid, or lie beyond: then they change no integer."""
    scale, zero_point = (graph.constants[name] for name in quantize.input[1:3])
    info = np.iinfo(zero_point.dtype)
    bottom, top = ((int(end) - int(zero_point)) * float(scale) for end in (info.min, info.max))
    return bool(low - bottom < scale / 2 and top - high < scale / 2)


def _move_between_pairs(graph: OnnxGraph) -> None:
    """Turn Q, Reshape, DQ, which tf2onnx's optimizer leaves, into Reshape, Q, DQ."""
    producers = graph.producers()
    for node in [n for n in graph.nodes if n.op_type in _SAME_GRID]:
        quantize = producers.get(node.input[0])
        if quantize is None or quantize.op_type != _Q:
            continue
        quantized, real = node.output[0], graph.fresh(f"{node.output[0]}_real")
        node.input[0], node.output[0] = quantize.input[0], real
        graph.nodes.append(
            helper.make_node(_Q, [real, *quantize.input[1:3]], [quantized], name=f"{node.name}_quantize")
        )


def _repeat_quantization(graph: OnnxGraph) -> bool:
    """Repeat Q/DQ behind or before one operator that keeps the grid; return whether there was one to do."""
    producers, consumers = graph.producers(), graph.consumers()
    for node in [n for n in graph.nodes if n.op_type in _SAME_GRID]:
        source, result = node.input[0], node.output[0]
        before, after = producers.get(source), consumers.get(result, [])
        if before is None:
            continue
        is_quantized_before = before.op_type == _DQ
        is_quantized_after = bool(after) and all(reader.op_type == _Q for reader in after)
        if is_quantized_before and not is_quantized_after:
            _insert_pair(graph, result, list(before.input[1:3]), after)
            return True
        if is_quantized_after and not is_quantized_before:
            _insert_pair(graph, source, list(after[0].input[1:3]), [node])
            return True
    return False


def _insert_pair(graph: OnnxGraph, tensor: str, parameters: list[str], readers: list[onnx.NodeProto]) -> None:
    """Put Q/DQ between `tensor` and `readers`; a graph output keeps its name and becomes the DQ's."""
    if tensor in graph.outputs:
        inner = graph.fresh(f"{tensor}_unquantized")
        node = graph.producers()[tensor]
        node.output[list(node.output).index(tensor)] = inner
        source, target = inner, tensor
    else:
        source, target = tensor, graph.fresh(f"{tensor}_dequantized")
        graph.redirect(tensor, target, readers)
    quantized = graph.fresh(f"{tensor}_quantized")
    graph.nodes += [
        helper.make_node(_Q, [source, *parameters], [quantized], name=quantized),
        helper.make_node(_DQ, [quantized, *parameters], [target], name=target),
    ]


def _quantize_weights(graph: OnnxGraph, node: onnx.NodeProto) -> None:
    """Replace the float weights and bias of one operator by int8 and int32 behind DQ."""
    producers = graph.producers()
    weight_name = node.input[1]
    source = producers.get(node.input[0])
    if weight_name not in graph.constants or source is None or source.op_type != _DQ:
        return
    axis = 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1
    weight = graph.constants[weight_name].astype(np.float64)
    bias = graph.constants[node.input[2]].astype(np.float64) if len(node.input) > 2 else None
    input_scale = float(graph.constants[source.input[1]])
    output_scale = _output_scale(graph, node)
    scaled_bias = None if bias is None else bias / input_scale
    integers, scales = _recover_int8(node.name, weight, axis, scaled_bias, output_scale / input_scale)
    node.input[1] = _dequantized(graph, weight_name, integers, scales, axis)
    if bias is not None:
        bias_scales = (scales.astype(np.float64) * input_scale).astype(np.float32)
        quantized = np.round(bias / bias_scales).astype(np.int32)
        node.input[2] = _dequantized(graph, node.input[2], quantized, bias_scales, 0)


def _output_scale(graph: OnnxGraph, node: onnx.NodeProto) -> float:
    """Step of the grid behind an operator, 0 without."""
    consumers, readers = graph.consumers(), [node]
    while readers and readers[0].op_type != _Q:
        readers = consumers.get(readers[0].output[0], [])
        if readers and readers[0].op_type not in (_Q, "Relu", "Clip"):
            return 0.0
    return float(graph.constants[readers[0].input[1]]) if readers else 0.0


def _recover_int8(
    name: str, weight: np.ndarray, axis: int, scaled_bias: np.ndarray | None, ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 weights and the float32 scale per output channel; `ratio` is that of output to input scale.

    A channel whose weights are near zero but whose bias is not would overflow the int32 bias, whose scale is
    proportional to the weight's: its scale is raised to where the bias fits.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    limits = np.abs(weight).max(axis=others)
    whole = max(limits.max(), 1e-12)

    def off_grid(scales: np.ndarray) -> np.ndarray:
        steps = weight / scales.reshape(shape)
        return np.abs(steps - np.round(steps)).max(axis=others)

    for limit in (np.maximum(limits, whole * SMALLEST_CHANNEL), np.full_like(limits, whole)):
        candidates = _candidates(limit / 127, ratio)
        errors = np.stack([off_grid(scales) for scales in candidates])
        best, error = errors.argmin(axis=0), errors.min(axis=0).max()
        if error <= _GRID_TOLERANCE:
            scales = np.choose(best, candidates)
            break
    else:
        raise ValueError(
            f"the weights of '{name}' are on no int8 grid, per output channel or whole (off by {error:.3f} of a "
            "step): expected an export of prepare_qat; for a float model use quantize_onnx"
        )
    if scaled_bias is not None:
        scales = np.maximum(scales, abs(scaled_bias) / _BIAS_LIMIT)
    return np.round(weight / scales.reshape(shape)).astype(np.int8), scales.astype(np.float32)


def _candidates(least: np.ndarray, ratio: float) -> list[np.ndarray]:
    """Scales that the kernel quantizer may have chosen, the likely ones first.

    It chose the largest odd R by the largest weight before rounding, which differs from the one after it by less than
    0.4 %, half a step of 127.
    """
    steps = ratio / least
    highest = 2 * np.floor((1.004 * steps - 1) / 2) + 1
    tries = int(np.ceil(0.004 * np.max(steps[steps < MOST_STEPS], initial=0))) + 2
    odd = [np.maximum(highest - 2 * k, 1) for k in range(tries)]
    return [*(np.where(steps >= LEAST_STEPS * 0.99, ratio / n, least) for n in odd if ratio), least]


def _dequantized(graph: OnnxGraph, name: str, integers: np.ndarray, scales: np.ndarray, axis: int) -> str:
    """Add integers and their DQ to the graph; return the dequantized tensor, called as the constant it replaces.

    A constant that several operators share becomes one tensor each: their biases have different scales.
    """
    output = graph.fresh(name) if name in graph.producers() else name
    quantized = graph.constant(f"{output}_quantized", integers)
    scale = graph.constant(f"{output}_scale", scales)
    zero_point = graph.constant(f"{output}_zero_point", np.zeros(scales.shape, integers.dtype))
    graph.nodes.append(
        helper.make_node(_DQ, [quantized, scale, zero_point], [output], name=output, axis=axis)
    )
    return output
