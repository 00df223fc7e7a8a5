"""Numbers of clusters."""

import numpy as np


def by_size(labels: np.ndarray) -> np.ndarray:
    """Number clusters (N,) from 0 on, the largest first and of equals the one with the first point; -1 stays."""
    labels = np.asarray(labels)
    clustered = labels >= 0
    names, first, inverse, sizes = np.unique(
        labels[clustered], return_index=True, return_inverse=True, return_counts=True
    )
    number = np.empty(len(names), np.int64)
    number[np.lexsort((first, -sizes))] = np.arange(len(names))
    result = np.full(len(labels), -1, np.int64)
    result[clustered] = number[inverse]
    return result


def without_small(labels: np.ndarray, least: int) -> np.ndarray:
    """Number clusters as `by_size` does; those of fewer than `least` points become -1."""
    labels = by_size(labels)
    clustered = labels >= 0
    sizes = np.bincount(labels[clustered])
    labels[clustered] = np.where(sizes[labels[clustered]] < least, -1, labels[clustered])
    return labels
