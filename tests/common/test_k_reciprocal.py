import numpy as np
import pytest

from common.k_reciprocal import adjacency, expanded_k_reciprocal


def slow(neighbours, circle):
    def mutual(i, k):
        return {int(j) for j in neighbours[i, :k] if i in neighbours[j, :k]}

    expanded = []
    for i in range(len(neighbours)):
        near = mutual(i, neighbours.shape[1])
        fitting = [c for c in (mutual(j, circle) for j in near) if len(c & near) > 2 / 3 * len(c)]
        expanded.append(near.union(*fitting))
    return expanded


@pytest.mark.parametrize("circle", [1, 3, 5, 8])
@pytest.mark.parametrize("seed", range(5))
def test_circles_that_fit_in_come_along(seed, circle):
    points = np.random.default_rng(seed).normal(size=(40, 2))
    neighbours = np.argsort(np.square(points[:, None] - points).sum(axis=2), axis=1)[:, :8]
    found = expanded_k_reciprocal(neighbours, circle)
    assert [set(row.nonzero()[0].tolist()) for row in found.toarray()] == slow(neighbours, circle)


def test_a_point_that_is_named_twice_counts_once():
    twice, once = np.array([[0, 1, 0], [1, 0, 2], [2, 1, 2]]), [[0, 1], [0, 1, 2], [1, 2]]
    found = expanded_k_reciprocal(twice, 1).toarray()
    assert [row.nonzero()[0].tolist() for row in found] == once


def test_adjacency():
    found = adjacency(np.array([[0, 2], [1, 0]]), 4)
    assert found.toarray().tolist() == [[1, 0, 1, 0], [1, 1, 0, 0]]
    assert found.indices.dtype == found.indptr.dtype == np.int32
