"""Post-training quantization of float ONNX with onnxruntime: QDQ, uint8 activations, int8 weights."""

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from common.quantization.complete import incomplete_nodes
from common.quantization.qat import Calibration, Granularity, check_granularity

CalibrateMethod = Literal["MinMax", "Entropy", "Percentile"]


def quantize_onnx(
    float_model: onnx.ModelProto,
    calibration: Calibration,
    granularity: Granularity = "per_channel",
    calibrate_method: CalibrateMethod = "MinMax",
) -> onnx.ModelProto:
    """Quantize a model of `export_onnx` to QDQ: uint8 activations, symmetric int8 weights, int32 biases.

    Args:
        float_model: static shapes, one input in NHWC or NCHW, batch norms folded.
        calibration: yields rescaled float32 batches (n, H, W, C), in NHWC whatever the model's layout.
        granularity: one int8 scale per output channel, or one per weight tensor.
        calibrate_method: how the range of an activation follows from its values on the calibration images.

    Raises:
        ValueError: an unknown choice, no calibration images, or an operator with weights that stays in float.
    """
    check_granularity(granularity)
    methods = get_args(CalibrateMethod)
    if calibrate_method not in methods:
        raise ValueError(
            f"calibrate_method: expected one of {', '.join(methods)}, received {calibrate_method!r}"
        )
    marked = onnx.ModelProto.FromString(float_model.SerializeToString())
    add_pre_process_metadata(marked)  # folded and shaped already; unmarked models are warned about
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        source, target = Path(folder) / "float.onnx", Path(folder) / "qdq.onnx"
        onnx.save(marked, source)
        quantization.quantize_static(
            source,
            target,
            _Reader(float_model, calibration),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=granularity == "per_channel",
            activation_type=quantization.QuantType.QUInt8,
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
