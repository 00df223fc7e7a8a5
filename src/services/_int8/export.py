"""The INT8 files of the quantizers, each with what it was made from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import tf_keras

from common.quantization import onnx_export, tflite
from common.quantization.branches import branches
from common.quantization.complete import export_qat_onnx
from common.quantization.onnx_ptq import quantize_onnx
from common.quantization.qat import prepare_qat
from src.schema import Quantization
from src.services._int8.branch import Branch, Embedding
from src.training.validation import embedder


@dataclass(frozen=True)
class Export:
    """An INT8 file in memory.

    Attributes:
        name: Of the file.
        role: `onnx` or `tflite`.
        branch: The input that it is for.
        batch: Images a run, fixed.
        content: The file.
        made_from: What it must compute, for tables.
        source: The same as a function; None for the first file of the branch in another batch size.
        rounds_alike: Whether the source is quantized as the file is, so that only the order of additions differs.
        is_first: Whether it is the file of its role and branch that runs by default.
        is_result: Whether the run is about it; others are made to compare with, and do not end it where they are off.
    """

    name: str
    role: str
    branch: Branch
    batch: int
    content: bytes
    made_from: str
    source: Embedding | None
    rounds_alike: bool
    is_first: bool = True
    is_result: bool = True


def ptq_onnx(section: Quantization, branches: Sequence[Branch], stem: str) -> Iterator[Export]:
    """Float ONNX of each branch and batch size, quantized after training by ONNX Runtime."""
    for branch in branches:
        for batch in section.batch_sizes:
            graph = onnx_export.export_onnx(branch.network, batch, section.input_layout == "nchw")
            quantized = quantize_onnx(
                graph,
                branch.calibrate,
                section.granularity,
                section.calibrate_method,
                section.activation_bits,
            )
            first = batch == section.batch_sizes[0]
            yield Export(
                f"{stem}{branch.suffix}{'' if first else f'_batch{batch}'}.onnx",
                "onnx", branch, batch, quantized.SerializeToString(),
                "float model" if first else f"{stem}{branch.suffix}.onnx",
                embedder(branch.network) if first else None,
                rounds_alike=not first, is_first=first,
            )  # fmt: skip


def ptq_tflite(section: Quantization, branches: Sequence[Branch], stem: str) -> Iterator[Export]:
    """TFLite files of each branch, with ranges from calibration images."""
    for branch in branches:
        calibrated = prepare_qat(branch.network, branch.calibrate, granularity=section.granularity)
        yield _tflite(section, branch, calibrated, stem, "calibrated model", embedder(calibrated))


def qat_files(
    section: Quantization, branches_: Sequence[Branch], qat_model: tf_keras.Model, stem: str
) -> Iterator[Export]:
    """ONNX of each branch and batch size, and TFLite, of a quantization-aware model."""
    models: Mapping[str, tf_keras.Model] = branches(qat_model)
    for branch in branches_:
        model = models[branch.name]
        source = embedder(model)
        for batch in section.batch_sizes:
            graph = export_qat_onnx(model, batch, section.input_layout == "nchw")
            first = batch == section.batch_sizes[0]
            yield Export(
                f"{stem}{branch.suffix}{'' if first else f'_batch{batch}'}.onnx",
                "onnx", branch, batch, graph.SerializeToString(),
                "quantization-aware model", source, rounds_alike=True, is_first=first,
            )  # fmt: skip
        yield _tflite(section, branch, model, stem, "quantization-aware model", source)


def _tflite(
    section: Quantization,
    branch: Branch,
    qat_model: tf_keras.Model,
    stem: str,
    made_from: str,
    source: Embedding,
) -> Export:
    content = tflite.convert_qat(qat_model, section.quantization_input_type, section.quantization_output_type)
    name = f"{stem}{branch.suffix}.tflite"
    return Export(name, "tflite", branch, 1, content, made_from, source, rounds_alike=True)
