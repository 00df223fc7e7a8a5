"""Deployment: one package with everything that a device and its users need, and the checklist of the product."""

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.artifacts import Model, Report, ReportFailedError, Table, tool_versions, write_json
from common.config import ConfigError
from common.deployment import gate
from common.deployment.encodings_files import encodings_files
from common.deployment.package import write_package
from common.deployment.qnn_htp import HtpCompilation, compile_htp
from common.run import Run, require_free_space
from common.runtime.onnx_file import OnnxFile, inspect_onnx, is_qnn_context, require_single
from common.runtime.qnn_session import require_qnn
from src.data.pipeline import load_images
from src.data.preprocessing import Preprocessing
from src.data.selection import Data, preprocessing_for
from src.schema import Config
from src.services._checklist import measured, reports_of, requirements, stated
from src.services._model_card import Facts, model_card
from src.services._parity import cosine, disagreement, embedded, emulated, fixed_images, rounding_limit

_LOGGER = logging.getLogger(__name__)
_RUNNERS = Path(gate.__file__).parent / "runners"
_COPIES = 12  # encodings are larger than the graph, and all is there as folder and as zip
_PARITY_IMAGES = 4  # each takes up to 7 s on the emulator
_COLOURS = {"grayscale": "GRAY", "rgb": "RGB", "rgba": "RGBA"}


def preflight(config: Config, data: Data, model: Model | None) -> None:
    """Check the compiler, the model, its preprocessing, and the values that were measured elsewhere.

    Raises:
        ConfigError: onnxruntime-qnn is missing; the model is or will be no INT8 `.onnx` of batch 1 whose preprocessing
            is known; or `deployment.gate.measurements` cannot be used.
    """
    require_qnn()
    stated(config.deployment.gate)
    if "quantization" in config.services:
        if config.quantization is not None and config.quantization.quantizer == "TFlite_converter":
            raise ConfigError(
                "deployment packages an INT8 .onnx, but quantizer TFlite_converter makes a .tflite: use "
                "Onnx_quantizer or tfmot_qat"
            )
        return
    assert model is not None  # a chain that trains also quantizes
    for part in model.by_input.values():
        _check_model(config, part)


def _check_model(config: Config, model: Model) -> None:
    hint = "give the quantized_model.onnx of a quantization, or quantize before (chain_qd)"
    needs = "deployment packages an INT8 (QDQ) .onnx of batch 1, but"
    path = model.path
    if path.suffix != ".onnx":
        raise ConfigError(f"{needs} model.model_path is {path}: {hint}")
    if is_qnn_context(path):
        raise ConfigError(f"{needs} {path} is compiled already: give the .onnx that it was made from")
    precision = inspect_onnx(path).precision
    if precision != "int8":
        raise ConfigError(f"{needs} {path} is {precision}: {hint}")
    require_single(path)
    if model.preprocessing is None and config.preprocessing is None:
        raise ConfigError(
            f"deployment writes down how images become inputs, but {path} has no manifest "
            f"({path.with_suffix('.json').name}): put it beside the model, or state the section preprocessing"
        )
    preprocessing_for(config, model)


def run(config: Config, data: Data, model: Model | None, run: Run) -> Report:
    """Compile a quantized model, package it, and judge it by the checklist.

    A model for two modalities is two graphs in two packages, `package_visible` and `package_thermal`, whose embeddings
    are compared with one another.
    """
    assert model is not None
    section, folder, parts = config.deployment, run.make("deployment"), model.by_input
    size = sum(part.files["onnx"].stat().st_size for part in parts.values())
    require_free_space(folder, _COPIES * size, "the package and its parts")
    reports = reports_of(run.folder, config.services)
    with tempfile.TemporaryDirectory(prefix=".compiled_", dir=folder) as scratch:
        compilations = {
            name: compile_htp(
                part.files["onnx"],
                Path(scratch, name),
                section.board,
                section.graph_optimization,
                section.vtcm_mb,
            )
            for name, part in parts.items()
        }
        loaded = sum(_bytes(compilation) for compilation in compilations.values())
        for name, part in parts.items():
            _require_parity(config, data, part, compilations[name])
        findings = gate.judge(
            requirements(section.gate),
            measured({name: report.metrics for name, report in reports.items()}, loaded)
            | stated(section.gate),
        )
        archives = [
            _package(config, part, compilations[name], reports, findings, folder)
            for name, part in parts.items()
        ]
    judged = write_json(folder / "gate.json", gate.plain(findings))
    failed = gate.failure(findings)
    if failed is not None and section.gate.on_failure == "warn":
        _LOGGER.warning("deployment.gate: %s", failed)
    metrics = {
        "package/bytes": float(sum(archive.stat().st_size for archive in archives)), **gate.metrics(findings)
    }  # fmt: skip
    has_thresholds = _thresholds(config, model, reports.get("evaluation")) is not None
    return Report(
        "deployment",
        metrics,
        (*(_contents(archive.with_suffix("")) for archive in archives), gate.table(findings)),
        (*archives, judged),
        _notes(archives, has_thresholds, "tflite" in model.files),
        None if failed is None or section.gate.on_failure == "warn" else f"deployment.gate: {failed}",
    )


def _bytes(compilation: HtpCompilation) -> int:
    """What a device loads: the larger of context binary and DLC."""
    compilation.require_complete().require_integer()
    compiled = _compiled(compilation)
    return max(compiled[role].stat().st_size for role in ("qnn_context_binary", "dlc"))


