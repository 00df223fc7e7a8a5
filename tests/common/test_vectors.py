import numpy as np

from common.vectors import unit


def test_vectors_get_length_1_and_zeros_stay():
    found = unit(np.array([[3, 4], [0, 0], [-2, 0]], np.float32))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [-1, 0]])
    assert found.dtype == np.float32
    np.testing.assert_allclose(unit(np.array([0.0, -5.0])), [0, -1])
