"""Where a model runs, `target: host | qnn_htp_emulator`, and through which file images of each modality go."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.artifacts import Model
from common.config import ConfigError
from common.runtime import Runtime
from common.runtime.htp_emulator import HtpEmulator
from common.runtime.keras_file import image_inputs
from common.runtime.onnx_file import inspect_onnx, is_qnn_context
from common.runtime.open_model import open_model
from common.runtime.qnn_session import require_qnn
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.selection import preprocessing_for
from src.schema import Config
from src.training.validation import Route, Routes


@dataclass(frozen=True)
class Part:
    """What images of one modality go through.

    Attributes:
        path: The file.
        input_name: Which of its inputs; empty where it has one.
        preprocessing: From file to rescaled image.
    """

    path: Path
    input_name: str
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Opened:
    """An open model.

    Attributes:
        name: Where it runs: `keras`, `onnxruntime_cpu` and so on.
        routes: Modality to what embeds its images.
        fixed_batch: Images at once where the caller cannot choose.
    """

    name: str
    routes: Routes
    fixed_batch: int | None


def parts_of(config: Config, model: Model, role: str) -> dict[str, Part]:
    """The files of a role by the modality of the images that they take; `""` is the one file for all images.

    Raises:
        ConfigError: the preprocessing does not fit the model.
    """
    if model.input_name:
        return {
            name: Part(part.files[role], "", preprocessing_for(config, part))
            for name, part in model.by_input.items()
            if role in part.files
        }
    path, preprocessing = model.files[role], preprocessing_for(config, model)
    inputs = image_inputs(path) if role == "keras" else {}
    if not inputs:
        return {"": Part(path, "", preprocessing)}
    return {name: Part(path, name, preprocessing.of_shape(shape)) for name, shape in inputs.items()}


def check_modalities(config: Config, model: Model, **images: Sequence[Sample]) -> None:
    """Check that the model takes images of every modality among the images.

    Args:
        config: The configuration.
        model: The model.
        images: What they are for, to the images.

    Raises:
        ConfigError: it does not, or the preprocessing does not fit the model.
    """
    parts = parts_of(config, model, next(iter(model.files)))
    if "" in parts:
        return
    for purpose, samples in images.items():
        stranger = next((sample for sample in samples if sample.modality not in parts), None)
        if stranger is not None:
            raise ConfigError(
                f"model.model_path: {model.path} takes {' and '.join(parts)} images, but among the {purpose} images "
                f"are {stranger.modality} ones, such as {stranger.path}: give a model for both, such as the "
                "best_model.keras of a training on both, or a quantized file with that of the other modality beside it"
            )


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
    for part in model.by_input.values():
        file = inspect_onnx(part.path)
        if file.precision != "int8" and not is_qnn_context(part.path):
            raise ConfigError(f"{needs} {part.path} is {file.precision}: {hint}")
        if file.batch is None:
            raise ConfigError(f"{needs} the batch of {part.path} is free: export it with batch 1")


def emulates(target: str, model: Model) -> bool:
    """Whether the target asks for the emulator and the model's file is one that does not imply it anyway."""
    is_int8_onnx = model.path.suffix == ".onnx" and model.precision == "int8"
    return target == HtpEmulator.name and is_int8_onnx and not is_qnn_context(model.path)


@contextmanager
def open_on(target: str, parts: Mapping[str, Part], config: Config) -> Iterator[Opened]:
    """Open files on the host, or QDQ graphs on the emulator; a compiled context always runs there."""
    with ExitStack() as stack:
        runtimes = {name: stack.enter_context(_open(target, part, config)) for name, part in parts.items()}
        routes = {name: Route(r.embed, parts[name].preprocessing) for name, r in runtimes.items()}
        first = next(iter(runtimes.values()))
        yield Opened(first.name, routes, first.batch_size if first.name == HtpEmulator.name else None)


def _open(target: str, part: Part, config: Config) -> Runtime:
    if target == HtpEmulator.name and not is_qnn_context(part.path):
        return HtpEmulator(part.path, config.benchmarking.board, config.general.num_threads)
    return open_model(part.path, config.general.num_threads, part.input_name)
