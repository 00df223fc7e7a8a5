"""Benchmarking: compile for the NPU, run on its emulator, count, and time what this host can time."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.artifacts import Model, Report, Table, whole_file, write_json
from common.config import ConfigError
from common.deployment.encodings_files import encodings_files
from common.deployment.host_latency import host_latency
from common.deployment.latency_model import estimate_latency
from common.deployment.macs import count_macs
from common.deployment.placement_table import placement_table
from common.deployment.qnn_htp import HtpCompilation, compile_htp, require_qnn
from common.run import Run
from common.runtime.keras_file import load_network
from common.runtime.onnx_file import is_qnn_context, require_single
from common.runtime.open_model import open_model
from src.data.pipeline import load_images
from src.data.sample import Sample
from src.data.selection import Data
from src.schema import Benchmarking, Config
from src.services._device import (
    device_metrics,
    device_table,
    layers_csv,
    require_device,
    run_on_device,
    strays,
)
from src.services._embed import l2_normalize
from src.services._parity import (
    FLOAT_LIMIT,
    UNKNOWN_LIMIT,
    cosine,
    disagreement,
    embedded,
    emulated,
    rounding_limit,
)
from src.services._target import Part, parts_of
from src.training.validation import by_modality

_LOGGER = logging.getLogger(__name__)
_ESTIMATED_BOARD = "QCS8550"


def preflight(config: Config, data: Data, model: Model | None) -> None:
    """Check that the HTP compiler is installed, that it takes the model, and that there are images to compare on.

    Raises:
        ConfigError: onnxruntime-qnn is missing (it exists for Linux on x86-64 only), the device cannot be reached, the
            model is compiled already or takes batches, or there are no images.
    """
    require_qnn()
    require_device(config.benchmarking)
    for graph in model.by_input.values() if model is not None else ():
        for path in graph.files.values():
            _check_file(path)
    if not data.query:
        raise ConfigError(
            "benchmarking compares on test images: set dataset.test_query_path and test_gallery_path"
        )
    if model is not None:
        for modality, part in parts_of(config, model, next(iter(model.files))).items():
            if not _images_of(data, modality):
                raise ConfigError(
                    f"benchmarking compares on test images of every modality that {part.path} takes, but none is "
                    f"{modality}: set dataset.test_query_path and test_gallery_path to images of both"
                )


def _check_file(path: Path) -> None:
    if path.suffix != ".onnx":
        return
    if is_qnn_context(path):
        raise ConfigError(
            f"benchmarking compiles the model, but {path} is compiled already: give the .onnx that it was made from"
        )
    require_single(path)


def run(config: Config, data: Data, model: Model | None, run: Run) -> Report:
    """Benchmark a model; one for two modalities is two graphs, each with its own numbers: `thermal/npu/operators`."""
    assert model is not None
    folder = run.make("benchmarking")
    role = "onnx" if "onnx" in model.files else next(iter(model.files))
    parts = parts_of(config, model, role)
    found: dict[str, tuple[Report, Model | None]] = {}
    for modality, part in parts.items():
        own = folder / modality
        own.mkdir(exist_ok=True)
        one = model.by_input[modality] if model.input_name else model
        if modality and not model.input_name:
            preprocessing = part.preprocessing
            one = replace(
                one,
                input_name=modality,
                input_shape=preprocessing.input_shape,
                preprocessing=asdict(preprocessing),
            )
        images = load_images(
            _spread(_images_of(data, modality), config.benchmarking.parity_images), part.preprocessing
        )
        found[modality] = _benchmark(config, one, part, images, own)
    compiled = {modality: made for modality, (_, made) in found.items() if made is not None}
    manifests = [
        replace(made, siblings={m: other for m, other in compiled.items() if m != modality}).save()
        for modality, made in compiled.items()
    ]
    return _together({modality: report for modality, (report, _) in found.items()}, manifests)


def _images_of(data: Data, modality: str) -> Sequence[Sample]:
    """The queries; of a modality its images among them, or in the gallery where the queries have none."""
    own = ([s for s in part if modality in ("", s.modality)] for part in (data.query, data.gallery))
    return next((samples for samples in own if samples), [])


def _together(reports: Mapping[str, Report], manifests: Sequence[Path]) -> Report:
    """One report of those of each modality, whose names stand before theirs."""
    before = {modality: f"{modality}/" if modality else "" for modality in reports}
    shown = {modality: f"{modality}: " if modality else "" for modality in reports}
    notes = {
        note if all(note in other.notes for other in reports.values()) else shown[modality] + note: None
        for modality, report in reports.items()
        for note in report.notes
    }
    return Report(
        "benchmarking",
        {before[m] + name: value for m, report in reports.items() for name, value in report.metrics.items()},
        tuple(replace(t, title=shown[m] + t.title) for m, report in reports.items() for t in report.tables),
        (*(file for report in reports.values() for file in report.files), *manifests),
        tuple(notes),
        _joined(shown[m] + report.failure for m, report in reports.items() if report.failure),
    )


@dataclass
class _Findings:
    """What the benchmark of one graph has found so far."""

    metrics: dict[str, float] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mistakes: list[str | None] = field(default_factory=list)

    def report(self) -> Report:
        return Report(
            "benchmarking",
            self.metrics,
            tuple(self.tables),
            tuple(self.files),
            tuple(self.notes),
            _joined(self.mistakes),
        )


def _benchmark(
    config: Config, model: Model, part: Part, images: np.ndarray, folder: Path
) -> tuple[Report, Model | None]:
    """What is measured of one graph, and the compiled model where it can be compiled."""
    found, compiled, threads = _Findings(), None, config.general.num_threads
    onnx_path = _onnx_file(model, part, folder)
    if onnx_path is None:
        found.notes.append(
            f"{model.path.name} is not an ONNX or Keras model: it was not compiled for the NPU."
        )
    else:
        compilation = _compile(config, model, onnx_path, folder, found)
        assert compilation.context is not None and compilation.dlc is not None
        compiled = replace(
            model, files={"qnn_context": compilation.context, "dlc": compilation.dlc}, source=model
        )
        expected = embedded(onnx_path, images, threads)
        limit = rounding_limit(model, expected, images, threads)

        def compare(name: str, embeddings: np.ndarray, limit: float = limit) -> np.ndarray:
            cosines = cosine(expected, embeddings)
            found.mistakes.append(disagreement(f"{name} against {onnx_path.name}", cosines, limit))
            return cosines

        if "onnx" not in model.files:
            network = embedded(model.files["keras"], images, threads, part.input_name)
            found.mistakes.append(_export_mistake(model, onnx_path, expected, network))
        found.metrics |= _parity(
            compare(compilation.context.name, emulated(compilation.context, images, threads)), limit
        )
        found.tables.append(_parity_table(found.metrics, len(images)))
        if model.precision == "int8" and config.benchmarking.board == _ESTIMATED_BOARD:
            found.notes.append(_estimate(onnx_path, found.metrics, compilation.counts.floating))
        if config.benchmarking.device != "none":
            _on_device(config.benchmarking, onnx_path, images, model.precision, folder, compare, found)
        found.notes.append(
            f"The emulator of onnxruntime-qnn {compilation.qnn_version} ran on this host: its results stand for the "
            "NPU's arithmetic, its time is no latency."
        )
    latencies = _latencies(config, model, onnx_path, images)
    found.tables.append(_latency_table(latencies))
    found.metrics |= {
        f"{name}/host/{key}": value for name, row in latencies.items() for key, value in row.items()
    }
    return found.report(), compiled


def _compile(config: Config, model: Model, onnx_path: Path, folder: Path, found: _Findings) -> HtpCompilation:
    """Compile for the NPU; what is not whole, or not integer where it has to be, is an error."""
    section = config.benchmarking
    compilation = compile_htp(onnx_path, folder, section.board, section.graph_optimization, section.vtcm_mb)
    found.metrics |= _compilation_metrics(compilation, onnx_path)
    found.tables += [_summary(compilation, onnx_path, found.metrics), placement_table(compilation.placement)]
    found.files.append(write_json(folder / "placement.json", {"operators": _rows(compilation)}))
    made = (compilation.context, compilation.context_binary, compilation.dlc)
    found.files += [path for path in made if path is not None]
    found.files += encodings_files(onnx_path, folder) if model.precision == "int8" else []
    compilation.require_complete()
    if model.precision == "int8":
        compilation.require_integer()
    return compilation


def _on_device(
    section: Benchmarking,
    onnx_path: Path,
    images: np.ndarray,
    precision: str,
    folder: Path,
    compare: Callable[..., np.ndarray],
    found: _Findings,
) -> None:
    """Time a real device, and compare it with ONNX Runtime; what ran beside its NPU is a mistake."""
    embeddings, profile = run_on_device(section, onnx_path, folder, images, precision)
    embeddings = l2_normalize(embeddings)
    if precision != "int8" and section.device == "qairt_sdk":
        cosines = compare(profile.device, embeddings, UNKNOWN_LIMIT)
        found.notes.append(
            f"The device ran W8A8 that qairt-quantizer made of the float model with {len(images)} test images."
        )
    else:
        cosines = compare(profile.device, embeddings)
    found.metrics |= device_metrics(profile, cosines)
    found.tables.append(device_table(profile, found.metrics))
    layers = layers_csv(folder, profile)
    found.files.append(layers)
    found.mistakes.append(strays(profile, layers))


def _joined(mistakes: Iterable[str | None]) -> str | None:
    return " | ".join(mistake for mistake in mistakes if mistake) or None


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` samples at equal distances, so that many identities are among them."""
    return [samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, count).astype(int))]