def _require_parity(config: Config, data: Data, model: Model, compilation: HtpCompilation) -> None:
    """Run the context on the emulator beside the ONNX file, on images of the run, or fixed ones where it has none.

    Raises:
        ReportFailedError: they compute different embeddings, so nothing is packed.
    """
    preprocessing, onnx_path = preprocessing_for(config, model), model.files["onnx"]
    own = [s for s in data.calibration or data.query or data.gallery if model.input_name in ("", s.modality)][
        :_PARITY_IMAGES
    ]
    images = load_images(own, preprocessing) if own else fixed_images(preprocessing, _PARITY_IMAGES)
    context, threads = _compiled(compilation)["qnn_context"], config.general.num_threads
    expected = embedded(onnx_path, images, threads)
    found = cosine(expected, emulated(context, images, threads))
    limit = rounding_limit(model, expected, images, threads)
    mistake = disagreement(f"{context.name} against {onnx_path.name}", found, limit)
    if mistake is not None:
        raise ReportFailedError(f"deployment packs nothing: {mistake}")


def _package(
    config: Config,
    model: Model,
    compilation: HtpCompilation,
    reports: Mapping[str, Report],
    findings: Sequence[gate.Finding],
    folder: Path,
) -> Path:
    """Write the package of one graph, beside the compiled files at first; returns the zip."""
    onnx_path, compiled = model.files["onnx"], _compiled(compilation)
    parts = {"onnx": onnx_path, **compiled}
    if "tflite" in model.files:
        parts["tflite"] = model.files["tflite"]
    file = inspect_onnx(onnx_path)
    mode = config.deployment.performance_mode
    texts = {
        "package.json": _json(_manifest(model, compilation, file, parts, mode)),
        "preprocessing.json": _json(_inputs(preprocessing_for(config, model), file)),
        "gate.json": _json(gate.plain(findings)),
        "MODEL_CARD.md": model_card(
            Facts(model, compilation, reports, gate.table(findings), config.deployment.card)
        ),
    }
    thresholds = _thresholds(config, model, reports.get("evaluation"))
    if thresholds is not None:
        texts["thresholds.json"] = _json(thresholds)
    others = [*encodings_files(onnx_path, compiled["dlc"].parent), *sorted(_RUNNERS.iterdir())]
    files = {path.name: path for path in (*parts.values(), *others) if path.is_file()}
    name = f"package_{model.input_name}" if model.input_name else "package"
    return write_package(folder / name, {**files, **texts})


def _compiled(compilation: HtpCompilation) -> dict[str, Path]:
    context, binary, dlc = compilation.context, compilation.context_binary, compilation.dlc
    assert context is not None and binary is not None and dlc is not None  # it is complete
    return {"qnn_context": context, "qnn_context_binary": binary, "dlc": dlc}


def _manifest(
    model: Model,
    compilation: HtpCompilation,
    file: OnnxFile,
    parts: Mapping[str, Path],
    performance_mode: str,
) -> dict[str, Any]:
    """What the runners and applications read; each key occurs once."""
    return {
        **({"modality": model.input_name} if model.input_name else {}),
        "files": {role: path.name for role, path in parts.items()},
        "output": file.output_name,
        "embedding_dim": file.embedding_dim,
        "precision": model.precision,
        "chip": {
            "name": compilation.soc,
            "soc_model": compilation.soc_model,
            "hexagon": compilation.hexagon,
            "performance_mode": performance_mode,
        },
        "qnn_version": compilation.qnn_version,
        "quantized_with": [f"{tool} {version}" for tool, version in model.tool_versions.items()],
        "packed_with": [f"{tool} {version}" for tool, version in tool_versions().items()],
    }


def _inputs(preprocessing: Preprocessing, file: OnnxFile) -> dict[str, Any]:
    """From a decoded image to each input of the graph, as data; each key occurs once."""
    height, width, channels = preprocessing.input_shape
    return {
        "inputs": [
            {
                "name": file.input_name,
                "layout": "NCHW" if file.channels_first else "NHWC",
                "height": height,
                "width": width,
                "channels": channels,
                "color_order": _COLOURS[preprocessing.color_mode],
                "aspect_ratio": preprocessing.aspect_ratio,
                "interpolation": preprocessing.interpolation,
                "antialias": False,
                "rounded_to": "uint8",
                "scale": preprocessing.scale,
                "offset": preprocessing.offset,
            }
        ]
    }


def _thresholds(config: Config, model: Model, evaluation: Report | None) -> dict[str, Any] | None:
    """What the evaluation of this run suggests for this model, `int8/<runtime>/threshold`; None where nothing."""
    if evaluation is None:
        return None
    rates = ("threshold", "false_match_rate", "false_non_match_rate")
    found: dict[str, dict[str, float]] = {}
    for name, value in evaluation.metrics.items():
        precision, _, rest = name.partition("/")
        runtime, _, key = rest.partition("/")
        if precision == model.precision and key in rates:
            found.setdefault(runtime, {})[key] = value
    if not any("threshold" in values for values in found.values()):
        return None
    return {
        "distance_metric": config.evaluation.reid_distance_metric,
        "rule": "the same person up to this distance between L2-normalised embeddings",
        "thresholds": [{"measured_on": runtime, **values} for runtime, values in found.items()],
        "notes": list(evaluation.notes),
    }


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _contents(folder: Path) -> Table:
    rows = tuple((path.name, f"{path.stat().st_size / 1e3:.1f} kB") for path in sorted(folder.iterdir()))
    return Table(f"Package {folder}", ("file", "size"), rows)


def _notes(archives: Sequence[Path], has_thresholds: bool, has_tflite: bool) -> tuple[str, ...]:
    notes = [
        f"The package: {archive}; it runs alone: python {archive.with_suffix('') / 'runner.py'} IMAGE"
        for archive in archives
    ]
    if not has_thresholds:
        notes.append("thresholds.json is absent: no evaluation of this run states a threshold.")
    if not has_tflite:
        notes.append("There is no .tflite in the package: the quantizer made none (tfmot_qat makes both).")
    return tuple(notes)
