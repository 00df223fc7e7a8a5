"""Vectors as rows of arrays."""

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
    """Divide vectors by their length; one of zeros stays as it is.

    Args:
        vectors: Floating point (..., D).

    Returns:
        The same shape and type.
    """
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    # Nothing is divided by 0; a length below is that of rounding errors.
    divided: np.ndarray = vectors / np.maximum(lengths, 1e-12)
    return divided
