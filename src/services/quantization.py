"""Quantization: from a float embedding model to INT8 files for ONNX Runtime, Qualcomm QNN and TFLite."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras

from common.artifacts import Model, Report, Table, tool_versions, whole_file
from common.config import ConfigError
from common.deployment.encodings_files import encodings_files
from common.quantization.bridge import to_tf_keras
from common.quantization.equalize import equalize_channels
from common.quantization.qat import check_float_layers, check_kernels
from common.run import Run
from common.runtime.keras_file import load_network
from src.data.labels import people
from src.data.sample import Sample
from src.data.selection import Data, preprocessing_for
from src.data.splits import split_by_image
from src.models._build import build_backbone
from src.models._head import embedding_model, reid_network
from src.schema import Config, Quantization
from src.services._int8.branch import Branch, branches_of, calibration_of, networks_of
from src.services._int8.comparison import compare
from src.services._int8.export import Export, ptq_onnx, ptq_tflite, qat_files
from src.services._int8.numeric_gate import numeric_gate
from src.services._int8.train_int8 import check_batches, float_layers_of, train_int8
from src.training.validation import split_query_gallery

_LOGGER = logging.getLogger(__name__)
_STEM = "quantized_model"


def preflight(config: Config, data: Data, model: Model | None) -> None:
    """Check the images that the quantizer and the comparison need, and that the network can be quantized.

    Raises:
        ConfigError: there are no calibration images, or none of a modality; too few images to hold some out or to fill
            a batch, or too few people for `qat.task_weight`; nobody to compare on; the colour mode gives another number
            of channels; a layer has no twin in `tf_keras`, or none that `tfmot_qat` quantizes; or `qat.float_layers`
            names no layer of the embedding model, or one with a kernel.
    """
    section = _section(config)
    if not data.calibration:
        raise ConfigError(
            "quantization has no calibration images: set dataset.quantization_path or dataset.training_path"
        )
    if section.compare:
        query, gallery, images = _compared(data)
        if not {sample.identity for sample in query} & {sample.identity for sample in gallery}:
            raise ConfigError(
                f"quantization.compare scores retrieval, but no person is in two images of the {images}: set "
                "dataset.test_query_path and dataset.test_gallery_path, or quantization.compare: False"
            )
    if model is not None:
        preprocessing_for(config, model)
    network = _network_of(config, model)
    inputs = list(networks_of(network))
    calibration_of(inputs, data.calibration)
    if section.quantizer == "tfmot_qat":
        check_batches(section.qat, inputs, _images_of_qat(config, data)[0])
    _check_network(section, network)


def _check_network(section: Quantization, network: keras.Model) -> None:
    """Rebuild the network in tf_keras, which takes seconds; after a training it would end the run."""
    try:
        rebuilt = to_tf_keras(network)
    except ValueError as error:
        raise ConfigError(f"quantization cannot rebuild the network in tf_keras: {error}") from error
    if section.quantizer == "tfmot_qat":
        try:
            check_float_layers(rebuilt, float_layers_of(network, section.qat.float_layers))
        except ValueError as error:
            raise ConfigError(f"quantization.qat.{error}") from error
        try:
            check_kernels(rebuilt)
        except ValueError as error:
            raise ConfigError(f"quantization.quantizer: {error}") from error


def _network_of(config: Config, model: Model | None) -> keras.Model:
    """The embedding model that will be quantized: the one that is given, or an untrained one of its kind."""
    if model is None and config.services[0] == "adaptation":
        return embedding_model(reid_network(build_backbone(config.model), num_identities=1, bnneck=True))
    section, bnneck = config.made_network
    trainings = [name for name in config.services if name in ("training", "distillation")]
    is_resumed = model is not None and "augmented" in model.files
    if trainings and section.model_name is not None and not (is_resumed and len(trainings) == 1):
        backbone = build_backbone(section.model_copy(update={"pretrained": False}))
        return embedding_model(reid_network(backbone, num_identities=2, bnneck=bnneck))
    assert model is not None
    network = load_network(model.path)
    if is_resumed:
        return embedding_model(network)
    if trainings:
        return embedding_model(reid_network(network, num_identities=2, bnneck=bnneck))
    return network


def _compared(data: Data) -> tuple[Sequence[Sample], Sequence[Sample], str]:
    """Queries, gallery, and what they are."""
    if data.query:
        return data.query, data.gallery, "test set"
    return *split_query_gallery(data.validation), "validation images"


def _images_of_qat(config: Config, data: Data) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Images that quantization-aware training learns from, and those that choose its step.

    Images that the model was adapted to come without identities: a random share of them is held out, on which the step
    with the best cosine to float embeddings is kept.
    """
    if data.target:
        return split_by_image(data.target, config.dataset.validation_split, config.dataset.seed)
    section = _section(config)
    calibration = people(data.calibration) if section.qat.task_weight > 0 else data.calibration
    return data.training or calibration, data.validation


