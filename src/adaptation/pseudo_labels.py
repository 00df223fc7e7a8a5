"""What each image is taken for in a round: a cluster of its modality, and one of the other modality."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import scipy.sparse

from src.adaptation.centred import centred
from src.adaptation.constraints import pairs_among, pool, separate
from src.adaptation.guards import NothingToLearnError, check_clusters, check_features, check_points
from src.adaptation.jaccard import jaccard_distance
from src.adaptation.joint_distances import joint_distances, with_part
from src.adaptation.matching import match_clusters, matching_cost, shared_people
from src.adaptation.memory import ClusterMemory

Cluster = Callable[[scipy.sparse.csr_array], np.ndarray]
"""Distances of N points to clusters (N,), as `src.adaptation.clustering` has them."""


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
    """The points of one modality.

    Attributes:
        present: Groups that are there, ascending (G,).
        means: Their features, as they are clustered and matched (G, D).
        groups: Group of each image (n,).
    """

    present: np.ndarray
    means: np.ndarray
    groups: np.ndarray

    def of_images(self, values: np.ndarray) -> np.ndarray:
        """Values of the points (G,) as values of the images (n,)."""
        return values[np.searchsorted(self.present, self.groups)]

    def of_groups(self, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Clusters of the points (G,) as clusters of any groups (M,); -1 where a group is not there."""
        place = np.minimum(np.searchsorted(self.present, groups), len(self.present) - 1)
        return np.where(self.present[place] == groups, labels[place], -1)


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
    cameras: np.ndarray | None = None,
) -> PseudoLabels:
    """Cluster the images of each modality, and match the clusters of two.

    Where groups hold images of both modalities, these are clustered together, by what both see. An image takes the
    cluster in which its group is in the other modality, if it is there; else the one that is matched with its own
    cluster. Clusters are not matched if a group of one is apart from a group of the other.

    Args:
        features: (N, D).
        modalities: `visible` or `thermal`, of each image (N,).
        groups: Images of one person, as `must_link` finds them, integers (N,).
        apart: Pairs of groups that are two people, as `cannot_link` returns them (P, 2).
        cluster: Finds clusters of points; None takes each group for a cluster, and matches nothing else.
        method: How clusters are found, for messages.
        k1: See `jaccard_distance`; as many points must be there in each modality.
        k2: Likewise.
        least: Points of a cluster that is left when another is divided for `apart`.
        cameras: Number of the camera of each image (N,), of which `centred` takes out what its images share; features
            stay as they are without.

    Raises:
        NothingToLearnError: a modality has too few points, features that tell nothing apart, or no two clusters.
    """
    sides = {}
    for name in np.unique(modalities).tolist():
        own = modalities == name
        check_features(features[own], f"{name} images")
        looks = features[own]
        if cameras is not None:
            looks = centred(looks, cameras[own], groups[own], prior=k1)
        sides[name] = _Side(*pool(looks, groups[own]), groups[own])
        if cluster is not None:
            check_points(len(sides[name].present), k1, name)
    found = {name: np.arange(len(side.present)) for name, side in sides.items()}
    together = _together(sides)
    if cluster is not None:
        for names in together:
            parts = {name: sides[name] for name in names}
            found |= _clustered(parts, apart, cluster, method, k1, k2, least)
    labels = {name: _without_gaps(own) for name, own in found.items()}
    for name, side in sides.items():
        advice = "" if cluster is not None else "add images of other people, or give clustering"
        check_clusters(side.of_images(labels[name]), method, f"{name} images", advice)
    result = PseudoLabels(np.full(len(groups), -1), np.full(len(groups), -1))
    matched = {}
    if cluster is not None and len(sides) > 1:
        matched = _matched(sides, labels, apart, _same_cluster(found) if len(together) == 1 else None)
    for name, side in sides.items():
        own = modalities == name
        result.own[own] = side.of_images(labels[name])
        for other in sides:
            if other != name:
                across = _across(side, labels[name], sides[other], labels[other], matched.get(name))
                result.across[own] = side.of_images(across)
    return result


def given_labels(
    labels: Sequence[Hashable | None],
    modalities: np.ndarray,
    across: Sequence[Hashable | None] | None = None,
) -> PseudoLabels:
    """Take labels that somebody gives, such as corrected ones, for clusters.

    A label that images of both modalities have is one person in both.

    Args:
        labels: Of each image (N,); None where an image is left out.
        modalities: Of each image (N,).
        across: Label of the other modality that shows the same person (N,), for images whose own is of one modality
            alone; None where there is none.

    Raises:
        NothingToLearnError: a modality has fewer than two labels.
    """
    names = {label: number for number, label in enumerate(dict.fromkeys(v for v in labels if v is not None))}
    numbers = np.array([-1 if label is None else names[label] for label in labels])
    told = np.array([names.get(label, -1) for label in ([None] * len(labels) if across is None else across)])
    result = PseudoLabels(np.full(len(numbers), -1), np.full(len(numbers), -1))
    renumbered = {}
    for name in np.unique(modalities):
        own = modalities == name
        present = np.unique(numbers[own & (numbers >= 0)])
        table = np.full(len(names) + 1, -1)  # its last place is that of -1
        table[present] = np.arange(len(present))
        renumbered[name] = table
        result.own[own] = table[numbers[own]]
        advice = "give two labels or more to images of each modality"
        check_clusters(result.own[own], "the given file", f"{name} images", advice)
    for name, table in renumbered.items():
        for other in renumbered:
            if other != name:
                own = modalities == other
                same = table[numbers[own]]
                result.across[own] = np.where(same >= 0, same, table[told[own]])
    return result


