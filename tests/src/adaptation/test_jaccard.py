import logging
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from src.adaptation import _neighbours, jaccard
from src.adaptation.jaccard import jaccard_distance
from tests.numeric import dense

GOLDEN = np.load(Path(__file__).parents[2] / "data" / "jaccard.npz")


def points(seed, n=90, people=7, dimensions=8):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(people, dimensions))
    return centres[random.integers(0, people, n)] + 0.6 * random.normal(size=(n, dimensions))


def slow(features, k1, k2):
    """The definition, one pair at a time."""
    x = features / np.linalg.norm(features, axis=1, keepdims=True)
    squared = np.square(x[:, None] - x).sum(axis=2)
    order = np.argsort(squared, axis=1, kind="stable")

    def mutual(i, k):
        return {j for j in order[i, :k] if i in order[j, :k]}

    encoding = np.zeros_like(squared)
    for i in range(len(x)):
        near = mutual(i, k1)
        expanded = set(near)
        for j in near:
            circle = mutual(j, int(np.around(k1 / 2)) + 1)
            if len(circle & near) > 2 / 3 * len(circle):
                expanded |= circle
        for j in expanded:
            encoding[i, j] = np.exp(-squared[i, j])
        encoding[i] /= encoding[i].sum()
    encoding = np.array([encoding[order[i, :k2]].mean(axis=0) for i in range(len(x))])
    return np.array(
        [[1 - np.minimum(a, b).sum() / np.maximum(a, b).sum() for b in encoding] for a in encoding]
    )


def test_golden_values():
    distances = jaccard_distance(GOLDEN["features"])
    assert distances.dtype == np.float32
    np.testing.assert_allclose(dense(distances)[::5], GOLDEN["k30_6"], atol=2e-6)


@pytest.mark.parametrize(("k1", "k2"), [(6, 3), (7, 1), (15, 6), (1, 1), (30, 30)])
def test_agrees_with_the_definition(k1, k2):
    x = points(k1)
    np.testing.assert_allclose(dense(jaccard_distance(3 * x, k1, k2)), slow(x, k1, k2), atol=1e-5)


def test_only_what_is_below_1_is_stored_with_the_diagonal():
    distances = jaccard_distance(points(1), 6, 3)
    expected = slow(points(1), 6, 3) < 1 - 1e-9
    assert distances.nnz == np.count_nonzero(expected) < expected.size / 2
    assert (distances.diagonal() == 0).all()
    assert abs(distances - distances.T).max() == 0
    assert scipy.sparse.csr_array((distances.data, distances.indices, distances.indptr)).has_canonical_format
    assert distances.indices.dtype == distances.indptr.dtype == np.int32


def test_copies_of_an_image_are_close_and_a_distance_of_0_is_stored():
    """Which copies are the nearest is chance, as their order is; of 40, some are not among their own nearest."""
    x = np.concatenate([np.repeat(points(2, n=3), 9, axis=0), points(3, n=20)])
    full = dense(jaccard_distance(x, 12, 3))
    for start in (0, 9, 18):
        assert full[start : start + 9, start : start + 9].max() < 0.1
    assert np.count_nonzero(full == 0) > len(x)
    assert np.isfinite(dense(jaccard_distance(np.ones((40, 4)), 5, 2))).all()


def test_blocks_do_not_change_the_result(monkeypatch):
    whole = dense(jaccard_distance(points(4), 8, 4))
    monkeypatch.setattr(jaccard, "_ROWS", 7)
    monkeypatch.setattr(jaccard, "_MEETINGS", 50)
    np.testing.assert_allclose(dense(jaccard_distance(points(4), 8, 4)), whole, atol=1e-6)


def test_many_points_are_searched_in_cells(monkeypatch, caplog):
    """All cells are looked into, and then one of them, in which there may be fewer points than neighbours."""
    x = points(5, n=600, people=30)
    whole = dense(jaccard_distance(x, 10, 4))
    for name, value in {"EXACT_UP_TO": 100, "LISTS": 12, "PROBES": 12}.items():
        monkeypatch.setattr(_neighbours, name, value)
    caplog.set_level(logging.INFO)
    np.testing.assert_allclose(dense(jaccard_distance(x, 10, 4)), whole, atol=1e-6)
    assert (
        "600 points, more than 100, are approximate: 100.0 % are found, measured on 600 points" in caplog.text
    )
    caplog.clear()
    monkeypatch.setattr(_neighbours, "PROBES", 1)
    near = dense(jaccard_distance(x, 10, 4))
    assert 10 < float(caplog.text.partition("approximate: ")[2].partition(" %")[0]) < 100
    assert np.isfinite(near).all() and (near.diagonal() == 0).all()
    few = dense(jaccard_distance(x, 100, 4))
    assert np.isfinite(few).all() and few.min() == 0 and few.max() == 1


@pytest.mark.parametrize(
    ("features", "arguments", "message"),
    [
        (np.ones((9, 2)), (10, 2), "k1 <= 9 .images., got k1=10"),
        (np.ones((9, 2)), (4, 5), "k2=5"),
        (np.ones((9, 2)), (4, 0), "k2=0"),
        (np.ones(9), (4, 2), "shape .9,."),
        (np.ones((0, 2)), (4, 2), "shape .0, 2."),
        (np.zeros((9, 2)), (4, 2), "9 of 9 features"),
        (np.full((9, 2), np.nan), (4, 2), "9 of 9 features"),
    ],
)
def test_what_has_no_neighbourhoods_is_refused(features, arguments, message):
    with pytest.raises(ValueError, match=message):
        jaccard_distance(features, *arguments)


def test_all_pairs_are_compared_without_a_word(caplog):
    caplog.set_level(logging.INFO)
    jaccard_distance(points(6), 10, 4)
    assert not caplog.text
