import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse

from common.k_reciprocal import adjacency, expanded_k_reciprocal
from src.adaptation._neighbours import nearest

_WORKERS = min(os.cpu_count() or 1, 8)
_ROWS = 256  # of points at once
_MEETINGS = 1_000_000  # of two points in a column, at once


def jaccard_distance(features: np.ndarray, k1: int = 30, k2: int = 6) -> scipy.sparse.csr_array:
    """Return how different the neighbourhoods of points are: the distance that pseudo labels are clustered by.

    The Jaccard distance of k-reciprocal encodings (Zhong et al., "Re-ranking Person Re-identification with k-reciprocal
    Encoding", CVPR 2017, equation 10, without the original distance), as Cluster Contrast has it: neighbours are
    weighted by exp(-squared Euclidean distance) of L2-normalised features, and a point is one of its own k1.

    Exact up to 200,000 points; of more, the nearest neighbours are approximate (an inverted file). No N x N array is
    made: memory grows with the pairs that share a neighbour.

    Args:
        features: (N, D), of any length but zero.
        k1: Nearest points, itself included, among which two points must find one another.
        k2: Nearest points, itself included, over which the encoding of a point is averaged.

    Returns:
        Symmetric float32 (N, N) with sorted indices: what is absent is 1, the largest distance, and zeros, such as the
        diagonal, are stored. Arithmetic of scipy takes what is absent for 0, and drops stored zeros.

    Raises:
        ValueError: features are not (N, D), not finite or zero, or 1 <= k2 <= k1 <= N does not hold.
    """
    points = _normalised(features)
    n = len(points)
    if not 1 <= k2 <= k1 <= n:
        raise ValueError(f"expected 1 <= k2 <= k1 <= {n} (images), got k1={k1}, k2={k2}")
    neighbours = nearest(points, k1)
    encoding = _encoding(points, expanded_k_reciprocal(neighbours, round(k1 / 2) + 1))
    if k2 > 1:
        encoding = adjacency(neighbours[:, :k2], n) @ encoding
        encoding.data /= k2
    return _whole(_upper_halves(encoding))


def _normalised(features: np.ndarray) -> np.ndarray:
    """Return features as float32 of length 1."""
    points = np.array(features, np.float32, order="C")
    if points.ndim != 2 or not points.size:
        raise ValueError(f"expected features of shape (images, D), got shape {points.shape}")
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    wrong = np.count_nonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if wrong:
        raise ValueError(f"{wrong} of {len(points)} features hold NaN or infinity, or only zeros")
    points /= lengths
    return points


def _encoding(points: np.ndarray, pattern: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Return the weights of each point's neighbours, those of the pattern (N, N); rows sum to 1."""
    weights = np.empty(pattern.nnz, np.float32)
    starts, columns = pattern.indptr, pattern.indices

    def weigh(first: int) -> None:
        for i in range(first, min(first + _ROWS, len(points))):
            row = slice(starts[i], starts[i + 1])
            products = points[columns[row]] @ points[i]
            near = np.exp(2 * products - 2)
            weights[row] = near / near.sum()

    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(weigh, range(0, len(points), _ROWS)))
    return scipy.sparse.csr_array((weights, columns, starts), pattern.shape)


def _upper_halves(encoding: scipy.sparse.csr_array) -> list[scipy.sparse.csr_array]:
    """Return 1 - (sum of minima) / (sum of maxima) of rows that sum to 1, above the diagonal, in blocks of rows (n, N).

    Two rows are compared where they share a column: each entry of a row meets those below it in its column.
    """
    n = encoding.shape[0]
    starts, columns, weights = encoding.indptr, encoding.indices, encoding.data
    by_column = scipy.sparse.csr_array((np.arange(encoding.nnz), columns, starts), encoding.shape).tocsc()
    holders, held = by_column.indices, weights[by_column.data]
    below = np.empty(encoding.nnz, np.int64)  # of each entry of a row, where its column goes on
    below[by_column.data] = np.arange(1, encoding.nnz + 1)
    meetings = by_column.indptr[1:][columns] - below
    before = np.concatenate([[0], np.cumsum(meetings)])  # meetings of the entries above
    identity = scipy.sparse.eye_array(n, dtype=np.float32, format="csr")

    def compare(first: int, end: int) -> scipy.sparse.csr_array:
        entries, row_starts = slice(starts[first], starts[end]), before[starts[first : end + 1]]
        times = meetings[entries]
        cells = np.arange(row_starts[0], row_starts[-1]) + np.repeat(below[entries] - before[entries], times)
        minima = np.minimum(held[cells], np.repeat(weights[entries], times))
        indptr = (row_starts - row_starts[0]).astype(holders.dtype)
        terms = scipy.sparse.csr_array((minima, holders[cells], indptr), (end - first, n))
        shared = terms @ identity  # sums what is in the same place, in linear time
        shared.data = np.maximum(1 - shared.data / (2 - shared.data), 0)
        return shared

    ends = np.searchsorted(before[starts], np.arange(_MEETINGS, before[-1], _MEETINGS))
    bounds = np.unique(np.concatenate([[0], ends, [n]]))
    with ThreadPoolExecutor(_WORKERS) as pool:
        return list(pool.map(compare, bounds[:-1], bounds[1:]))


def _whole(halves: list[scipy.sparse.csr_array]) -> scipy.sparse.csr_array:
    """Return the symmetric matrix (N, N) with a diagonal of 0, and empty the list of its upper halves.

    A row is what mirrors the rows above it, the diagonal, and its own half. It is written to its place at once: sums of
    scipy would hold everything twice.
    """
    n = halves[0].shape[1]
    mirrored = sum(np.bincount(half.indices, minlength=n) for half in halves)
    own = np.concatenate([np.diff(half.indptr) for half in halves])
    indptr = np.concatenate([[0], np.cumsum(mirrored + 1 + own)])
    index = scipy.sparse.get_index_dtype(maxval=int(max(indptr[-1], n)))
    indices, data = np.empty(indptr[-1], index), np.empty(indptr[-1], np.float32)
    diagonal = indptr[:-1] + mirrored
    indices[diagonal], data[diagonal] = np.arange(n), 0
    free, first = indptr[:-1].copy(), 0
    halves.reverse()
    while halves:
        below = halves.pop().tocsc()
        above = below.tocsr()  # sorted by now
        rows = slice(first, first + above.shape[0])
        for part, starts, offset in ((above, diagonal[rows] + 1, 0), (below, free, first)):
            places = np.arange(part.nnz) + np.repeat(starts - part.indptr[:-1], np.diff(part.indptr))
            indices[places], data[places] = part.indices + offset, part.data
        free += np.diff(below.indptr)
        first = rows.stop
    return scipy.sparse.csr_array((data, indices, indptr.astype(index)), (n, n))
