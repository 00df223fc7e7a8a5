"""Which images a configuration means: its folders read, checked and divided."""

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.artifacts import Model
from common.config import ConfigError
from src.data.any_images import any_images
from src.data.labels import people
from src.data.preprocessing import Preprocessing
from src.data.readers._lists import PARTS
from src.data.sample import UNKNOWN, Sample
from src.data.splits import overlap, split_by_identity, split_by_image
from src.registries import DATASETS
from src.schema import Config, PreprocessingSection

_LOGGER = logging.getLogger(__name__)
_PROJECT = Path(__file__).parents[2]
_PREDICTION = ("prediction_query", "prediction_gallery")
_SYNTHETIC = "synthetic.json"


@dataclass(frozen=True)
class Data:
    """The images of a run by their purpose; a purpose that no service of the run has is empty."""

    training: Sequence[Sample] = ()
    validation: Sequence[Sample] = ()
    query: Sequence[Sample] = ()
    gallery: Sequence[Sample] = ()
    prediction_query: Sequence[Sample] = ()
    prediction_gallery: Sequence[Sample] = ()
    calibration: Sequence[Sample] = ()
    target: Sequence[Sample] = ()
    """Images to adapt to: nothing says who is seen, neither an identity nor the order."""

    @property
    def validation_is_retrieval(self) -> bool:
        """Whether the validation identities are unknown to training, so that only retrieval can be scored."""
        known = {sample.identity for sample in self.training}
        return not any(sample.identity in known for sample in self.validation)


def folders(config: Config) -> dict[str, Path | None]:
    """The folders by purpose; a rendered data set and one with lists bring their own."""
    dataset = config.dataset
    chosen = {
        "training": dataset.training_path,
        "validation": dataset.validation_path,
        "query": dataset.test_query_path,
        "gallery": dataset.test_gallery_path,
        "prediction_query": dataset.prediction_query_path,
        "prediction_gallery": dataset.prediction_gallery_path,
        "calibration": dataset.quantization_path,
        "target": dataset.training_path,
    }
    if dataset.is_rendered:
        root = _PROJECT / "datasets" / f"synthetic_{dataset.synthetic_preset}"
        chosen |= {
            "training": root / "bounding_box_train",
            "target": root / "bounding_box_train",
            "validation": root / "bounding_box_val",
            "query": root / "query",
            "gallery": root / "bounding_box_test",
        }
    if dataset.root_path is not None:
        chosen |= dict.fromkeys((*PARTS, "target"), dataset.root_path)
        if not dataset.has_test_set:
            chosen |= {"query": None, "gallery": None}
    return chosen


def data_set_name(config: Config) -> str:
    """The name of the data set for reports: synthetic people in the layout of one are not called by its name."""
    dataset = config.dataset
    if dataset.root_path is not None and (dataset.root_path / _SYNTHETIC).is_file():
        return f"synthetic people in the layout of {dataset.dataset_name}"
    return dataset.dataset_name


def reader_arguments(config: Config) -> dict[str, Any]:
    """Arguments of the data set's reader, defaults included: with its name they say who is trained on and tested."""
    parameters = inspect.signature(DATASETS.get(config.dataset.dataset_name)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty} | config.dataset.arguments


def check_trial(config: Config, model: Model, key: str = "model.model_path") -> None:
    """Check that a model was not trained in another trial of the data set, whose people this one tests.

    Args:
        config: The configuration.
        model: One that is started from, learned from or evaluated.
        key: Where the configuration names it.

    Raises:
        ConfigError: it was.
    """
    trained_on = model.trained_on
    if trained_on.get("dataset_name") != data_set_name(config):
        return
    trial = reader_arguments(config).get("trial")
    known = trained_on.get("dataset_arguments", {}).get("trial", trial)
    if known != trial:
        raise ConfigError(
            f"{key}: {model.path} was trained in trial {known} of {data_set_name(config)}, on people whom "
            f"trial {trial} (dataset.arguments) tests: give a model of trial {trial}, or set "
            f"dataset.arguments={{trial: {known}}}"
        )


