from collections.abc import Sequence

import numpy as np
import scipy.sparse


def joint_distances(
    distances: Sequence[scipy.sparse.csr_array], present: Sequence[np.ndarray], points: np.ndarray
) -> scipy.sparse.csr_array:
    """Return the mean of several distances between points, each pair over those that know both of it.

    Two people who look alike to one sensor rarely do so to another one beside it: the mean tells more than either.

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
