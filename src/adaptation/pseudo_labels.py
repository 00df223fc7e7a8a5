"""What each image is taken for in a round: a cluster of its modality, and one of the other modality."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from src.adaptation.constraints import pairs_among, pool, separate
from src.adaptation.guards import NothingToLearnError, check_clusters, check_features, check_points
from src.adaptation.jaccard import jaccard_distance
from src.adaptation.matching import match_clusters, matching_cost, shared_people
from src.adaptation.memory import ClusterMemory

Cluster = Callable[[scipy.sparse.csr_array, np.ndarray], np.ndarray]
"""(distances of N points, their numbers of images) -> clusters (N,), as `src.adaptation.clustering` has them."""


@dataclass(frozen=True)
class PseudoLabels:
    """Pseudo labels of N images.

    Attributes:
        own: Cluster among those of the image's modality, integers (N,) from 0 on in each; -1 is noise.
        across: Cluster of the other modality that shows the same person, integers (N,); -1 where there is none.
    """

    own: np.ndarray
    across: np.ndarray


@dataclass(frozen=True)
class _Side:
    """The points of one modality: groups that are there (G,), their clusters (G,), and the group of each image (n,)."""

    present: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    centroids: np.ndarray

    def of_images(self, values: np.ndarray) -> np.ndarray:
        """Values of the points (G,) as values of the images (n,)."""
        return values[np.searchsorted(self.present, self.groups)]


def found_labels(
    features: np.ndarray,
    modalities: np.ndarray,
    groups: np.ndarray,
    apart: np.ndarray,
    cluster: Cluster | None,
    method: str,
    k1: int = 30,
    k2: int = 6,
    least: int = 4,
) -> PseudoLabels:
    """Cluster the images of each modality, and match the clusters of two.

    An image takes the cluster in which its group is in the other modality, if it is there; else the one that is
    matched with its own cluster.

    Args:
        features: (N, D).
        modalities: `visible` or `thermal`, of each image (N,).
        groups: Images of one person, as `must_link` finds them, integers (N,).
        apart: Pairs of groups that are two people, as `cannot_link` returns them (P, 2).
        cluster: Finds clusters of points; None takes each group for a cluster, and matches nothing else.
        method: How clusters are found, for messages.
        k1: See `jaccard_distance`; as many points must be there.
        k2: Likewise.
        least: Images of a cluster that is left when another is divided for `apart`.

    Raises:
        NothingToLearnError: a modality has too few points, features that tell nothing apart, or no two clusters.
    """
    sides = {}
    for name in np.unique(modalities):
        own, what = modalities == name, f"{name} images"
        check_features(features[own], what)
        present, means, images = pool(features[own], groups[own])
        if cluster is None:
            labels = np.arange(len(present))
        else:
            check_points(len(present), k1, str(name))
            labels = _clustered(means, images, pairs_among(present, apart), cluster, method, k1, k2, least)
        side = _Side(present, labels, groups[own], np.empty(0))
        check_clusters(side.of_images(labels), method, what)
        sides[str(name)] = _Side(present, labels, groups[own], ClusterMemory(means, labels).centroids)
    result = PseudoLabels(np.full(len(groups), -1), np.full(len(groups), -1))
    matched = _matched(sides, by_looks=cluster is not None)
    for name, side in sides.items():
        result.own[modalities == name] = side.of_images(side.labels)
        if name in matched:
            other = next(sides[n] for n in sides if n != name)
            result.across[modalities == name] = side.of_images(_across(side, other, matched[name]))
    return result


def given_labels(labels: Sequence[Hashable | None], modalities: np.ndarray) -> PseudoLabels:
    """Take labels that somebody gives, such as corrected ones, for clusters of both modalities.

    Args:
        labels: Of each image (N,); None where an image is left out.
        modalities: Of each image (N,).

    Raises:
        NothingToLearnError: a modality has fewer than two labels.
    """
    names = {label: number for number, label in enumerate(dict.fromkeys(v for v in labels if v is not None))}
    numbers = np.array([-1 if label is None else names[label] for label in labels])
    result = PseudoLabels(np.full(len(numbers), -1), np.full(len(numbers), -1))
    renumbered = {}
    for name in np.unique(modalities):
        own = modalities == name
        present = np.unique(numbers[own & (numbers >= 0)])
        table = np.full(len(names) + 1, -1)  # its last place is that of -1
        table[present] = np.arange(len(present))
        renumbered[name] = table
        result.own[own] = table[numbers[own]]
        check_clusters(result.own[own], "the given file", f"{name} images")
    for name, table in renumbered.items():
        for other in renumbered:
            if other != name:
                result.across[modalities == other] = table[numbers[modalities == other]]
    return result


def _clustered(
    means: np.ndarray,
    images: np.ndarray,
    apart: np.ndarray,
    cluster: Cluster,
    method: str,
    k1: int,
    k2: int,
    least: int,
) -> np.ndarray:
    distances = jaccard_distance(means, k1, k2)
    try:
        labels = cluster(distances, images)
    except ValueError as error:
        raise NothingToLearnError(f"{method} cannot cluster {len(means)} points: {error}") from error
    return separate(labels, distances, apart, images, least)


def _matched(sides: dict[str, _Side], by_looks: bool) -> dict[str, np.ndarray]:
    """Cluster of the other modality for each cluster, -1 for none; nothing where there is one modality."""
    if len(sides) < 2:
        return {}
    if not by_looks:
        return {name: np.full(len(side.centroids), -1) for name, side in sides.items()}
    visible, thermal = sides["visible"], sides["thermal"]
    shared = shared_people(visible.labels, thermal.labels, visible.present, thermal.present)
    of_visible, of_thermal = match_clusters(matching_cost(visible.centroids, thermal.centroids, shared))
    return {"visible": of_visible, "thermal": of_thermal}


def _across(side: _Side, other: _Side, matched: np.ndarray) -> np.ndarray:
    """Cluster of the other modality for each point (G,)."""
    place = np.minimum(np.searchsorted(other.present, side.present), len(other.present) - 1)
    twin = np.where(other.present[place] == side.present, other.labels[place], -1)
    alike = np.where(side.labels >= 0, matched[side.labels], -1)
    return np.where(twin >= 0, twin, alike)
