from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import ConfigError
from common.runtime._runtime import embedding_index, embedding_length

# A model whose shapes cannot tell may say so in its metadata
LAYOUT_KEY = "input_layout"
PRECISION_KEY = "precision"
SOC_KEY = "soc"

_CHANNELS = (1, 3)
_QUANTIZED_OPERATORS = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"}


@dataclass(frozen=True)
class OnnxFile:
    """What an ONNX file says about itself.

    Attributes:
        input_name: Name of the only input.
        batch: Fixed batch size, or None when it is free.
        input_shape: (H, W, C) of one image.
        channels_first: Whether the input is (N, C, H, W).
        output_name: Name of the embedding output.
        embedding_dim: Length of one embedding.
        precision: ``int8`` when the graph holds quantization operators.
        metadata: The file's own key-value pairs.
    """

    input_name: str
    batch: int | None
    input_shape: tuple[int, int, int]
    channels_first: bool
    output_name: str
    embedding_dim: int
    precision: str
    metadata: dict[str, str]


def load_graph(path: Path) -> Any:
    """Load an ONNX model without its external weights; ConfigError when it is not one."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # noqa: BLE001 - protobuf raises its own types, with no common base
        raise ConfigError(f"Cannot read {path} as ONNX: the file is damaged or of another format.") from error
    if not model.graph.node:
        raise ConfigError(f"Cannot read {path} as ONNX: it holds no operators.")
    return model


def is_qnn_context(path: Path) -> bool:
    """Whether an ONNX file only wraps a compiled QNN context."""
    return any(node.op_type == "EPContext" for node in load_graph(path).graph.node)


def inspect_onnx(path: Path) -> OnnxFile:
    """Read input, output, layout and precision from an ONNX file; ConfigError if it is no embedding model."""
    model = load_graph(path)
    graph = model.graph
    metadata = {item.key: item.value for item in model.metadata_props}
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ConfigError(f"{path}: expected one input (images); found {[value.name for value in inputs]}.")
    dims, float32 = _shape(inputs[0])
    if len(dims) != 4 or not all(isinstance(dim, int) for dim in dims[1:]) or not float32:
        raise ConfigError(
            f"{path}: expected a float32 input of shape (N, C, H, W) or (N, H, W, C) with fixed C, H and W; "
            f"found {dims}{'' if float32 else ', not float32'}."
        )
    first = _channels_first(dims, metadata.get(LAYOUT_KEY), path)
    channels, height, width = (dims[1], dims[2], dims[3]) if first else (dims[3], dims[1], dims[2])
    output = graph.output[embedding_index([value.name for value in graph.output], path)]
    length = embedding_length(_shape(output)[0], path)
    quantized = any(node.op_type in _QUANTIZED_OPERATORS for node in graph.node)
    return OnnxFile(
        input_name=inputs[0].name,
        batch=dims[0] if isinstance(dims[0], int) else None,
        input_shape=(height, width, channels),
        channels_first=first,
        output_name=output.name,
        embedding_dim=length,
        precision=metadata.get(PRECISION_KEY, "int8" if quantized else "float32"),
        metadata=metadata,
    )


def require_single(path: Path) -> OnnxFile:
    """As `inspect_onnx`, of a graph that takes one image at a time; ConfigError where it takes a batch."""
    file = inspect_onnx(path)
    if file.batch != 1:
        raise ConfigError(
            f"{path}: expected batch 1, found {file.batch or 'a free one'}. Export it with batch 1."
        )
    return file


def _shape(value: Any) -> tuple[list[Any], bool]:
    """Dimensions (integers; a name or '?' where free) of an ONNX value, and whether it is float32."""
    tensor = value.type.tensor_type
    dims = [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or "?"
        for dim in tensor.shape.dim
    ]
    return dims, tensor.elem_type == 1


def _channels_first(dims: list[Any], stated: str | None, path: Path) -> bool:
    if stated in ("NCHW", "NHWC"):
        return stated == "NCHW"
    first, last = dims[1] in _CHANNELS, dims[3] in _CHANNELS
    if first == last:
        raise ConfigError(
            f"{path}: cannot tell whether the input {dims} is NCHW or NHWC: expected 1 or 3 channels at "
            f"one end. Add the metadata property '{LAYOUT_KEY}' = NCHW or NHWC to the file."
        )
    return first
