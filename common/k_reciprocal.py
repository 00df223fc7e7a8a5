"""Which points are neighbours of one another, in sparse matrices."""

import numpy as np
import scipy.sparse


def adjacency(neighbours: np.ndarray, points: int) -> scipy.sparse.csr_array:
    """Return the matrix (N, points) that is 1 where a column is among a row's neighbours (N, k)."""
    n, k = neighbours.shape
    index = scipy.sparse.get_index_dtype(maxval=max(n * k, points))  # 32 bits, where they do, halve the work
    indices, indptr = neighbours.ravel().astype(index), np.arange(0, n * k + 1, k, dtype=index)
    return scipy.sparse.csr_array((np.ones(n * k, np.float32), indices, indptr), shape=(n, points))


def expanded_k_reciprocal(neighbours: np.ndarray, circle: int) -> scipy.sparse.csr_array:
    """Return each point's k-reciprocal neighbours with the closer circles of those that fit in (Zhong et al.,
    "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017, section 3.1).

    Args:
        neighbours: The k nearest of each point, itself among them, (N, k).
        circle: How many of them make the closer circle of a point.

    Returns:
        A matrix (N, N), not 0 in the columns of a row's neighbours.
    """
    mutual = _mutual(neighbours)
    # A neighbour brings its own closer circle along if more than two thirds of that are neighbours already.
    circles = _mutual(neighbours[:, :circle])
    shared = (mutual @ circles.T).multiply(mutual).tocsr()
    fits = shared.data > 2 / 3 * circles.sum(axis=1)[shared.indices]
    fitting = scipy.sparse.csr_array((fits.astype(np.float32), shared.indices, shared.indptr), shared.shape)
    fitting.eliminate_zeros()
    return (mutual + fitting @ circles).tocsr()


def _mutual(neighbours: np.ndarray) -> scipy.sparse.csr_array:
    """Return 1 where two points are among the nearest of one another: (N, N)."""
    near = adjacency(neighbours, len(neighbours))
    near.sum_duplicates()
    near.data[:] = 1  # of a point, too, that is named twice
    return near.multiply(near.T).tocsr()
