"""Post-training quantization of float ONNX with onnxruntime: QDQ, uint8 or uint16 activations, int8 weights."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from onnx import helper, version_converter
from onnxruntime import quantization
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from common.quantization._onnx_graph import OnnxGraph, attribute
from common.quantization.complete import incomplete_nodes
from common.quantization.qat import Calibration, Granularity, check_granularity

CalibrateMethod = Literal["MinMax", "Entropy", "Percentile"]
ActivationBits = Literal[8, 16]
_TYPES = {8: quantization.QuantType.QUInt8, 16: quantization.QuantType.QUInt16}
_OPSET_OF_16_BITS = 21


def quantize_onnx(
    float_model: onnx.ModelProto,
    calibration: Calibration,
    granularity: Granularity = "per_channel",
    calibrate_method: CalibrateMethod = "MinMax",
    activation_bits: ActivationBits = 8,
) -> onnx.ModelProto:
    """Quantize a model of `export_onnx` to QDQ: unsigned activations, symmetric int8 weights, int32 biases.

    Files with 8 and 16 bits are of operator set 17 and 21.

    Args:
        float_model: static shapes, one input in NHWC or NCHW, batch norms folded.
        calibration: yields rescaled float32 batches (n, H, W, C), in NHWC whatever the model's layout.
        granularity: one int8 scale per output channel, or one per weight tensor.
        calibrate_method: how the range of an activation follows from its values on the calibration images.
        activation_bits: of every tensor between two operators. At 8 the NPU and ONNX Runtime round a few percent of
            them differently, layer after layer; at 16 they agree.

    Raises:
        ValueError: an unknown choice, no calibration images, or an operator with weights that stays in float.
    """
    check_granularity(granularity)
    methods = get_args(CalibrateMethod)
    if calibrate_method not in methods:
        raise ValueError(
            f"calibrate_method: expected one of {', '.join(methods)}, received {calibrate_method!r}"
        )
    if activation_bits not in _TYPES:
        raise ValueError(f"activation_bits: expected 8 or 16, received {activation_bits!r}")
    marked = onnx.ModelProto.FromString(float_model.SerializeToString())
    if activation_bits == 16:
        marked = _without_affine_convolutions(version_converter.convert_version(marked, _OPSET_OF_16_BITS))
        marked.ir_version = helper.find_min_ir_version_for(marked.opset_import)
    add_pre_process_metadata(marked)  # folded and shaped already; unmarked models are warned about
    with tempfile.TemporaryDirectory() as folder, _silence():
        source, target = Path(folder) / "float.onnx", Path(folder) / "qdq.onnx"
        onnx.save(marked, source)
        quantization.quantize_static(
            source,
            target,
            _Reader(marked, calibration),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=granularity == "per_channel",
            activation_type=_TYPES[activation_bits],
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod[calibrate_method],
            extra_options={
                "CalibStridedMinMax": 1,  # merge ranges after every batch, or all activations stay in memory
                "MinimumRealRange": 1e-4,  # of units that never fire
            },
        )
        quantized = onnx.load(target)
    missing = incomplete_nodes(quantized)
    if missing:
        raise ValueError(f"onnxruntime left operators in float: {'; '.join(missing)}")
    return quantized


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hide what onnxruntime prints, and tells the root logger of each bias that it copies; warnings are kept."""

    def is_warning(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING

    root = logging.getLogger()
    root.addFilter(is_warning)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeFilter(is_warning)


def _without_affine_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write depthwise 1x1 convolutions with a bias and stride 1, which batch norms become, as products and sums.

    QNN 2.51 ends with a segmentation fault on them where activations have 16 bits.
    """
    graph = OnnxGraph(model)
    for node in [n for n in graph.nodes if n.op_type == "Conv"]:
        if not _is_affine(node, graph.constants[node.input[1]]):
            continue
        names = [graph.constant(name, graph.constants[name].reshape(1, -1, 1, 1)) for name in node.input[1:]]
        scaled = graph.fresh(f"{node.output[0]}_scaled")
        graph.nodes.remove(node)
        graph.nodes += [
            helper.make_node("Mul", [node.input[0], names[0]], [scaled], name=f"{node.name}_scale"),
            helper.make_node("Add", [scaled, names[1]], list(node.output), name=f"{node.name}_shift"),
        ]
    return graph.finish()


def _is_affine(node: onnx.NodeProto, kernel: np.ndarray) -> bool:
    """Whether a convolution scales and shifts each of several channels, and nothing else."""
    has_own_kernels = attribute(node, "group", 1) == len(kernel) > 1 and kernel.shape[1:] == (1, 1, 1)
    keeps_places = set(attribute(node, "strides", [1])) == {1} and not any(attribute(node, "pads", [0]))
    return has_own_kernels and keeps_places and len(node.input) == 3


class _Reader(quantization.CalibrationDataReader):
    """Feed the calibration images in the model's batch size and layout; the last batch is padded by repetition."""

    def __init__(self, model: onnx.ModelProto, calibration: Calibration) -> None:
        info = model.graph.input[0]
        batch_size, channels_or_height, _, channels_or_width = (
            dim.dim_value for dim in info.type.tensor_type.shape.dim
        )
        batches = list(calibration())
        if not batches:
            raise ValueError("calibration yielded no batch: expected float32 images (n, H, W, C)")
        images = np.concatenate(batches)
        is_nchw = images.shape[-1] == channels_or_height and images.shape[-1] != channels_or_width
        images = images.transpose(0, 3, 1, 2) if is_nchw else images
        count = -(-len(images) // batch_size)
        images = np.resize(images, (count * batch_size, *images.shape[1:]))
        self._name = info.name
        self._batches = np.ascontiguousarray(images, np.float32).reshape(count, batch_size, *images.shape[1:])
        self.set_range(0, count)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Let the next reading go over these batches."""
        self._next, self._end = start_index, end_index

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch by input name, or None at the end of the range."""
        if self._next == self._end:
            return None
        self._next += 1
        return {self._name: self._batches[self._next - 1]}
