"""The nearest neighbours of many points among themselves."""

import logging
from typing import Any

import faiss
import numpy as np

EXACT_UP_TO = 200_000
LISTS, PROBES = 1024, 64
_TRAINING_POINTS = 50  # of each list
_CHECKED = 1000
_LOGGER = logging.getLogger(__name__)


def nearest(points: np.ndarray, k: int) -> np.ndarray:
    """Return the k nearest neighbours of each point, itself first.

    Up to `EXACT_UP_TO` points all pairs are compared, of more only those that `cells` has; then the log says how many
    of the nearest neighbours of some points were found.

    Args:
        points: Float32 (N, D), of length 1.
        k: Number of neighbours, the point included; at most N.

    Returns:
        Indices (N, k), the closest first; where fewer were found, the point itself fills up.
    """
    if len(points) <= EXACT_UP_TO:
        found = all_pairs(points).search(points, k)[1]
    else:
        found = cells(points).search(points, k)[1]
        some = np.random.default_rng(0).permutation(len(points))[:_CHECKED]
        share = recall(found[some], all_pairs(points).search(points[some], k)[1])
        _LOGGER.info(
            "the nearest %d of %d points, more than %d, are approximate: %.1f %% are found, measured on %d points",
            k, len(points), EXACT_UP_TO, 100 * share, len(some),
        )  # fmt: skip
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


def recall(found: np.ndarray, true: np.ndarray) -> float:
    """Return the share of the true neighbours (M, k) that are among those found (M, k)."""
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(true, found, strict=True)]))
