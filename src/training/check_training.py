"""What can be checked before a training starts."""

from pathlib import Path

import numpy as np

from common.artifacts import Model
from common.config import ConfigError
from common.run import require_free_space
from src.augmentation._sequence import sequence
from src.data.labels import identity_labels
from src.data.selection import Data
from src.registries import check_monitors, monitors
from src.schema import Config, Training
from src.training.batches import Batches, batches_of
from src.training.callbacks import build_callback
from src.training.checkpoint import read_checkpoint
from src.training.distribution import Distribution, distribution_of
from src.training.optimizer import built, optimizer_of
from src.training.start import inputs_of, start_preprocessing
from src.training.step import check_losses
from src.training.validation import in_both_modalities, retrieval
from src.training.validator import searched


def check_training(config: Config, data: Data, model: Model | None) -> None:
    """Check the identities for the batch, the channels of the input, and everything that is built by name.

    Raises:
        ConfigError: there are too few identities, the validation people cannot be searched, or an argument has a value
            that Keras refuses.
    """
    training = config.training
    assert training is not None
    inputs = inputs_of(config, model)
    shape = next(iter(inputs.values()))
    preprocessing = start_preprocessing(config, model, shape)
    batches = batches_of(config, data, identity_labels(data.training)[0], inputs, preprocessing)
    distribution = distribution_of(training.distribution)
    _check_batch(training, batches, distribution)
    _check_validation(data, batches.by_modality)
    if config.dataset.cache not in ("none", "memory"):
        pixels = len(data.training) * max(int(np.prod(shape)) for shape in inputs.values())
        require_free_space(Path(config.dataset.cache), pixels, "the cached training images")
    optimizer_of(training)
    sequence(config.data_augmentation, shape)
    check_losses(training)
    names = [term.name for term in training.terms]
    logged = monitors(names, data.validation_is_retrieval, in_both_modalities(data.validation))
    check_monitors(training.callbacks, logged)
    for name, arguments in training.callbacks.items():
        built(f"callback '{name}'", build_callback, name, arguments or {})
    images = [(sample.path.name, sample.identity, sample.camera) for sample in data.training]
    start = read_checkpoint(model.path) if model and training.resume_training else None
    section = config.model
    settings = (
        training,
        config.general.global_seed,
        section.model_name,
        section.arguments,
        preprocessing,
        start,
    )
    distribution.require_same("training images", repr(images))
    distribution.require_same("settings of the training", repr((*settings, config.data_augmentation)))


def _check_validation(data: Data, by_modality: bool) -> None:
    """Refuse validation people of whom no image could be found in the gallery."""
    if not data.validation or not data.validation_is_retrieval:
        return
    random = np.random.default_rng(0)
    try:
        retrieval(
            lambda samples: random.normal(size=(len(samples), 2)), *searched(data.validation, by_modality)
        )
    except ValueError as error:
        raise ConfigError(
            f"the best epoch cannot be chosen by the {len(data.validation)} validation images: {error}; validate on "
            "people whom two cameras or more see; a training that holds out people of its own may hold out images "
            "of everybody, dataset.validation_split_by: image"
        ) from error


def _check_batch(training: Training, batches: Batches, distribution: Distribution) -> None:
    """Refuse batches that cannot be drawn, or not be shared by the replicas."""
    size = (
        f"training.batch_size {training.batch_size} with images_per_identity {training.images_per_identity}"
    )
    wanted, identities = batches.p, len(np.unique(batches.labels))
    if identities < wanted:
        raise ConfigError(
            f"{size} needs {wanted} identities, the training set has {identities}; set batch_size to "
            f"{identities * training.batch_size // wanted} or less"
        )
    batches.check()
    if batches.by_modality and distribution.is_distributed:
        raise ConfigError(
            f"training.distribution: {training.distribution} divides batches of one modality; with sampler cross_modal "
            "expected none"
        )
    if wanted % distribution.replicas:
        raise ConfigError(
            f"{size} is {wanted} identities, which {distribution.replicas} replicas (training.distribution: "
            f"{training.distribution}) cannot share evenly; set batch_size to a multiple of "
            f"{distribution.replicas * training.images_per_identity}"
        )
