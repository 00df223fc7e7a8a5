"""Exact nearest neighbours of many points among themselves, by blocks."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from src.metrics._closeness import chunks
from src.metrics._ranking import WORKERS, one_blas_thread

_ROWS = 256


def nearest(points: np.ndarray, others: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each point, its k closest others and its smallest inner product with any.

    Args:
        points: Float32 (N, D), of length 1.
        others: Float32 (M, D), of length 1, M >= k.
        k: Number of neighbours.

    Returns:
        Indices (N, k), the closest first and of equal ones the lower index; and inner products (N,).
    """
    neighbours = np.empty((len(points), k), np.int64)
    farthest = np.empty(len(points), np.float32)

    def search(start: int) -> None:
        part = slice(start, start + _ROWS)
        similarity = points[part] @ others.T
        farthest[part] = similarity.min(axis=1)
        bar = np.partition(similarity, len(others) - k, axis=1)[:, len(others) - k]
        for i, row in enumerate(similarity, start=start):
            close = np.flatnonzero(row >= bar[i - start])
            neighbours[i] = close[np.argsort(-row[close], kind="stable")[:k]]

    with one_blas_thread(), ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(search, range(0, len(points), _ROWS)))
    return neighbours, farthest


def inner_products(points: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the inner products of pairs of points: float32 (pairs,)."""
    products = np.empty(len(rows), np.float32)
    for part in chunks(len(rows)):
        products[part] = np.einsum("nd,nd->n", points[rows[part]], points[columns[part]])
    return products