def render_if_synthetic(config: Config) -> None:
    """Render the synthetic preset on its first use."""
    dataset = config.dataset
    if dataset.is_rendered:
        from datasets.synthetic import generate

        generate(dataset.synthetic_preset, _PROJECT / "datasets" / f"synthetic_{dataset.synthetic_preset}")


def read(config: Config, check: bool = True, services: Sequence[str] | None = None) -> Data:
    """Read every folder that the run needs, check that its images can be decoded, and divide it.

    Args:
        config: The configuration.
        check: Whether to decode every image.
        services: Those that the images are for; all of the run where it is not given.

    Raises:
        ConfigError: a folder is missing or holds another layout, an image cannot be decoded
            (`dataset.on_bad_image: raise`), or there are too few images or identities.
    """
    services = config.services if services is None else services
    purposes = _needed(config, services)
    if not set(purposes) <= set(_PREDICTION):
        render_if_synthetic(config)
    samples: dict[str, list[Sample]] = {}
    mistakes = []
    for purpose in purposes:
        path = folders(config)[purpose]
        if path is None:
            continue
        try:
            samples[purpose] = read_folder_of(config, purpose, path)
        except ConfigError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ConfigError("\n  ".join(["the data set cannot be read", *dict.fromkeys(mistakes)]))
    if data_set_name(config) != config.dataset.dataset_name:
        _LOGGER.warning("the images are %s: scores on them are not scores on that one", data_set_name(config))
    if check:
        samples = _without_bad_images(config, samples)
    return _divide(config, samples, services)


def read_folder_of(config: Config, purpose: str, path: Path) -> list[Sample]:
    """Read the images of one purpose, a key of `folders`.

    Raises:
        ConfigError: the folder is missing or holds another layout.
    """
    dataset = config.dataset
    reader = partial(DATASETS.get(dataset.dataset_name), **dataset.arguments)
    samples: list[Sample]
    if purpose == "target":
        found = reader(path, part="training") if dataset.has_lists else any_images(path, reader)
        return _unlabelled(found, dataset.seed)
    if dataset.has_lists:
        samples = reader(path, part=purpose) if purpose in PARTS else any_images(path, _no_layout)
    else:
        samples = any_images(path, reader) if purpose in (*_PREDICTION, "calibration") else reader(path)
    return samples


