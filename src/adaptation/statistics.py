from dataclasses import dataclass

import numpy as np
from sklearn.metrics import adjusted_rand_score


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
        purity: Share of the clustered images that are of the most frequent identity of their cluster. None where
            identities are not known or nothing is clustered. More clusters than people are pure, too.
        identities: Number of identities among the clustered images, to compare with `clusters`; None as `purity`.
    """

    images: int
    clusters: int
    noise: float
    smallest: int
    median: float
    largest: int
    agreement: float | None
    purity: float | None
    identities: int | None


def cluster_statistics(
    labels: np.ndarray, previous: np.ndarray | None = None, identities: np.ndarray | None = None
) -> ClusterStatistics:
    """Describe a round of clustering.

    Args:
        labels: Cluster of each image (N,), -1 is noise.
        previous: Those of the round before, of the same images.
        identities: Who is seen (N,), for analysis only.

    Raises:
        ValueError: there are no images, or arrays of different lengths.
    """
    labels = np.asarray(labels)
    for name, other in (("previous", previous), ("identities", identities)):
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
        **_purity(labels, identities),
    )


def _agreement(labels: np.ndarray, previous: np.ndarray) -> float | None:
    both = (labels >= 0) & (previous >= 0)
    return float(adjusted_rand_score(previous[both], labels[both])) if both.any() else None


def _purity(labels: np.ndarray, identities: np.ndarray | None) -> dict:
    clustered = labels >= 0
    if identities is None or not clustered.any():
        return {"purity": None, "identities": None}
    _, who = np.unique(np.asarray(identities)[clustered], return_inverse=True)
    _, pairs = np.unique(np.stack([labels[clustered], who]), axis=1, return_inverse=True)
    cells, first, counts = np.unique(pairs, return_index=True, return_counts=True)
    most = np.zeros(labels.max() + 1, int)
    np.maximum.at(most, labels[clustered][first], counts)
    return {"purity": float(most.sum() / clustered.sum()), "identities": int(who.max() + 1)}
