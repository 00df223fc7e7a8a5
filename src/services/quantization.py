"""Quantization: from a float embedding model to INT8 files for ONNX Runtime, Qualcomm QNN and TFLite."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from common.artifacts import Model, tool_versions
from common.config import ConfigError
from common.quantization import onnx_export, tflite
from common.run import Run, progress
from src.data.pipeline import evaluation_batches, training_batches
from src.data.preprocessing import Preprocessing
from src.data.selection import Data, preprocessing_for
from src.schema import Config, Quantization

_LOGGER = logging.getLogger(__name__)
_CALIBRATION_BATCH = 32

Calibration = Callable[[], Iterator[np.ndarray]]
Files = dict[str, bytes]


def preflight(config: Config, data: Data, model: Model | None) -> None:
    """Check that there are calibration images and that the preprocessing fits the model.

    Raises:
        ConfigError: there are none, or the colour mode gives another number of channels.
    """
    if not data.calibration:
        raise ConfigError(
            "quantization has no calibration images: set dataset.quantization_path or dataset.training_path"
        )
    if model is not None:
        preprocessing_for(config, model)


def run(config: Config, data: Data, model: Model | None, run: Run) -> Model:
    """Quantize a float model; the result knows the float model as its source."""
    assert model is not None and config.quantization is not None
    section = config.quantization
    preprocessing = preprocessing_for(config, model)
    network = keras.saving.load_model(model.path, compile=False, safe_mode=True)

    def calibration() -> Iterator[np.ndarray]:
        return evaluation_batches(data.calibration, preprocessing, _CALIBRATION_BATCH).as_numpy_iterator()

    _LOGGER.info("%s with %d calibration images", section.quantizer, len(data.calibration))
    files = _QUANTIZERS[section.quantizer](section, network, calibration, data, preprocessing, run)
    folder = run.make(section.export_dir)
    written = {role: _write(folder / f"quantized_model.{role}", content) for role, content in files.items()}
    quantized = replace(model, files=written, precision="int8", source=model, tool_versions=tool_versions())
    quantized.save()
    for role, path in written.items():
        _LOGGER.info("%s: %s, %.2f MB (float: %.2f MB)", role, path, _megabytes(path), _megabytes(model.path))
    return quantized


def _tflite_converter(
    section: Quantization, network: keras.Model, calibration: Calibration, *_: Any
) -> Files:
    content = tflite.convert_ptq(
        network,
        calibration,
        section.granularity,
        section.quantization_input_type,
        section.quantization_output_type,
    )
    return {"tflite": content}


def _onnx_quantizer(section: Quantization, network: keras.Model, calibration: Calibration, *_: Any) -> Files:
    from common.quantization.onnx_ptq import quantize_onnx

    float_graph = onnx_export.export_onnx(network)
    graph = quantize_onnx(float_graph, calibration, section.granularity, section.calibrate_method)
    return {"onnx": graph.SerializeToString()}


def _tfmot_qat(
    section: Quantization,
    network: keras.Model,
    calibration: Calibration,
    data: Data,
    preprocessing: Preprocessing,
    run: Run,
) -> Files:
    from common.quantization.complete import export_qat_onnx
    from common.quantization.qat import fine_tune, prepare_qat

    qat, samples = section.qat, data.training or data.calibration
    batch = min(qat.batch_size, len(samples))
    steps = qat.epochs * -(-len(samples) // batch)
    steps = min(steps, qat.max_steps or steps)
    # Distillation needs no labels: with each image as an identity of its own, P x 1 is a plain shuffle.
    stream = training_batches(
        samples, np.arange(len(samples)), preprocessing, batch, 1, run.seed, epochs=qat.epochs
    )
    qat_model = prepare_qat(network, calibration)
    with progress("quantization-aware training", steps, "steps") as advance:
        fine_tune(
            qat_model,
            network,
            (step["images"] for step in stream),
            steps,
            qat.learning_rate,
            on_step=lambda _, values: advance(1, f"cosine to float {values['cosine']:.4f}"),
        )
    return {
        "onnx": export_qat_onnx(qat_model).SerializeToString(),
        "tflite": tflite.convert_qat(
            qat_model, section.quantization_input_type, section.quantization_output_type
        ),
    }


_QUANTIZERS: dict[str, Callable[..., Files]] = {
    "TFlite_converter": _tflite_converter,
    "Onnx_quantizer": _onnx_quantizer,
    "tfmot_qat": _tfmot_qat,
}


def _write(path: Path, content: bytes) -> Path:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
    return path


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6
