from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix


@dataclass(frozen=True)
class ClusterStatistics:
    """What a round of clustering found.

    Attributes:
        images: Number of images.
        clusters: Number of clusters.
        noise: Share of the images that are in none.
        smallest: Images of the smallest cluster; 0 where there is none, as in the next two.
        median: Of the middle one.
        largest: Of the largest one.
        agreement: Adjusted Rand index with the round before, over the images that are clustered in both; 1 is the same,
            0 is chance. None in the first round, and where there are no such images.
        identities: Number of identities among all images, to compare with `clusters`; None where they are not known.
        purity: Share of the clustered images that are of the most frequent identity of their cluster. None where
            identities are not known or nothing is clustered. More clusters than people are pure, too.
        adjusted_rand: Adjusted Rand index of clusters and identities over the clustered images, which clusters that are
            parts of a person lower; None as `purity`.
        joined: Share of the people seen at several places who have a cluster that holds images of theirs from several.
            None where places are not known or nobody is seen at two.
        matched: Share of the images with a match in the other modality whose match is their identity. None where
            matches are not known or there are none.
    """

    images: int
    clusters: int
    noise: float
    smallest: int
    median: float
    largest: int
    agreement: float | None
    identities: int | None = None
    purity: float | None = None
    adjusted_rand: float | None = None
    joined: float | None = None
    matched: float | None = None


def cluster_statistics(
    labels: np.ndarray,
    previous: np.ndarray | None = None,
    identities: np.ndarray | None = None,
    places: np.ndarray | None = None,
    matches: np.ndarray | None = None,
) -> ClusterStatistics:
    """Describe a round of clustering.

    Args:
        labels: Cluster of each image (N,), -1 is noise.
        previous: Those of the round before, of the same images.
        identities: Who is seen (N,), for analysis only.
        places: Where (N,), such as cameras; counts with identities.
        matches: Identity that each image's match in the other modality has most often (N,), None where it has no match;
            counts with identities.

    Raises:
        ValueError: there are no images, or arrays of different lengths.
    """
    labels = np.asarray(labels)
    for name, other in (
        ("previous", previous), ("identities", identities), ("places", places), ("matches", matches),
    ):  # fmt: skip
        if other is not None and len(other) != len(labels):
            raise ValueError(f"labels are of {len(labels)} images, {name} of {len(other)}")
    if not len(labels):
        raise ValueError("there are no images to describe")
    clustered = labels >= 0
    sizes = np.unique(labels[clustered], return_counts=True)[1]
    return ClusterStatistics(
        images=len(labels),
        clusters=len(sizes),
        noise=float(1 - clustered.mean()),
        smallest=int(sizes.min(initial=len(labels))) if len(sizes) else 0,
        median=float(np.median(sizes)) if len(sizes) else 0.0,
        largest=int(sizes.max(initial=0)),
        agreement=None if previous is None else _agreement(labels, np.asarray(previous)),
        **({} if identities is None else _against_truth(labels, np.asarray(identities), places, matches)),
    )


def _agreement(labels: np.ndarray, previous: np.ndarray) -> float | None:
    both = (labels >= 0) & (previous >= 0)
    return float(adjusted_rand_score(previous[both], labels[both])) if both.any() else None


def _against_truth(
    labels: np.ndarray, identities: np.ndarray, places: np.ndarray | None, matches: np.ndarray | None
) -> dict[str, Any]:
    names, who = np.unique(identities, return_inverse=True)
    found: dict[str, Any] = {"identities": len(names)}
    if places is not None:
        found["joined"] = _joined(labels, who, np.unique(places, return_inverse=True)[1])
    if matches is not None:
        right = [match == own for match, own in zip(matches, identities, strict=True) if match is not None]
        found["matched"] = float(np.mean(right)) if right else None
    clustered = labels >= 0
    if clustered.any():
        table = contingency_matrix(labels[clustered], who[clustered], sparse=True)
        found["purity"] = float(table.max(axis=1).sum() / clustered.sum())
        found["adjusted_rand"] = float(adjusted_rand_score(who[clustered], labels[clustered]))
    return found


def _joined(labels: np.ndarray, who: np.ndarray, places: np.ndarray) -> float | None:
    at_several = _at_several(who, places)
    if not len(at_several):
        return None
    clustered, clusters = labels >= 0, labels.max() + 1
    parts = (who * clusters + labels)[clustered]  # of each person in each cluster
    return len(np.unique(_at_several(parts, places[clustered]) // max(1, clusters))) / len(at_several)


def _at_several(keys: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The keys that several places have."""
    pairs = np.unique(np.stack([keys, places], axis=1), axis=0)
    found, counts = np.unique(pairs[:, 0], return_counts=True)
    return found[counts > 1]
