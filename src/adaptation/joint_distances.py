from collections.abc import Sequence

import numpy as np
import scipy.sparse


def joint_distances(
    distances: Sequence[scipy.sparse.csr_array], present: Sequence[np.ndarray], points: np.ndarray
) -> scipy.sparse.csr_array:
    """Return the mean of several distances between points, each pair over those that know both of it.

    Args:
        distances: Symmetric (n, n) each, as `jaccard_distance` returns them: what is absent is 1.
        present: Numbers of the points that each of them is of, ascending, (n,).
        points: All those numbers, ascending (G,).

    Returns:
        Symmetric float32 (G, G) with sorted indices; what is absent is 1: pairs that no distance knows, too.
    """
    size = (len(points), len(points))
    closeness = scipy.sparse.csr_array(size, dtype=np.float32)
    known = np.zeros((len(distances), len(points)), bool)
    for number, (own, numbers) in enumerate(zip(distances, present, strict=True)):
        places = np.searchsorted(points, numbers)
        known[number, places] = True
        part = own.tocoo()
        closeness += scipy.sparse.csr_array((1 - part.data, (places[part.row], places[part.col])), size)
    closeness.sort_indices()
    rows = np.repeat(np.arange(len(points)), np.diff(closeness.indptr))
    counts = (known[:, rows] & known[:, closeness.indices]).sum(axis=0)
    mean = np.maximum(1 - closeness.data / counts, 0).astype(np.float32)
    return scipy.sparse.csr_array((mean, closeness.indices, closeness.indptr), size)


def with_part(
    distances: scipy.sparse.csr_array, places: np.ndarray, part: scipy.sparse.csr_array
) -> scipy.sparse.csr_array:
    """Return distances (G, G) in which those among some points are replaced.

    Args:
        distances: Symmetric (G, G), what is absent is 1.
        places: Of the points, ascending (n,).
        part: Their distances (n, n), likewise.

    Returns:
        As `distances`, with sorted indices.
    """
    inside = np.zeros(distances.shape[0], bool)
    inside[places] = True
    places = places.astype(distances.indices.dtype)
    old, new = distances.tocoo(), part.tocoo()
    kept = ~(inside[old.row] & inside[old.col])
    rows = np.concatenate([old.row[kept], places[new.row]])
    columns = np.concatenate([old.col[kept], places[new.col]])
    data = np.concatenate([old.data[kept], new.data])
    whole = scipy.sparse.csr_array((data, (rows, columns)), distances.shape)
    whole.sort_indices()
    return whole
