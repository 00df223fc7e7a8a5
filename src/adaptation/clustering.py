"""Clustering by its name in the YAML: sparse distances, as `jaccard_distance` returns them, to clusters.

Each takes the distances of N points, tracks or single images, and returns the cluster of every point, integers (N,)
from 0 on, the largest first; -1 is noise. Only `agglomerative` makes an array of all pairs, among points that hang
together.
"""

import numpy as np
import scipy.sparse
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform
from sklearn.cluster import DBSCAN, HDBSCAN

from src.adaptation._labels import by_size, without_small
from src.adaptation._map_equation import modules
from src.adaptation.eps_from_pairs import eps_from_pairs

_BELOW_1 = float(np.nextafter(np.float32(1), np.float32(0)))
_LINKED_AT_ONCE = 20_000  # points: 3.2 GB of distances


def dbscan(
    distances: scipy.sparse.csr_array,
    eps: float | None = 0.6,
    min_samples: int = 4,
) -> np.ndarray:
    """DBSCAN: points with `min_samples` points within `eps`, themselves included, and what they reach.

    An `eps` of None is that of `eps_from_pairs` with 5 x `min_samples` pairs a point: 20 by default, as in Market-1501.
    """
    eps = eps_from_pairs(distances, 5 * min_samples) if eps is None else eps
    _check("eps", eps, min_samples)
    found = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed")
    return by_size(found.fit(_up_to(distances, eps)).labels_)


def hdbscan(
    distances: scipy.sparse.csr_array,
    min_cluster_size: int = 4,
    min_samples: int = 4,
) -> np.ndarray:
    """HDBSCAN: the clusters that last longest over all eps."""
    n = distances.shape[0]
    if min_cluster_size < 2 or not 1 <= min_samples <= n:
        raise ValueError(
            f"expected min_cluster_size >= 2 and 1 <= min_samples <= {n} (points), got {min_cluster_size} and "
            f"{min_samples}"
        )
    found = HDBSCAN(
        min_cluster_size=min_cluster_size, min_samples=min_samples, metric="precomputed", copy=False
    )
    labels = found.fit(_connected(distances, min_samples)).labels_.astype(np.int64)
    # Points that only a distance of 1 connects with a cluster are counted to it, too.
    parts, part = connected_components(_up_to(distances, _BELOW_1), directed=False)
    return without_small(np.where(labels < 0, -1, labels * parts + part), min_cluster_size)


def agglomerative(
    distances: scipy.sparse.csr_array,
    threshold: float = 0.8,
    min_samples: int = 4,
) -> np.ndarray:
    """Average linkage up to a mean distance of `threshold`; clusters of fewer than `min_samples` points are noise."""
    _check("threshold", threshold, min_samples)
    # Clusters that are closer than the threshold on average have a pair that is.
    components, part = connected_components(_up_to(distances, threshold), directed=False)
    order = np.argsort(part, kind="stable")
    labels, clusters = np.empty(distances.shape[0], np.int64), 0
    for members in np.split(order, np.cumsum(np.bincount(part, minlength=components))[:-1]):
        labels[members] = clusters + _average_linkage(distances, members, threshold)
        clusters = labels[members].max() + 1
    return without_small(labels, min_samples)


def infomap(
    distances: scipy.sparse.csr_array,
    eps: float = 0.5,
    neighbours: int = 15,
    min_samples: int = 4,
) -> np.ndarray:
    """The map equation on the graph of each point's nearest `neighbours` within `eps`, minimised by greedy moves.

    Rosvall and Bergstrom, "Maps of random walks on complex networks reveal community structure", PNAS 2008; without the
    refinements and deeper levels of Infomap. Clusters of fewer than `min_samples` points are noise.
    """
    _check("eps", eps, min_samples)
    if neighbours < 1:
        raise ValueError(f"neighbours must be 1 or more, got {neighbours}")
    near = _up_to(distances, eps).tocoo()
    rows, columns, values = near.row, near.col, near.data
    order = np.lexsort((columns, values, rows))
    order = order[(rows != columns)[order]]
    rows, columns, values = rows[order], columns[order], values[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = (rank < neighbours) & (values < 1)
    graph = scipy.sparse.csr_array((1.0 - values[kept], (rows[kept], columns[kept])), near.shape)
    return without_small(modules(graph.maximum(graph.T).tocsr()), min_samples)


def _check(name: str, eps: float | None, min_samples: int) -> None:
    if eps is None or not 0 < eps <= 1 or min_samples < 1:
        raise ValueError(
            f"expected 0 < {name} <= 1 and min_samples >= 1, got {name}={eps} and min_samples={min_samples}"
        )


def _up_to(distances: scipy.sparse.csr_array, limit: float) -> scipy.sparse.csr_array:
    """Return the distances up to a limit; zeros stay stored."""
    kept = np.flatnonzero(distances.data <= limit)
    indptr = np.searchsorted(kept, distances.indptr).astype(distances.indptr.dtype)
    return scipy.sparse.csr_array((distances.data[kept], distances.indices[kept], indptr), distances.shape)


def _connected(distances: scipy.sparse.csr_array, each: int) -> scipy.sparse.csr_array:
    """Store some of the absent ones, so that all points are connected and have `each` distances or more."""
    n = distances.shape[0]
    start = np.repeat(np.arange(n), each)
    end = (start + np.tile(np.arange(1, each + 1), n)) % n
    ring = scipy.sparse.csr_array((np.ones(len(start)), (start, end)), distances.shape)
    ring.data[:] = 1
    # Scipy keeps the larger of 2 - distance, of 1 for distance 1, and of 0 for what is absent.
    kept = scipy.sparse.csr_array(
        (2.0 - distances.data, distances.indices, distances.indptr), distances.shape
    )
    graph = kept.maximum(ring.maximum(ring.T)).tocsr()
    # Its spanning tree drops edges of length 0.
    graph.data = np.maximum(2 - graph.data, 1e-9)
    return graph


def _average_linkage(distances: scipy.sparse.csr_array, members: np.ndarray, threshold: float) -> np.ndarray:
    """Return the clusters, from 0 on, of points that are connected."""
    n = len(members)
    if n > _LINKED_AT_ONCE:
        raise ValueError(
            f"{n} of {distances.shape[0]} points hang together by distances up to {threshold}, and average linkage "
            f"needs all distances between them (at most {_LINKED_AT_ONCE} points): lower the threshold, or use dbscan"
        )
    if n == 1:
        return np.zeros(1, np.int64)
    part = distances[members][:, members].tocoo()
    full = np.ones((n, n), np.float32)
    full[part.coords] = part.data
    np.fill_diagonal(full, 0)
    tree = linkage(squareform(full, checks=False), "average")
    return fcluster(tree, threshold, "distance").astype(np.int64) - 1