def _onnx_file(model: Model, part: Part, folder: Path) -> Path | None:
    """The part's ONNX file; one of a float Keras model is exported."""
    if "onnx" in model.files:
        return model.files["onnx"]
    if "keras" not in model.files:
        return None
    from common.quantization.onnx_export import export_onnx

    name = f"{model.name}_{part.input_name}" if part.input_name else model.name
    path = folder / f"{name}.onnx"
    network = load_network(model.files["keras"])
    if part.input_name:
        network = by_modality(network)[part.input_name]
    try:
        exported = export_onnx(network)
    except ValueError as error:
        raise ConfigError(f"benchmarking cannot export {model.path} to ONNX: {error}") from error
    with whole_file(path) as temporary:
        temporary.write_bytes(exported.SerializeToString())
    return path


def _compilation_metrics(compilation: HtpCompilation, onnx_path: Path) -> dict[str, float]:
    counts = compilation.counts
    macs = count_macs(onnx_path)
    found = {
        "npu/operators": counts.operators,
        "npu/integer_operators": counts.integer,
        "npu/float_operators": counts.floating,
        "npu/refused_operators": counts.refused,
        "npu/convolutions": counts.convolutions,
        "npu/integer_convolutions": counts.integer_convolutions,
        "npu/partitions": counts.partitions,
        "npu/context_bytes": compilation.context_bytes,
        "npu/dlc_bytes": compilation.dlc_bytes,
        "npu/prepare_host_seconds": compilation.prepare_seconds,
        "model/macs": macs["macs"],
        "model/parameters": macs["parameters"],
        "model/onnx_bytes": onnx_path.stat().st_size,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _summary(compilation: HtpCompilation, onnx_path: Path, metrics: dict[str, float]) -> Table:
    counts = compilation.counts
    rows = [
        ("chip", f"{compilation.soc} (SoC {compilation.soc_model}, Hexagon {compilation.hexagon})"),
        ("compiler", f"QNN {compilation.qnn_version}, CPU fallback disabled"),
        ("convolutions in integer", f"{counts.integer_convolutions} of {counts.convolutions}"),
        ("operators", f"{counts.operators}: {counts.integer} integer, {counts.floating} float, "
         f"{counts.conversions} conversions, {counts.refused} refused"),
        ("partitions", counts.partitions),
        ("multiply-accumulates", f"{metrics['model/macs'] / 1e6:.1f} M"),
        ("parameters", f"{metrics['model/parameters'] / 1e3:.1f} k"),
        ("ONNX", f"{onnx_path.stat().st_size / 1e6:.2f} MB"),
        ("context binary", _size(compilation.context_bytes)),
        ("DLC", _size(compilation.dlc_bytes)),
    ]  # fmt: skip
    return Table(f"{onnx_path.name} on the NPU", ("", "value"), tuple(rows))


def _size(size: int | None) -> str:
    return "not made" if size is None else f"{size / 1e6:.2f} MB"


def _rows(compilation: HtpCompilation) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name,
            "type": row.type,
            "placed_on": row.placed_on,
            "kind": row.kind,
            "inputs": row.inputs,
            "weights": row.weights,
            "outputs": row.outputs,
            "reason": row.reason,
        }
        for row in compilation.placement
    ]


