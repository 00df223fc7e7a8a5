from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import ConfigError, ToolError
from common.run import python_environment
from common.runtime.onnx_file import PRECISION_KEY, SOC_KEY, load_graph
from common.runtime.qnn_session import last_words, require_qnn, run_logged
from common.socs import Soc, soc_named

NPU = "NPU"
REFUSED = "refused"

_TIMEOUT_SECONDS = 1800
_LOG = "log.txt"

# Qnn_DataType_t of QnnTypes.h
_DATA_TYPES = {
    0x008: "int8",
    0x016: "int16",
    0x032: "int32",
    0x064: "int64",
    0x108: "uint8",
    0x116: "uint16",
    0x132: "uint32",
    0x164: "uint64",
    0x216: "float16",
    0x232: "float32",
    0x304: "sfixed4",
    0x308: "sfixed8",
    0x316: "sfixed16",
    0x332: "sfixed32",
    0x404: "ufixed4",
    0x408: "ufixed8",
    0x416: "ufixed16",
    0x432: "ufixed32",
    0x508: "bool",
}
_STATIC_TENSOR = 4  # QNN_TENSOR_TYPE_STATIC: weights and biases
_CONVOLUTIONS = {"Conv2d", "DepthWiseConv2d", "TransposeConv2d", "Conv3d"}
_MATMULS = {"MatMul", "FullyConnected"}
_CONVERSIONS = {"Quantize", "Dequantize", "Cast", "Convert"}


@dataclass(frozen=True)
class Placement:
    """Where one operator went.

    Attributes:
        name: Name of the QNN operator; of a refused one, of the ONNX operator.
        type: Its type, such as ``Conv2d`` (QNN) or ``Erf`` (ONNX, when refused).
        placed_on: ``NPU`` or ``refused``.
        inputs: Data types of its activations, as the QNN graph states them. A ``float32`` operator
            computes in float16 on the NPU unless that was switched off.
        weights: Data types of its weights and biases.
        outputs: Data types of its results.
        reason: Why it was refused; empty otherwise.
    """

    name: str
    type: str
    placed_on: str
    inputs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    reason: str = ""

    @property
    def kind(self) -> str:
        """``integer``, ``float``, ``conversion`` (between the two) or ``refused``."""
        if self.placed_on == REFUSED:
            return REFUSED
        if self.type in _CONVERSIONS:
            return "conversion"
        types = self.inputs + self.weights + self.outputs
        return "float" if any(name.startswith("float") for name in types) else "integer"


@dataclass(frozen=True)
class HtpCounts:
    """Operators of a placement table: ``operators = integer + floating + conversions + refused``."""

    operators: int
    integer: int
    floating: int
    conversions: int
    refused: int
    convolutions: int
    integer_convolutions: int
    matmuls: int
    integer_matmuls: int
    partitions: int


@dataclass(frozen=True)
class HtpCompilation:
    """What the HTP compiler made of a graph.

    Attributes:
        soc: Name of the chip.
        soc_model: QNN's number of the chip.
        hexagon: Version of the chip's tensor processor.
        qnn_version: Version of the QNN libraries.
        placement: One row an operator, in the order of execution, refused ones last.
        counts: Totals of the rows.
        complete: Whether the whole graph is one partition on the NPU. Otherwise there is no context.
        error: What the compiler said when it is not complete.
        context: ONNX file that wraps the context; ``open_model`` runs it on the emulator.
        context_binary: The offline context for the chip.
        dlc: The graph as a Qualcomm container.
        graph_json: The QNN graph with its data types, for Netron.
        trace_json: Which ONNX operators each QNN operator comes from.
        prepare_seconds: Host time of the compilation.
        context_bytes: Size of the context binary.
        dlc_bytes: Size of the container.
    """

    soc: str
    soc_model: int
    hexagon: str
    qnn_version: str
    placement: tuple[Placement, ...]
    counts: HtpCounts
    complete: bool
    error: str | None
    context: Path | None
    context_binary: Path | None
    dlc: Path | None
    graph_json: Path | None
    trace_json: Path | None
    prepare_seconds: float
    context_bytes: int | None
    dlc_bytes: int | None

    def require_complete(self) -> HtpCompilation:
        """Return self; ConfigError that names what the NPU refused when the graph is not entirely on it."""
        if self.complete:
            return self
        refused = [
            f"{row.type} '{row.name}': {row.reason}" for row in self.placement if row.placed_on == REFUSED
        ]
        more = f"\n  ... and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise ConfigError(
            f"The graph does not run on the HTP of {self.soc} entirely ({len(refused)} operators refused, "
            f"{self.counts.partitions} partitions; expected 0 and 1).{'' if refused else f' {self.error}'}"
            + "".join(f"\n  {line}" for line in refused[:5])
            + more
        )

    def require_integer(self) -> HtpCompilation:
        """Return self; ConfigError that names convolutions and matrix products that a QDQ graph leaves in float.

        They run, as float16 and several times slower, where an operand or the result has no QuantizeLinear.
        """
        weighted = [row for row in self.placement if row.type in _CONVOLUTIONS | _MATMULS]
        floating = [f"{row.type} '{row.name}'" for row in weighted if row.kind == "float"]
        if not floating:
            return self
        raise ConfigError(
            f"{len(floating)} of {len(weighted)} convolutions and matrix products of the INT8 graph run in float on "
            f"the HTP of {self.soc}, expected none: {', '.join(floating[:5])}"
            f"{', ...' if len(floating) > 5 else ''}. Quantize the float model again with tfmot_qat or Onnx_quantizer."
        )


