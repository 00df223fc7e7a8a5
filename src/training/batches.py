"""What a training step sees: batches of identities, or of identities in both modalities."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.config import ConfigError
from src.augmentation._sequence import sequence
from src.data.pipeline import View, cross_modal_training_batches, training_batches
from src.data.preprocessing import Preprocessing
from src.data.samplers import (
    check_cross_modal_identities,
    check_identities,
    cross_modal_steps_per_epoch,
    one_modality_identities,
    steps_per_epoch,
)
from src.data.selection import Data
from src.models._two_stems import MODALITIES
from src.schema import Config

_LOGGER = logging.getLogger(__name__)
OF_MODALITIES = (
    "data_augmentation_visible",
    "data_augmentation_thermal",
    "data_augmentation_second_view",
)
"""Sections of the augmentation that only a part of a batch has."""


@dataclass(frozen=True)
class Batches:
    """How the training images become batches.

    Attributes:
        config: The configuration.
        data: Its images.
        labels: Label of each training image, int32 (N,).
        preprocessing: Of the network's one input, `{"": ...}`, or of both modalities.
        views: Parts of a batch by modality; empty where the sampler does not look at modalities.
        p: Identities in a batch.
        k: Images of each identity in a view, or in the batch.
    """

    config: Config
    data: Data
    labels: np.ndarray
    preprocessing: Mapping[str, Preprocessing]
    views: tuple[View, ...]
    p: int
    k: int

    @property
    def by_modality(self) -> bool:
        """Whether images are a dict of modalities."""
        return bool(self.views)

    @property
    def thermal(self) -> np.ndarray:
        """Whether each training image is thermal, booleans (N,)."""
        return np.array([sample.modality == "thermal" for sample in self.data.training])

    @property
    def natural_steps(self) -> int:
        """Batches that see every image about once."""
        if self.by_modality:
            return cross_modal_steps_per_epoch(self.labels, self.thermal, self.p, self.k)
        return steps_per_epoch(len(self.labels), self.p, self.k)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        assert self.config.training is not None
        return self.config.training.steps_per_epoch or self.natural_steps

    def check(self) -> None:
        """Raise ConfigError when a batch cannot be drawn; count the identities that are left out."""
        if not self.by_modality:
            check_identities(self.labels, self.p)
            return
        check_cross_modal_identities(self.labels, self.thermal, self.p)
        if left_out := len(one_modality_identities(self.labels, self.thermal)):
            _LOGGER.warning(
                "%d identities have images of one modality only: they are not trained on", left_out
            )

    def stream(self, done: int, seed: int, part: int = 0, parts: int = 1) -> Any:
        """All batches after the first `done` of the training, or one of several parts of each.

        The stream has its own epochs, which `training.steps_per_epoch` may cut.
        """
        config, natural = self.config, self.natural_steps
        assert config.training is not None
        first, skipped = divmod(done, natural)
        common: dict[str, Any] = {
            "seed": seed,
            "epoch": first,
            "epochs": max(1, -(-config.training.epochs * self.steps // natural) - first),
            "cache": None if config.dataset.cache == "none" else config.dataset.cache,
        }
        if self.by_modality:
            batches = cross_modal_training_batches(
                self.data.training, self.labels, self.preprocessing, self.views, self.p, self.k, **common
            )
        else:
            batches = training_batches(
                self.data.training, self.labels, self.preprocessing[""], self.p, self.k, **common,
                augment=sequence(config.data_augmentation), part=part, parts=parts,
            )  # fmt: skip
        return batches.skip(skipped)


def batches_of(
    config: Config,
    data: Data,
    labels: np.ndarray,
    inputs: Mapping[str, tuple[int, int, int]],
    preprocessing: Preprocessing,
) -> Batches:
    """Return how a configuration makes batches for a network.

    Args:
        config: The configuration.
        data: Its images.
        labels: Label of each training image, int32 (N,).
        inputs: Shapes of the network's images, as `input_shapes` gives them.
        preprocessing: Of one of them.

    Raises:
        ConfigError: sampler, network, augmentation and the size of a batch do not fit together.
    """
    training = config.training
    assert training is not None
    has_two_inputs = "" not in inputs
    if training.sampler == "identities" and has_two_inputs:
        raise ConfigError(
            "training.sampler is identities, but the network takes visible and thermal images: expected cross_modal"
        )
    if not has_two_inputs and training.sampler != "cross_modal":
        _check_one_modality(config)
        p = _identities(config, views=1)
        return Batches(config, data, labels, {"": preprocessing}, (), p, training.images_per_identity)
    shapes = inputs if has_two_inputs else dict.fromkeys(MODALITIES, inputs[""])
    own = {name: preprocessing.of_shape(shape) for name, shape in shapes.items()}
    views = views_of(config, own)
    p = _identities(config, len(views))
    return Batches(config, data, labels, own, views, p, training.images_per_identity)


def _check_one_modality(config: Config) -> None:
    """Refuse what only batches of two modalities can have."""
    assert config.training is not None
    asked = [key for key in OF_MODALITIES if getattr(config, key)]
    asked += [f"loss '{term.name}'" for term in config.training.terms if term.needs_modalities]
    if asked:
        raise ConfigError(
            f"{' and '.join(asked)} needs batches of visible and thermal images: set training.sampler: cross_modal, "
            "which model_name: agw has of itself"
        )


def augmentations_of(config: Config) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """The modality of each part of a batch of both, and the augmentation that is this part's own."""
    asked = [("visible", config.data_augmentation_visible), ("thermal", config.data_augmentation_thermal)]
    if config.data_augmentation_second_view:
        asked.insert(1, ("visible", config.data_augmentation_second_view))
    return asked


def views_of(config: Config, preprocessing: Mapping[str, Preprocessing]) -> tuple[View, ...]:
    """The parts of a batch of some modalities; their augmentations take the place of common ones of the same name."""
    return tuple(
        View(name, sequence({**config.data_augmentation, **own}, preprocessing[name].input_shape))
        for name, own in augmentations_of(config)
        if name in preprocessing
    )


def _identities(config: Config, views: int) -> int:
    """P of a batch."""
    training = config.training
    assert training is not None
    if training.batch_size % (views * training.images_per_identity):
        raise ConfigError(
            f"training.batch_size must be a multiple of images_per_identity x {views} views (visible"
            f"{', its second view' if views == 3 else ''} and thermal), received {training.batch_size} and "
            f"{training.images_per_identity}: expected a multiple of {views * training.images_per_identity}"
        )
    return training.batch_size // (views * training.images_per_identity)