def _export_mistake(model: Model, onnx_path: Path, exported: np.ndarray, network: np.ndarray) -> str | None:
    """Whether the ONNX file that was exported here is the Keras model."""
    return disagreement(f"{onnx_path.name} against {model.path.name}", cosine(exported, network), FLOAT_LIMIT)


def _parity(found: np.ndarray, limit: float) -> dict[str, float]:
    """Cosine between ONNX Runtime on the CPU and the HTP emulator, (N,), and the least mean that passes."""
    return {
        "qnn_htp_emulator/parity_cosine_mean": float(found.mean()),
        "qnn_htp_emulator/parity_cosine_min": float(found.min()),
        "qnn_htp_emulator/parity_cosine_limit": 1 - limit,
    }


def _estimate(onnx_path: Path, metrics: dict[str, float], floating: int) -> str:
    """Put the estimated latency into the metrics, and say what it is; or why there is none.

    Of the `floating` operators that compute in float16 the estimate knows nothing.
    """
    try:
        estimate = estimate_latency(onnx_path)
    except ConfigError as error:
        return f"No latency is estimated: {error}"
    metrics["estimate/latency_ms"] = estimate.milliseconds
    metrics["estimate/latency_low_ms"] = estimate.low
    metrics["estimate/latency_high_ms"] = estimate.high
    caveat = (
        f" {floating} operators stay float, which the estimate does not know: it is too low."
        if floating
        else ""
    )
    return f"Latency on the NPU: {estimate}.{caveat}"


def _parity_table(metrics: dict[str, float], count: int) -> Table:
    keys = ("mean", "min", "limit")
    values = (f"{metrics[f'qnn_htp_emulator/parity_cosine_{key}']:.5f}" for key in keys)
    return Table(
        "HTP emulator against ONNX Runtime on test images",
        ("images", "mean cosine", "least cosine", "limit of the mean"),
        ((count, *values),),
    )


def _latencies(
    config: Config, model: Model, onnx_path: Path | None, images: np.ndarray
) -> dict[str, dict[str, float]]:
    paths = {path for role, path in model.files.items() if role == "tflite"} | (
        {onnx_path} if onnx_path else set()
    )
    found = {}
    for path in sorted(paths):
        with open_model(path, config.general.num_threads) as runtime:
            found[runtime.name] = host_latency(runtime, images, config.benchmarking.latency_runs)
    return found


def _latency_table(latencies: dict[str, dict[str, float]]) -> Table:
    columns = ("p50_ms", "p90_ms", "p99_ms", "runs", "threads")
    rows = tuple((name, *(values[column] for column in columns)) for name, values in latencies.items())
    return Table("Latency of one image on this host's CPU (not on the NPU)", ("runtime", *columns), rows)