def compile_htp(
    onnx_path: Path, out_dir: Path, soc: str = "QCS8550", graph_optimization: int = 3, vtcm_mb: int = 0
) -> HtpCompilation:
    """Compile an ONNX graph for the HTP of a Qualcomm chip with onnxruntime-qnn, on a Linux x86-64 host.

    The compiler runs in a process of its own, in a temporary folder. CPU fallback, which is silent and on by
    default, is always disabled. A graph that the HTP takes in part or not at all comes back with
    ``complete=False`` and the table of what was refused, so that it can be reported.

    Args:
        onnx_path: QDQ or float graph with static shapes.
        out_dir: Folder for context, DLC, graph and trace. Files of an earlier run are replaced.
        soc: A name in ``SOCS``.
        graph_optimization: 0 to 3, the fastest graph.
        vtcm_mb: Fast memory of the NPU that the graph may use, in MB; 0 leaves it to the compiler.

    Raises:
        ConfigError: Unknown chip, unreadable graph, free dimensions, or no onnxruntime-qnn.
        ToolError: The compiler crashed, or failed without saying which operators it refused.
    """
    chip = soc_named(soc)
    _require_static(onnx_path)
    version = require_qnn()
    out_dir.mkdir(parents=True, exist_ok=True)
    stem = f"{onnx_path.stem}_{chip.name.lower()}"
    _delete_old(out_dir, stem)
    request = {
        "onnx_path": str(onnx_path.resolve()),
        "soc_model": chip.soc_model,
        "options": {
            "htp_graph_finalization_optimization_mode": str(graph_optimization),
            "vtcm_mb": str(vtcm_mb),
        },
        "context_name": f"{stem}.onnx",
    }
    with tempfile.TemporaryDirectory(prefix=f".{stem}_", dir=out_dir) as folder:
        work = Path(folder)
        result = _run_step(work, {**request, "step": "context"})
        placement, partitions = _read_placement(work)
        if result["error"] and not placement:
            raise ToolError(
                f"The HTP compiler failed on {onnx_path}: {result['error']}\n{last_words(work / _LOG)}"
            )
        counts = _count(placement, partitions)
        complete = result["error"] is None and counts.refused == 0 and partitions == 1
        files: dict[str, Path] = {}
        if complete:
            _describe(work / f"{stem}.onnx", chip, counts)
            dlc = _run_step(work, {**request, "step": "dlc"})
            if dlc["error"]:
                raise ToolError(f"The context was made but not the DLC of {onnx_path}: {dlc['error']}")
            files = _collect(work, out_dir, stem)
        elif trace := _only(work.glob("trace/*.json")):
            files = {"trace_json": _move(trace, out_dir / f"{stem}_trace.json")}
    binary, container = files.get("context_binary"), files.get("dlc")
    return HtpCompilation(
        soc=chip.name,
        soc_model=chip.soc_model,
        hexagon=chip.hexagon,
        qnn_version=version,
        placement=placement,
        counts=counts,
        complete=complete,
        error=result["error"],
        context=files.get("context"),
        context_binary=binary,
        dlc=container,
        graph_json=files.get("graph_json"),
        trace_json=files.get("trace_json"),
        prepare_seconds=result["seconds"],
        context_bytes=binary.stat().st_size if binary else None,
        dlc_bytes=container.stat().st_size if container else None,
    )


def _require_static(onnx_path: Path) -> None:
    """The provider would put a graph with a free dimension on the CPU, whole and silently."""
    if not onnx_path.is_file():
        raise ConfigError(f"ONNX file not found: {onnx_path}.")
    graph = load_graph(onnx_path).graph
    weights = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        dims = [dim.dim_value or dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim]
        if value.name not in weights and not all(isinstance(dim, int) for dim in dims):
            raise ConfigError(
                f"{onnx_path}: input '{value.name}' has the free dimensions {dims}, and the HTP needs "
                "static shapes. Export the model with batch 1."
            )


def _delete_old(out_dir: Path, stem: str) -> None:
    """ONNX Runtime refuses to overwrite a context, and a failed run must not leave an older one behind."""
    for name in (".onnx", "_qnn.bin", ".dlc", "_graph.json", "_trace.json"):
        (out_dir / f"{stem}{name}").unlink(missing_ok=True)