def _together(sides: Mapping[str, _Side]) -> list[list[str]]:
    """Modalities that are clustered together: those that share groups."""
    names, present = list(sides), [side.present for side in sides.values()]
    share = len(names) > 1 and np.isin(present[0], present[1]).any()
    return [names] if share else [[name] for name in names]


def _clustered(
    sides: Mapping[str, _Side],
    apart: np.ndarray,
    cluster: Cluster,
    method: str,
    k1: int,
    k2: int,
    least: int,
) -> dict[str, np.ndarray]:
    """Clusters of the points of each modality; one of several modalities has one number in all."""
    points = np.unique(np.concatenate([side.present for side in sides.values()]))
    try:
        distances = _distances(sides, points, k1, k2)
        labels = cluster(distances)
    except ValueError as error:
        raise NothingToLearnError(f"{method} cannot cluster {len(points)} points: {error}") from error
    labels = separate(labels, distances, pairs_among(points, apart), least)
    return {name: labels[np.searchsorted(points, side.present)] for name, side in sides.items()}


def _distances(sides: Mapping[str, _Side], points: np.ndarray, k1: int, k2: int) -> scipy.sparse.csr_array:
    """Jaccard distances of points (G, G).

    Two people who look alike to one sensor rarely do so to the one beside it: neighbours by both are right where those
    by either are not. So points that both see are compared by the features of both, side by side; other pairs by the
    modality that sees both of them, and those that none sees are at distance 1. Where fewer than half of the points are
    seen by both, these are too few of a person to fill a neighbourhood, and the mean of what either sees is taken.
    """
    present = [side.present for side in sides.values()]
    both = reduce(np.intersect1d, present)
    together = None
    if len(both) >= max(k1, len(points) / 2):
        seen = [side.means[np.searchsorted(side.present, both)] for side in sides.values()]
        together = jaccard_distance(np.concatenate(seen, axis=1), k1, k2)
        if len(both) == len(points):
            return together
    each = [jaccard_distance(side.means, k1, k2) for side in sides.values()]
    distances = joint_distances(each, present, points)
    return distances if together is None else with_part(distances, np.searchsorted(points, both), together)


def _without_gaps(labels: np.ndarray) -> np.ndarray:
    """Number the clusters that are there from 0 on, in the same order; -1 stays."""
    numbers = np.unique(labels[labels >= 0])
    return np.where(labels >= 0, np.searchsorted(numbers, labels), -1)


def _same_cluster(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which visible and thermal clusters are parts of one that was found in both together, bool (V, T)."""
    visible, thermal = (np.unique(own[own >= 0]) for own in (found["visible"], found["thermal"]))
    return visible[:, None] == thermal


def _matched(
    sides: Mapping[str, _Side],
    labels: Mapping[str, np.ndarray],
    apart: np.ndarray,
    same: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Cluster of the other modality for each cluster, -1 for none.

    Clusters that are the `same` (V, T) count as if they had all groups in common, however few the sensors share.
    """
    visible, thermal = (sides[name] for name in ("visible", "thermal"))
    shared = shared_people(labels["visible"], labels["thermal"], visible.present, thermal.present)
    if same is not None:
        shared = np.where(same, 1.0, shared)
    looks = {name: ClusterMemory(sides[name].means, own).centroids for name, own in labels.items()}
    cost = matching_cost(looks["visible"], looks["thermal"], shared)
    # Clusters that hold two people who were seen together are not one person, however alike they look.
    for one, other in (apart.T, apart.T[::-1]):
        v, t = visible.of_groups(labels["visible"], one), thermal.of_groups(labels["thermal"], other)
        seen = (v >= 0) & (t >= 0)
        cost[v[seen], t[seen]] = np.inf
    of_visible, of_thermal = match_clusters(cost)
    return {"visible": of_visible, "thermal": of_thermal}


def _across(
    side: _Side, labels: np.ndarray, other: _Side, others: np.ndarray, matched: np.ndarray | None
) -> np.ndarray:
    """Cluster of the other modality for each point (G,): that of its twin, else that which its own is matched with."""
    twin = other.of_groups(others, side.present)
    if matched is None:
        return twin
    return np.where(twin >= 0, twin, np.where(labels >= 0, matched[labels], -1))
