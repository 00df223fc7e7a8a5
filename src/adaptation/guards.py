"""What stops a round of adaptation before it spoils the model."""

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from common.vectors import unit


class NothingToLearnError(ValueError):
    """Pseudo labels from which nothing can be learned; the message says what to change. The model is as it was."""


def check_images(modalities: Sequence[str], expected: Collection[str]) -> None:
    """Check that there are images to cluster.

    Args:
        modalities: `visible` or `thermal`, of each image.
        expected: Modalities that the model takes.

    Raises:
        NothingToLearnError: there are no images, or fewer than two of one modality.
    """
    counts = Counter(modalities)
    if not counts:
        raise NothingToLearnError(
            "there is nothing to cluster: the target has no images; check its root_path"
        )
    found = ", ".join(f"{counts[name]} {name}" for name in sorted({*counts, *expected}))
    for name in expected:
        if not counts[name]:
            raise NothingToLearnError(
                f"the model expects {' and '.join(expected)} images, and the target has {found}: add the {name} ones, "
                "or adapt a model of one modality"
            )
        if counts[name] < 2:
            raise NothingToLearnError(f"the target has {found} images, expected two or more of each modality")


def check_points(points: int, least: int, modality: str) -> None:
    """Check that there are enough points to cluster, which tracks make fewer than images.

    Args:
        points: Number of tracks, and of images without one.
        least: How many clustering needs: k1 of `jaccard_distance`.
        modality: Of the images, for the message.

    Raises:
        NothingToLearnError: there are fewer.
    """
    if points < least:
        raise NothingToLearnError(
            f"the {modality} images of the target are {points} tracks and images without a track, and clustering needs "
            f"{least}: add images, or lower k1"
        )


def check_linked(groups: np.ndarray, modalities: np.ndarray, across: bool) -> None:
    """Check that tracks or moments link images, for an adaptation without clustering.

    Args:
        groups: Number of the track or moment of each image, (N,).
        modalities: Of each image (N,).
        across: Whether images of two modalities are to be linked, too.

    Raises:
        NothingToLearnError: each image stands alone, and would be learned to be somebody else than all others; or
            nothing links the modalities.
    """
    if len(np.unique(groups)) == len(groups):
        raise NothingToLearnError(
            "no two images of the target are linked by a track or a moment, and clustering is null, so that each "
            "would be a person of its own: give clustering, or constraints: True where there are tracks"
        )
    sides = [groups[modalities == name] for name in np.unique(modalities)]
    if across and len(sides) > 1 and not np.isin(*sides).any():
        raise NothingToLearnError(
            "clustering is null, and no track or moment has images of both modalities, so that nothing says who is one "
            "person in visible and thermal images: give clustering, or set cross_modal_weight to 0"
        )


def check_features(features: np.ndarray, what: str = "images") -> None:
    """Check that the network tells images apart at all.

    Args:
        features: (N, D).
        what: What they are of, for the message.

    Raises:
        NothingToLearnError: features are not finite, or all point into one direction (a network that has collapsed).
    """
    features = np.asarray(features)
    broken = int(np.count_nonzero(~np.isfinite(features).all(axis=1)))
    if broken:
        raise NothingToLearnError(
            f"the features of {broken} of {len(features)} {what} hold NaN or infinity: start from a model that "
            "evaluation accepts, or lower the learning rate"
        )
    directions = unit(features)
    if len(features) > 1 and np.square(directions - directions[0]).sum(axis=1).max() < 1e-6:
        raise NothingToLearnError(
            f"the network gives all {len(features)} {what} the same feature: it has collapsed; start from a trained "
            "model, or lower the learning rate"
        )


def check_clusters(labels: np.ndarray, method: str, what: str = "images", advice: str = "") -> None:
    """Check that clusters can be learned from.

    Args:
        labels: Cluster of each image (N,), -1 is noise.
        method: How they were found, for the message, such as `dbscan with eps 0.6`.
        what: What they are of, for the message, such as `thermal images`.
        advice: What to do where they were not found by clustering.

    Raises:
        NothingToLearnError: all images are noise, or all that are not are in one cluster.
    """
    labels = np.asarray(labels)
    clusters, noise = len(np.unique(labels[labels >= 0])), int(np.count_nonzero(labels < 0))
    if not clusters:
        advice = advice or (
            "raise its eps or threshold, lower the number of points that make a cluster, or train longer on the source"
        )
        raise NothingToLearnError(f"{method} took all {len(labels)} {what} for noise: {advice}")
    if clusters == 1:
        advice = advice or "lower its eps or threshold, or train longer on the source"
        raise NothingToLearnError(
            f"{method} put {len(labels) - noise} of {len(labels)} {what} into one cluster, so there is nobody to tell "
            f"them from: {advice}"
        )
