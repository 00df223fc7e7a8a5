"""Where a model runs, `target: host | qnn_htp_emulator`, for the services that let the user choose."""

from pathlib import Path
from typing import Literal

from common.artifacts import Model
from common.config import ConfigError
from common.runtime import Runtime
from common.runtime.htp_emulator import HtpEmulator
from common.runtime.onnx_file import inspect_onnx, is_qnn_context
from common.runtime.open_model import open_model
from common.runtime.qnn_session import require_qnn
from src.schema import Config


def check_target(config: Config, service: Literal["evaluation", "prediction"], model: Model | None) -> None:
    """Check that the model which the service will get is one that the emulator takes, if it is asked for.

    Args:
        config: The configuration.
        service: Which service's `target` is meant.
        model: The model that the run starts with.

    Raises:
        ConfigError: onnxruntime-qnn is missing, or the model is or will be another than an INT8 `.onnx` with a
            fixed batch.
    """
    target = getattr(config, service).target
    if target == "host":
        return
    require_qnn()
    needs = f"{service}.target: {target} runs an INT8 (QDQ) .onnx with a fixed batch, but"
    last = len(config.services) - config.services[::-1].index(service)
    if "quantization" in config.services[:last]:
        if config.quantization is not None and config.quantization.quantizer == "TFlite_converter":
            raise ConfigError(
                f"{needs} quantizer TFlite_converter makes a .tflite: use Onnx_quantizer or tfmot_qat"
            )
        return
    hint = "quantize before, or give the quantized_model.onnx of a quantization as model.model_path"
    if model is None or model.path.suffix != ".onnx":
        received = "this run trains a float model" if model is None else f"model.model_path is {model.path}"
        raise ConfigError(f"{needs} {received}: {hint}")
    file = inspect_onnx(model.path)
    if file.precision != "int8" and not is_qnn_context(model.path):
        raise ConfigError(f"{needs} {model.path} is {file.precision}: {hint}")
    if file.batch is None:
        raise ConfigError(f"{needs} the batch of {model.path} is free: export it with batch 1")


def emulates(target: str, model: Model) -> bool:
    """Whether the target asks for the emulator and the model's file is one that does not imply it anyway."""
    is_int8_onnx = model.path.suffix == ".onnx" and model.precision == "int8"
    return target == HtpEmulator.name and is_int8_onnx and not is_qnn_context(model.path)


def open_on(target: str, path: Path, config: Config) -> Runtime:
    """Open a model file on the host, or a QDQ graph on the emulator; a compiled context always runs there."""
    if target == HtpEmulator.name and not is_qnn_context(path):
        return HtpEmulator(path, config.benchmarking.board, config.general.num_threads)
    return open_model(path, config.general.num_threads)
