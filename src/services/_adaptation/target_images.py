"""The images of the target by modality: as features, and as batches of clusters."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from common.run import progress
from src.data.pipeline import View, drawn_batches, evaluation_batches, kept_pixels
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.samplers import cluster_batches
from src.models._two_stems import MODALITIES
from src.services._embed import with_mirror_image
from src.training.validation import Routes

_BATCH = 64
_SEEDS = 7_368_787  # between the seeds of two views


@dataclass(frozen=True)
class Side:
    """The images of one modality.

    Attributes:
        places: Which of the target's images they are, integers (n,).
        samples: n samples, without identities.
        preprocessing: Of the network's input for them.
        pixels: Resized, uint8 (n, H, W, C), if they are kept.
    """

    places: np.ndarray
    samples: Sequence[Sample]
    preprocessing: Preprocessing
    pixels: np.ndarray | None

    @property
    def num_batches(self) -> int:
        """How many `batches` there are."""
        return -(-len(self.places) // _BATCH)

    def batches(self) -> Iterator[np.ndarray]:
        """All images in order, as the network takes them."""
        if self.pixels is None:
            yield from evaluation_batches(self.samples, self.preprocessing, _BATCH).as_numpy_iterator()
            return
        for start in range(0, len(self.pixels), _BATCH):
            yield self.preprocessing.rescale(self.pixels[start : start + _BATCH].astype(np.float32))


def sides_of(
    samples: Sequence[Sample], preprocessing: Mapping[str, Preprocessing], cache: str
) -> dict[str, Side]:
    """Divide images by modality, visible ones first.

    Args:
        samples: Without identities.
        preprocessing: Of each modality.
        cache: `dataset.cache`.
    """
    sides = {}
    for name in MODALITIES:
        places = np.array([n for n, sample in enumerate(samples) if sample.modality == name], int)
        if len(places):
            own = [samples[n] for n in places]
            pixels = None if cache == "none" else kept_pixels(own, preprocessing[name], cache)
            sides[name] = Side(places, own, preprocessing[name], pixels)
    return sides


def features_of(sides: Mapping[str, Side], routes: Routes, description: str) -> np.ndarray:
    """Return the mean embedding of each image and its mirror image, float32 (N, D) of length 1."""
    total = sum(len(side.places) for side in sides.values())
    features: np.ndarray | None = None
    with progress(description, total, "images") as advance:
        for name, side in sides.items():
            embed = with_mirror_image((routes.get("") or routes[name]).embed)
            start = 0
            for images in side.batches():
                found = embed(images)
                features = np.empty((total, found.shape[1]), np.float32) if features is None else features
                features[side.places[start : start + len(found)]] = found
                start += len(found)
                advance(len(found))
    assert features is not None
    return features


def batches_of(
    sides: Mapping[str, Side],
    views: Sequence[View],
    labels: np.ndarray,
    spread_over: Sequence[np.ndarray],
    batch_size: int,
    k: int,
    steps: int,
    seed: int,
    first_step: int,
) -> Any:
    """Batches of a round: of each view P clusters x K images; fewer clusters where there are fewer.

    Args:
        sides: Images by modality.
        views: Parts of a batch; those of one modality follow one another.
        labels: Cluster of each image in its modality, integers (N,); -1 is left out.
        spread_over: Tracks and cameras of the images, as `cluster_batches` takes them, integers (N,) each.
        batch_size: P x K x number of views.
        k: K.
        steps: Number of batches.
        seed: Decides the draws and the augmentation, with `first_step`.
        first_step: Batches of the rounds before.

    Returns:
        Dataset of {"images": {modality: float32 (n, H, W, C)}, "places": {modality: int32 (n,)} among the target's
        images}.
    """
    parts = []
    for number, view in enumerate(views):
        side, own_seed = sides[view.modality], seed + number * _SEEDS
        own = labels[side.places]
        clustered = np.flatnonzero(own >= 0)
        p = min(batch_size // (k * len(views)), len(np.unique(own[clustered])))
        spread = [of[side.places[clustered]] for of in spread_over]
        draws = clustered[cluster_batches(own[clustered], spread, p, k, steps, own_seed, first_step)]
        parts.append(
            drawn_batches(
                side.samples, side.preprocessing, draws, own_seed, first_step, view.augment, side.pixels
            )
        )

    def join(*batch: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        joined: dict[str, dict[str, Any]] = {"images": {}, "places": {}}
        for name, side in sides.items():
            own = [part for part, view in zip(batch, views, strict=True) if view.modality == name]
            joined["images"][name] = tf.concat([part["images"] for part in own], axis=0)
            index = tf.concat([part["index"] for part in own], axis=0)
            joined["places"][name] = tf.gather(tf.constant(side.places, tf.int32), index)
        return joined

    return tf.data.Dataset.zip(*parts).map(join)