def _unlabelled(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """The samples without their identities, and in an order that does not tell them: files are sorted by person."""
    order = np.random.default_rng(seed).permutation(len(samples))
    return [replace(samples[number], identity=UNKNOWN) for number in order]


def _no_layout(folder: Path) -> list[Sample]:
    raise ConfigError("the data set's own lists name the images of people that it knows")


def _needed(config: Config, services: Sequence[str]) -> list[str]:
    purposes = []
    if _trains(services):
        purposes += ["training", "validation"]
    if "adaptation" in services:
        purposes += ["target"]
    if "quantization" in services:
        # Who is seen in images that were adapted to stays unknown to those who come after, too.
        images = "target" if "adaptation" in services else "training"
        purposes += [images if config.dataset.quantization_path is None else "calibration"]
        if _validates_int8(config, services):
            purposes += [images, "validation"]
        if config.quantization is not None and config.quantization.compare:
            purposes += ["query", "gallery"]
    if {"evaluation", "benchmarking"} & set(services) or _trains(services):
        purposes += ["query", "gallery"]
    if "evaluation" in services:
        purposes += ["validation"]
    if "prediction" in services:
        own = config.dataset.prediction_query_path is not None
        purposes += _PREDICTION if own else ["query", "gallery"]
    return list(dict.fromkeys(purposes))


def _trains(services: Sequence[str]) -> bool:
    return bool({"training", "distillation"} & set(services))


def _validates_int8(config: Config, services: Sequence[str]) -> bool:
    """Whether quantization trains on labelled people, or compares without a test set."""
    section = config.quantization
    if "quantization" not in services or section is None:
        return False
    trains = section.quantizer == "tfmot_qat" and "adaptation" not in services
    return trains or (section.compare and folders(config)["query"] is None)


def _without_bad_images(config: Config, samples: dict[str, list[Sample]]) -> dict[str, list[Sample]]:
    from src.data.checks import check_images

    everything = list(dict.fromkeys(sample for part in samples.values() for sample in part))
    good = set(check_images(everything, config.dataset.on_bad_image))
    return {purpose: [sample for sample in part if sample in good] for purpose, part in samples.items()}


def _divide(config: Config, samples: dict[str, list[Sample]], services: Sequence[str]) -> Data:
    dataset = config.dataset
    everything = people(samples.get("training", []))
    training, validation = everything, people(samples.get("validation", []))
    if not validation and (_trains(services) or (everything and _validates_int8(config, services))):
        split = {"image": split_by_image, "identity": split_by_identity}[dataset.validation_split_by]
        training, validation = split(everything, dataset.validation_split, dataset.seed)
    training, validation = _of_modalities(config, training), _of_modalities(config, validation)
    query, gallery = people(samples.get("query", [])), samples.get("gallery", [])
    _report_overlap(training, query)
    _report_mixed_validation(training, validation)
    target = _of_modalities(config, samples.get("target", []))
    calibration = _calibration_subset(config, samples.get("calibration", []) or training or target)
    shown = (samples.get("prediction_query", query), samples.get("prediction_gallery", gallery))
    return Data(training, validation, query, gallery, *shown, calibration, target)


def _of_modalities(config: Config, samples: Sequence[Sample]) -> list[Sample]:
    """The samples of `dataset.training_modalities`."""
    wanted = config.dataset.training_modalities
    kept = [sample for sample in samples if wanted is None or sample.modality in wanted]
    if samples and not kept:
        raise ConfigError(
            f"dataset.training_modalities is {wanted}, but the images are {' and '.join({s.modality for s in samples})}"
        )
    return kept


def _report_overlap(training: Sequence[Sample], query: Sequence[Sample]) -> None:
    shared = overlap(training, query)
    if shared:
        _LOGGER.warning(
            "%d identities are both trained on and tested (%s ...): the test does not measure people never seen",
            len(shared),
            ", ".join(str(identity) for identity in shared[:3]),
        )


def _report_mixed_validation(training: Sequence[Sample], validation: Sequence[Sample]) -> None:
    """Warn of validation people of whom some are trained on: one of them turns retrieval into classification."""
    known = overlap(training, validation)
    count = len({sample.identity for sample in validation})
    if training and 0 < len(known) < count:
        _LOGGER.warning(
            "%d of %d validation identities are trained on (%s ...): validation classifies these and leaves out the "
            "others; for retrieval, validate on other people only",
            len(known),
            count,
            ", ".join(str(identity) for identity in known[:3]),
        )


def _calibration_subset(config: Config, samples: Sequence[Sample]) -> list[Sample]:
    """A seeded random part of the samples: `dataset.quantization_split`, at most `quantization.max_images`."""
    if config.quantization is None or not samples:
        return []
    share = config.dataset.quantization_split or 1.0
    count = max(1, min(round(share * len(samples)), config.quantization.max_images))
    chosen = np.random.default_rng(config.dataset.seed).permutation(len(samples))[:count]
    return [samples[index] for index in np.sort(chosen)]


def preprocessing_of(config: Config, input_shape: tuple[int, int, int]) -> Preprocessing:
    """The preprocessing that the configuration states, for a network input of this shape.

    Raises:
        ConfigError: `preprocessing.color_mode` does not give the number of channels of the network.
    """
    section = config.preprocessing or PreprocessingSection()
    return Preprocessing(
        input_shape=input_shape,
        scale=section.rescaling.scale,
        offset=section.rescaling.offset,
        interpolation=section.resizing.interpolation,
        aspect_ratio=section.resizing.aspect_ratio,
        color_mode=section.color_mode,
    )


def preprocessing_for(config: Config, model: Model) -> Preprocessing:
    """The preprocessing that a model was trained with; the configuration's for a model that does not tell."""
    if model.preprocessing is None:
        return preprocessing_of(config, model.input_shape)
    recorded = Preprocessing(**{**model.preprocessing, "input_shape": model.input_shape})
    if config.preprocessing is not None and preprocessing_of(config, model.input_shape) != recorded:
        _LOGGER.warning(
            "the section preprocessing differs from what %s was trained with, which is used: %s",
            model.path,
            recorded,
        )
    return recorded
