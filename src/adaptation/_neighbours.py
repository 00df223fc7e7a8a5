"""The nearest neighbours of many points among themselves."""

from typing import Any

import faiss
import numpy as np

EXACT_UP_TO = 120_000
LISTS, PROBES = 1024, 64
_TRAINING_POINTS = 50  # of each list


def nearest(points: np.ndarray, k: int) -> np.ndarray:
    """Return the k nearest neighbours of each point, itself first.

    Up to `EXACT_UP_TO` points all pairs are compared, of more only those that `cells` has.

    Args:
        points: Float32 (N, D), of length 1.
        k: Number of neighbours, the point included; at most N.

    Returns:
        Indices (N, k), the closest first; where fewer were found, the point itself fills up.
    """
    index = cells(points) if len(points) > EXACT_UP_TO else all_pairs(points)
    _, found = index.search(points, k)
    # Exact copies of a point may take its place.
    itself = np.arange(len(points))[:, None]
    found = np.where(found < 0, itself, found)
    absent = (found != itself).all(axis=1)
    found[absent, -1] = itself[absent, 0]
    return np.take_along_axis(found, np.argsort(found != itself, axis=1, kind="stable"), axis=1)


def all_pairs(points: np.ndarray) -> Any:
    """Return an index that compares with every point."""
    index = faiss.IndexFlatIP(points.shape[1])
    index.add(points)
    return index


def cells(points: np.ndarray) -> Any:
    """Return an index (faiss's inverted file) that compares with the points in the `PROBES` closest of `LISTS` cells.

    In 512 dimensions it misses neighbours, and for each comparison it needs several times the time of `all_pairs`: it
    pays only where there are so many points that a small share of them is enough work.
    """
    index: Any = faiss.index_factory(points.shape[1], f"IVF{LISTS},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(points[np.random.default_rng(0).permutation(len(points))[: _TRAINING_POINTS * LISTS]])
    index.add(points)
    index.nprobe = PROBES
    return index