def _run_step(work: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    (work / "request.json").write_text(json.dumps(request))
    result = work / "result.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "common.deployment._htp_worker", "request.json"]
    # The libraries drop files into the working folder
    code = run_logged(
        command, "The HTP compiler", _TIMEOUT_SECONDS, work / _LOG, cwd=work, env=python_environment()
    )
    if not result.is_file():
        raise ToolError(f"The HTP compiler ended with code {code}. It said:\n{last_words(work / _LOG)}")
    return json.loads(result.read_text())


def _read_placement(work: Path) -> tuple[tuple[Placement, ...], int]:
    """Rows and number of partitions from the graphs and the trace that the provider wrote."""
    trace_path = _only(work.glob("trace/*.json"))
    if trace_path is None:
        return (), 0
    trace = json.loads(trace_path.read_text())
    rows: list[Placement] = []
    for part in trace["subgraph_traces"]:
        graph = json.loads((work / "graph" / f"{part['graph_name']}.json").read_text())["graph"]
        rows += [
            _placed(operator["dst_name"], graph)
            for operator in part["op_mappings"]
            if operator["dst_name"] in graph["nodes"]
        ]
    rows += [
        Placement(_plain(node["node_name"]), node["op_type"], REFUSED, reason=_reason(node["reason"]))
        for node in trace["unsupported_nodes"]
    ]
    return tuple(rows), trace["summary"]["qnn_subgraphs"]


def _placed(name: str, graph: Mapping[str, Any]) -> Placement:
    node = graph["nodes"][name]
    tensors = graph["tensors"]
    fed = [tensors[tensor] for tensor in node["input_names"]]
    return Placement(
        name=_plain(name),
        type=node["type"],
        placed_on=NPU,
        inputs=tuple(_data_type(tensor) for tensor in fed if tensor["type"] != _STATIC_TENSOR),
        weights=tuple(_data_type(tensor) for tensor in fed if tensor["type"] == _STATIC_TENSOR),
        outputs=tuple(_data_type(tensors[tensor]) for tensor in node["output_names"]),
    )


def _data_type(tensor: Mapping[str, Any]) -> str:
    return _DATA_TYPES.get(tensor["data_type"], f"0x{tensor['data_type']:04x}")


def _reason(text: str) -> str:
    """The reason alone: the provider appends a sentence with the node's name, which would make each unique."""
    return re.sub(r"\s*\w+ node `[^`]*` will not be assigned to QNN EP\.", "", text).strip()


def _plain(name: str) -> str:
    """A node's name without the counter that ONNX Runtime's layout transformation appends."""
    return re.sub(r"_token_\d+$", "", name)


def _count(placement: Iterable[Placement], partitions: int) -> HtpCounts:
    rows = [(row.type, row.kind) for row in placement]
    kinds = [kind for _, kind in rows]

    def weighted(types: set[str]) -> tuple[int, int]:
        found = [kind for type_, kind in rows if type_ in types]
        return len(found), found.count("integer")

    # A refused convolution carries its ONNX type
    convolutions, integer_convolutions = weighted(_CONVOLUTIONS | {"Conv", "ConvTranspose"})
    matmuls, integer_matmuls = weighted(_MATMULS | {"Gemm"})
    return HtpCounts(
        operators=len(rows),
        integer=kinds.count("integer"),
        floating=kinds.count("float"),
        conversions=kinds.count("conversion"),
        refused=kinds.count(REFUSED),
        convolutions=convolutions,
        integer_convolutions=integer_convolutions,
        matmuls=matmuls,
        integer_matmuls=integer_matmuls,
        partitions=partitions,
    )


def _describe(wrapper: Path, chip: Soc, counts: HtpCounts) -> None:
    """Write chip and precision into the wrapper, whose one operator tells neither."""
    import onnx

    model = onnx.load(str(wrapper))
    integer = counts.integer_convolutions + counts.integer_matmuls
    facts = {SOC_KEY: chip.name, PRECISION_KEY: "int8" if integer else "float16"}
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(wrapper))


def _collect(work: Path, out_dir: Path, stem: str) -> dict[str, Path]:
    found = {
        "context_binary": (work / f"{stem}_qnn.bin", out_dir / f"{stem}_qnn.bin"),
        "context": (work / f"{stem}.onnx", out_dir / f"{stem}.onnx"),
        "dlc": (_only(work.glob("dlc/*.dlc")), out_dir / f"{stem}.dlc"),
        "graph_json": (_only(work.glob("graph/*[0-9].json")), out_dir / f"{stem}_graph.json"),
        "trace_json": (_only(work.glob("trace/*.json")), out_dir / f"{stem}_trace.json"),
    }
    files: dict[str, Path] = {}
    for role, (source, target) in found.items():
        if source is None or not source.is_file():
            raise ToolError(
                f"The HTP compiler reported success but wrote no {role}. It said:\n{last_words(work / _LOG)}"
            )
        files[role] = _move(source, target)
    return files


def _move(source: Path, target: Path) -> Path:
    source.replace(target)
    return target


def _only(paths: Iterable[Path]) -> Path | None:
    found = list(paths)
    return found[0] if len(found) == 1 else None