def run(config: Config, data: Data, model: Model | None, run: Run) -> tuple[Report, Model]:
    """Quantize a float model; the result knows the float model as its source."""
    assert model is not None
    section, network = _section(config), load_network(model.path)
    branches = branches_of(network, preprocessing_for(config, model), data.calibration)
    floats = branches
    if len(branches) == 1:
        network = equalize_channels(network, branches[0].calibrate)
        branches = [replace(branches[0], network=network)]
    _LOGGER.info("%s with %d calibration images", section.quantizer, len(data.calibration))
    made = _QUANTIZERS[section.quantizer](config, network, branches, data, run)
    folder = run.make(section.export_dir)
    written = [(_write(folder / export.name, export.content), export) for export in made.exports]
    by_batch = _models_of(model, written)
    quantized = [part for first in by_batch for part in first.by_input.values()]
    files = [file for part in quantized for file in _files(part)]
    for path, export in written:
        if export.role == "onnx" and export.is_first:
            files += encodings_files(path, path.parent, section.encodings, f"{path.stem}_")
    for path, _ in written:
        _LOGGER.info("%s: %.2f MB (float: %.2f MB)", path, _megabytes(path), _megabytes(model.path))
    beside = _ptq_beside(section, branches, folder)
    files += [
        file for ptq in _models_of(model, beside) for part in ptq.by_input.values() for file in _files(part)
    ]
    threads = config.general.num_threads
    gate = numeric_gate([*written, *beside], floats, section.gate, threads)
    tables, metrics = [*made.tables, gate.table], {**made.metrics, **gate.metrics}
    notes = [*made.notes, *gate.notes]
    if section.compare and gate.failure is None:
        others = _compared_files(section, written, beside)
        comparison = compare(floats, model.path, others, *_compared(data), threads)
        tables.append(comparison.table)
        metrics |= comparison.metrics
        notes.append(comparison.note)
    report = Report("quantization", metrics, tuple(tables), tuple(files), tuple(notes), gate.failure)
    return report, by_batch[0]


def _files(model: Model) -> list[Path]:
    """Its files and its manifest."""
    return [*model.files.values(), model.path.with_suffix(".json")]


def _section(config: Config) -> Quantization:
    assert config.quantization is not None
    return config.quantization


def _models_of(source: Model, written: Sequence[tuple[Path, Export]]) -> list[Model]:
    """The files that run by default as one model, then those of each further batch size; their manifests are written.

    Of a network with several inputs each has a model; they are siblings, and that of the visible images stands first.
    """
    groups: dict[int, dict[str, list[tuple[Path, Export]]]] = {}
    for path, export in written:
        batch = 0 if export.is_first else export.batch
        groups.setdefault(batch, {}).setdefault(export.branch.name, []).append((path, export))
    found = []
    for by_branch in groups.values():
        parts = {name: _model_of(source, files) for name, files in by_branch.items()}
        linked = {
            name: replace(part, siblings={n: p for n, p in parts.items() if n != name})
            for name, part in parts.items()
        }
        for part in linked.values():
            part.save()
        found.append(linked.get("visible") or next(iter(linked.values())))
    return found


def _model_of(source: Model, files: Sequence[tuple[Path, Export]]) -> Model:
    """Files of one input as one model."""
    branch = files[0][1].branch
    quantized = replace(
        source,
        files={export.role: path for path, export in files},
        precision="int8",
        source=source,
        tool_versions=tool_versions(),
        made_by="quantization",
    )
    if not branch.name:
        return quantized
    own = branch.preprocessing
    return replace(quantized, input_name=branch.name, input_shape=own.input_shape, preprocessing=asdict(own))


@dataclass(frozen=True)
class _Made:
    """What a quantizer made, and what it has to say."""

    exports: Iterable[Export]
    tables: Sequence[Table] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


def _tflite_converter(config: Config, network: keras.Model, branches: Sequence[Branch], *_: Any) -> _Made:
    return _Made(ptq_tflite(_section(config), branches, _STEM))


def _onnx_quantizer(config: Config, network: keras.Model, branches: Sequence[Branch], *_: Any) -> _Made:
    return _Made(ptq_onnx(_section(config), branches, _STEM))


def _tfmot_qat(
    config: Config, network: keras.Model, branches: Sequence[Branch], data: Data, run: Run
) -> _Made:
    section, (images, held_out) = _section(config), _images_of_qat(config, data)
    trained = train_int8(section.qat, network, branches, images, held_out, run.seed)
    tables = [trained.table] if trained.table.rows else []
    exports = qat_files(section, branches, trained.model, _STEM)
    return _Made(exports, tables, trained.metrics, [trained.note])


_QUANTIZERS: dict[str, Callable[..., _Made]] = {
    "TFlite_converter": _tflite_converter,
    "Onnx_quantizer": _onnx_quantizer,
    "tfmot_qat": _tfmot_qat,
}


def _ptq_beside(section: Quantization, branches: Sequence[Branch], folder: Path) -> list[tuple[Path, Export]]:
    """What PTQ of ONNX Runtime makes of the model that `tfmot_qat` trains, written to be compared with."""
    if not section.compare or section.quantizer != "tfmot_qat":
        return []
    single = section.model_copy(update={"batch_sizes": section.batch_sizes[:1]})
    made = (replace(export, is_result=False) for export in ptq_onnx(single, branches, f"{_STEM}_ptq"))
    return [(_write(folder / export.name, export.content), export) for export in made]


def _compared_files(
    section: Quantization, written: Sequence[tuple[Path, Export]], beside: Sequence[tuple[Path, Export]]
) -> Iterator[tuple[str, dict[str, Path]]]:
    """What is scored beside float: the PTQ files, if any, and those that run by default."""
    if beside:
        yield "ptq", {export.branch.name: path for path, export in beside}
    kind = "qat" if section.quantizer == "tfmot_qat" else "ptq"
    for role in ("onnx", "tflite"):
        files = {e.branch.name: path for path, e in written if e.role == role and e.is_first}
        if files:
            yield kind, files


def _write(path: Path, content: bytes) -> Path:
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
    return path


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6
