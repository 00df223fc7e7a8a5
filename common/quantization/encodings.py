"""The quantization of a QDQ ONNX model as an encodings JSON (`--quantization_overrides` of Qualcomm's converters)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx

from common.quantization._onnx_graph import OnnxGraph, attribute

Version = Literal["legacy", "1.0.0", "2.0.0"]


@dataclass(frozen=True)
class _Encoding:
    """Real value = scale * (integer - zero_point)."""

    name: str
    is_parameter: bool
    dtype: np.dtype
    scale: np.ndarray  # (C,), or (1,) per tensor
    zero_point: np.ndarray  # like scale, on the grid of dtype
    axis: int | None  # None per tensor

    @property
    def bits(self) -> int:
        return self.dtype.itemsize * 8

    @property
    def offset(self) -> np.ndarray:
        """AIMET's offset: minus the zero point of the unsigned grid; -128 for symmetric int8."""
        lowest = int(np.iinfo(self.dtype).min)
        return lowest - self.zero_point.astype(np.int64)

    @property
    def is_symmetric(self) -> bool:
        return self.dtype.kind == "i" and not self.zero_point.any()


def encodings(model: onnx.ModelProto, version: Version = "legacy") -> dict[str, Any]:
    """Return scale and offset of every quantized tensor of a QDQ model, for `json.dump`.

    Activations are named as the tensor that QuantizeLinear reads, parameters as the tensor that DequantizeLinear
    makes; both names survive when the Q/DQ nodes are removed. Formats: AIMET's 0.6.1 (`legacy`) and 1.0.0, where
    `offset` is minus the zero point of the unsigned grid, and 2.0.0, which follows ONNX (`y_zero_point`).

    Raises:
        ValueError: unknown version, or a model without Q/DQ.
    """
    if version not in _FORMATS:
        raise ValueError(f"version: expected one of {', '.join(_FORMATS)}, received {version!r}")
    found = _collect(OnnxGraph(model))
    if not found:
        raise ValueError("the model has no QuantizeLinear or DequantizeLinear: expected a QDQ model")
    return _FORMATS[version](found)


def _collect(graph: OnnxGraph) -> list[_Encoding]:
    found = []
    for node in graph.nodes:
        is_parameter = node.op_type == "DequantizeLinear" and node.input[0] in graph.constants
        if not is_parameter and node.op_type != "QuantizeLinear":
            continue
        scale, zero_point = (np.atleast_1d(graph.constants[name]) for name in node.input[1:3])
        axis = int(attribute(node, "axis", 1)) if scale.size > 1 else None
        name = node.output[0] if is_parameter else node.input[0]
        found.append(_Encoding(name, is_parameter, zero_point.dtype, scale, zero_point, axis))
    return found


def _legacy(found: list[_Encoding]) -> dict[str, Any]:
    def entries(encoding: _Encoding) -> list[dict[str, Any]]:
        levels = 2**encoding.bits - 1
        return [
            {
                "bitwidth": encoding.bits,
                "dtype": "int",
                "is_symmetric": str(encoding.is_symmetric),
                "max": float(scale) * (int(offset) + levels),
                "min": float(scale) * int(offset),
                "offset": int(offset),
                "scale": float(scale),
            }
            for scale, offset in zip(encoding.scale, encoding.offset, strict=True)
        ]

    return {
        "version": "0.6.1",
        "activation_encodings": {e.name: entries(e) for e in found if not e.is_parameter},
        "param_encodings": {e.name: entries(e) for e in found if e.is_parameter},
    }


def _version_1(found: list[_Encoding]) -> dict[str, Any]:
    def entry(encoding: _Encoding) -> dict[str, Any]:
        return {
            "name": encoding.name,
            "dtype": "INT",
            "bw": encoding.bits,
            "enc_type": "PER_TENSOR" if encoding.axis is None else "PER_CHANNEL",
            "is_sym": encoding.is_symmetric,
            "scale": [float(scale) for scale in encoding.scale],
            "offset": [int(offset) for offset in encoding.offset],
        }

    return {
        "version": "1.0.0",
        "activation_encodings": [entry(e) for e in found if not e.is_parameter],
        "param_encodings": [entry(e) for e in found if e.is_parameter],
    }


def _version_2(found: list[_Encoding]) -> dict[str, Any]:
    def entry(encoding: _Encoding) -> dict[str, Any]:
        common = {"name": encoding.name, "output_dtype": encoding.dtype.name}
        if encoding.axis is None:
            return common | {
                "y_scale": float(encoding.scale[0]),
                "y_zero_point": int(encoding.zero_point[0]),
            }
        return common | {
            "y_scale": [float(scale) for scale in encoding.scale],
            "y_zero_point": [int(zero_point) for zero_point in encoding.zero_point],
            "axis": encoding.axis,
        }

    return {"version": "2.0.0", "encodings": [entry(e) for e in found]}


_FORMATS: dict[str, Callable[[list[_Encoding]], dict[str, Any]]] = {
    "legacy": _legacy,
    "1.0.0": _version_1,
    "2.0.0": _version_2,
}
