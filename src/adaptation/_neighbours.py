"""The nearest neighbours of many points among themselves."""

from typing import Any

import faiss
import numpy as np

EXACT_UP_TO = 50_000
LISTS, PROBES = 1024, 32
_TRAINING_POINTS = 50  # of each list


def nearest(points: np.ndarray, k: int) -> np.ndarray:
    """Return the k nearest neighbours of each point, itself first.

    Up to `EXACT_UP_TO` points every pair is compared. Of more points, only those in the `PROBES` of `LISTS` cells
    (faiss's inverted file) that are closest to a point are: some of its neighbours may be missed.

    Args:
        points: Float32 (N, D), of length 1.
        k: Number of neighbours, the point included; at most N.

    Returns:
        Indices (N, k), the closest first; where fewer were found, the point itself fills up.
    """
    n, dimensions = points.shape
    kind = "Flat" if n <= EXACT_UP_TO else f"IVF{LISTS},Flat"
    index: Any = faiss.index_factory(dimensions, kind, faiss.METRIC_INNER_PRODUCT)
    if n > EXACT_UP_TO:
        index.nprobe = PROBES
        index.train(points[np.random.default_rng(0).permutation(n)[: _TRAINING_POINTS * LISTS]])
    index.add(points)
    _, found = index.search(points, k)
    # Exact copies of a point may take its place.
    itself = np.arange(n)[:, None]
    found = np.where(found < 0, itself, found)
    absent = (found != itself).all(axis=1)
    found[absent, -1] = itself[absent, 0]
    return np.take_along_axis(found, np.argsort(found != itself, axis=1, kind="stable"), axis=1)
