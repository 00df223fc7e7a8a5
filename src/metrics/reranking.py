"""Use the neighbourhoods of a whole test set to correct its ranking.

All of these look at many queries or gallery images at once, which a product that answers one query cannot: a report
that used one says so beside the number.
"""

import numpy as np
import scipy.sparse

from common.k_reciprocal import adjacency, expanded_k_reciprocal
from src.metrics._closeness import checked_features, chunks, normalised
from src.metrics._neighbours import inner_products, nearest


def k_reciprocal_distances(
    query: np.ndarray, gallery: np.ndarray, k1: int = 20, k2: int = 6, lambda_value: float = 0.3
) -> np.ndarray:
    """Return k-reciprocal re-ranked distances (Zhong et al., "Re-ranking Person Re-identification with k-reciprocal
    Encoding", CVPR 2017).

    As in torchreid and FastReID, the original distance is the square of the squared Euclidean distance of L2-normalised
    embeddings, divided by the largest in its row (the paper squares once).

    Sparse: beside the result, memory grows with the neighbours and not with the square of the points.

    Args:
        query: Embeddings (queries, D).
        gallery: Embeddings (images, D).
        k1: Neighbours within which two points must find one another.
        k2: Neighbours, itself included, over which the encoding of a point is averaged.
        lambda_value: Share of the original distance, 0 to 1.

    Returns:
        Distances, float32 (queries, images), for `matrix_metrics`.

    Raises:
        ValueError: an argument is out of its range, or the embeddings are empty, not finite or of different D.
    """
    query, gallery = checked_features(query=query, gallery=gallery)
    points = normalised(np.concatenate([query, gallery]).astype(np.float32))
    if not (1 <= k2 <= k1 + 1 and k1 < len(points) and 0 <= lambda_value <= 1):
        raise ValueError(
            f"expected 1 <= k2 <= k1 + 1, k1 < {len(points)} (queries and images together) and 0 <= lambda_value <= 1, "
            f"got k1={k1}, k2={k2}, lambda_value={lambda_value}"
        )
    neighbours, farthest = nearest(points, points, k1 + 1)
    scale = np.maximum(_power(farthest), np.finfo(np.float32).tiny)
    encoding = _encoding(points, neighbours, scale, k1)
    if k2 > 1:
        encoding = (adjacency(neighbours[:, :k2], len(points)) @ encoding) / np.float32(k2)
    distances = _jaccard(encoding[: len(query)], encoding[len(query) :])
    distances *= 1 - lambda_value
    for part in chunks(len(gallery)):
        original = _power(points[: len(query)] @ points[len(query) :][part].T)
        original *= lambda_value / scale[: len(query), None]
        distances[:, part] += original
    return distances


def average_query_expansion(
    query: np.ndarray, gallery: np.ndarray, k: int = 5, alpha: float = 3.0
) -> np.ndarray:
    """Move each query towards its closest gallery images (Chum et al., "Total Recall", ICCV 2007).

    The new query is the mean of itself, with weight 1, and of its k closest images, each with weight similarity^alpha
    (Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018); alpha 0 weighs all alike.

    Args:
        query: Embeddings (queries, D).
        gallery: Embeddings (images, D).
        k: Images per query.
        alpha: Power of the cosine similarity; negative similarities weigh 0.

    Returns:
        L2-normalised queries, float32 (queries, D).

    Raises:
        ValueError: an argument is out of its range, or the embeddings are empty, not finite or of different D.
    """
    query, gallery = checked_features(query=query, gallery=gallery)
    if not 1 <= k <= len(gallery) or alpha < 0:
        raise ValueError(
            f"expected 1 <= k <= {len(gallery)} (images) and alpha >= 0, got k={k}, alpha={alpha}"
        )
    query, gallery = (normalised(features.astype(np.float32)) for features in (query, gallery))
    neighbours, _ = nearest(query, gallery, k)
    closest = gallery[neighbours]
    similarity = np.maximum(np.einsum("qd,qkd->qk", query, closest), 0)
    return normalised(query + np.einsum("qk,qkd->qd", similarity**alpha, closest))


def neighbor_feature_centralization(features: np.ndarray, k1: int = 2, k2: int = 2) -> np.ndarray:
    """Add to each embedding those of its mutual neighbours (Yuan et al., "From Poses to Identity", CVPR 2025).

    f_i + the sum of f_j over the k1 nearest j of i that have i among their k2 nearest. Apply it to the query set and to
    the gallery separately: together, queries would see their answers.

    Args:
        features: Embeddings (N, D).
        k1: Neighbours of a point that may be added.
        k2: Neighbours among which they must have that point.

    Returns:
        L2-normalised embeddings, float32 (N, D).

    Raises:
        ValueError: an argument is out of its range, or the embeddings are empty or not finite.
    """
    (features,) = checked_features(features=features)
    k = max(k1, k2)
    if min(k1, k2) < 1 or k >= len(features):
        raise ValueError(
            f"expected k1 and k2 in 1..{len(features) - 1}, one less than the points, got {k1} and {k2}"
        )
    points = normalised(features.astype(np.float32))
    neighbours, _ = nearest(points, points, k + 1)
    n = len(points)
    # A point comes first among its own neighbours, unless it has duplicates.
    other = neighbours != np.arange(n)[:, None]
    other[other.all(axis=1), -1] = False
    neighbours = neighbours[other].reshape(n, k)
    mutual = adjacency(neighbours[:, :k1], n).multiply(adjacency(neighbours[:, :k2], n).T)
    return normalised(points + mutual @ points)


def _power(inner_product: np.ndarray) -> np.ndarray:
    """Return the square of the squared Euclidean distance of points of length 1."""
    squared = np.maximum(2 - 2 * inner_product, 0)
    squared *= squared
    return squared


def _encoding(
    points: np.ndarray, neighbours: np.ndarray, scale: np.ndarray, k1: int
) -> scipy.sparse.csr_array:
    """Return the weights (N, N) of each point's expanded k-reciprocal neighbours; rows sum to 1."""
    pattern = expanded_k_reciprocal(neighbours, round(k1 / 2) + 1).tocoo()
    rows, columns = pattern.coords
    weights = np.exp(-_power(inner_products(points, rows, columns)) / scale[rows])
    encoding = scipy.sparse.csr_array((weights, (rows, columns)), pattern.shape)
    sums = encoding.sum(axis=1)
    encoding.data /= np.repeat(sums, np.diff(encoding.indptr))
    return encoding


def _jaccard(query: scipy.sparse.csr_array, gallery: scipy.sparse.csr_array) -> np.ndarray:
    """Return 1 - (sum of minima) / (sum of maxima) of rows that sum to 1: float32 (queries, images)."""
    columns = gallery.tocsc()
    starts, sizes = columns.indptr[:-1], np.diff(columns.indptr)
    distances = np.empty((query.shape[0], gallery.shape[0]), np.float32)
    for row, first, last in zip(distances, query.indptr[:-1], query.indptr[1:], strict=True):
        own, weights = query.indices[first:last], query.data[first:last]
        n = sizes[own]
        cells = np.arange(n.sum()) + np.repeat(starts[own] - np.cumsum(n) + n, n)
        minima = np.minimum(columns.data[cells], np.repeat(weights, n))
        shared = np.bincount(columns.indices[cells], minima, gallery.shape[0])
        row[:] = 1 - shared / (2 - shared)
    return distances
