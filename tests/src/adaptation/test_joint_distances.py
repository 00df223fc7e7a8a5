"""Distances of two sensors together, against a loop over all pairs."""

import numpy as np
import pytest

from src.adaptation.jaccard import jaccard_distance
from src.adaptation.joint_distances import joint_distances, with_part
from tests.numeric import dense


def test_the_mean_is_over_the_sensors_that_know_both_points():
    random = np.random.default_rng(0)
    points = np.array([2, 3, 5, 7, 8, 11, 12, 20, 21, 30, 31, 40])
    present = [points[[0, 1, 2, 4, 5, 6, 8, 9, 10]], points[[1, 2, 3, 4, 6, 7, 9, 11]]]
    distances = [jaccard_distance(random.normal(size=(len(own), 3)), k1=5, k2=2) for own in present]
    joint = joint_distances(distances, present, points)
    assert joint.dtype == np.float32 and joint.has_sorted_indices
    found, parts = dense(joint), [dense(part) for part in distances]
    for i, a in enumerate(points):
        for j, b in enumerate(points):
            known = [
                full[np.flatnonzero(own == a)[0], np.flatnonzero(own == b)[0]]
                for own, full in zip(present, parts, strict=True)
                if a in own and b in own
            ]
            assert found[i, j] == pytest.approx(np.mean(known) if known else 1, abs=1e-6)
    assert found[0, 3] == 1, "one sensor knows the first, the other one the second"
    assert (joint.diagonal() == 0).all() and (found == found.T).all()


def test_one_sensor_gives_its_own_distances():
    own = jaccard_distance(np.random.default_rng(1).normal(size=(20, 4)), k1=6, k2=2)
    joint = joint_distances([own], [np.arange(20)], np.arange(20))
    np.testing.assert_allclose(dense(joint), dense(own), atol=1e-6)


def test_distances_among_some_points_are_replaced():
    random = np.random.default_rng(2)
    whole, part = (jaccard_distance(random.normal(size=(n, 3)), k1=5, k2=2) for n in (14, 8))
    places = np.array([0, 1, 3, 4, 8, 9, 12, 13])
    expected = dense(whole)
    expected[np.ix_(places, places)] = dense(part)
    found = with_part(whole, places, part)
    assert found.dtype == np.float32 and found.has_sorted_indices
    np.testing.assert_array_equal(dense(found), expected)
    assert (found.diagonal() == 0).all()
