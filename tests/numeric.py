"""What the tests of several folders compute in NumPy."""

import numpy as np


def unit(vectors):
    """Rows (N, D) of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cosine(found, expected):
    """Mean cosine of paired rows (N, D) without what all of them have in common."""
    a, b = (unit(np.asarray(values) - np.mean(values, axis=0)) for values in (found, expected))
    return np.mean(np.sum(a * b, axis=1))


def dense(distances):
    """Sparse distances in which what is absent is 1, such as those of `jaccard_distance`, as an array."""
    full = np.ones(distances.shape)
    full[distances.tocoo().coords] = distances.data
    return full
