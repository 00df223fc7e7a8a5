"""What is known of the images to adapt to, beside their pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.config import ConfigError
from src.adaptation.constraints import cannot_link, must_link
from src.data.sample import Sample
from src.models._two_stems import MODALITIES


@dataclass(frozen=True)
class Target:
    """The images to adapt to.

    Attributes:
        samples: Without identities (N).
        modalities: Of each (N,).
        cameras: Numbers of each (N,).
        groups: Images of one person, integers (N,).
        apart: Pairs of groups that are two people (P, 2).
    """

    samples: Sequence[Sample]
    modalities: np.ndarray
    cameras: np.ndarray
    groups: np.ndarray
    apart: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities that are there, visible first."""
        return tuple(name for name in MODALITIES if (self.modalities == name).any())


def target_of(samples: Sequence[Sample], constraints: bool) -> Target:
    """Gather what tells images of one person, and people apart, without anybody's identity.

    Args:
        samples: Without identities.
        constraints: Whether tracks, synchronised images and scenes count; else each image is a group of its own.

    Raises:
        ConfigError: a track or moment has two images of one scene.
    """
    if any(sample.is_person for sample in samples):
        raise AssertionError("the images of the target come without identities")
    groups, apart = np.arange(len(samples)), np.empty((0, 2), int)
    if constraints and samples:
        groups = must_link([sample.track for sample in samples], [sample.moment for sample in samples])
        try:
            apart = cannot_link(groups, [sample.scene for sample in samples])
        except ValueError as error:
            raise ConfigError(f"{error}, or set adaptation.constraints: False") from error
    return Target(
        samples,
        np.array([sample.modality for sample in samples]),
        np.array([sample.camera for sample in samples], int),
        groups,
        apart,
    )
