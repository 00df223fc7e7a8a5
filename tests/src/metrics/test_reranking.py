from pathlib import Path

import numpy as np
import pytest

from src.metrics import _neighbours
from src.metrics.reranking import (
    average_query_expansion,
    k_reciprocal_distances,
    neighbor_feature_centralization,
)
from src.registries import RERANKING
from tests.numeric import unit

DATA = Path(__file__).parents[2] / "data"
GOLDEN = np.load(DATA / "retrieval.npz")
NFC = np.load(DATA / "nfc.npz")


def points(seed, n=60, people=6, dimensions=8):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(people, dimensions))
    return centres[random.integers(0, people, n)] + 0.6 * random.normal(size=(n, dimensions))


def slow_k_reciprocal(query, gallery, k1, k2, lambda_value):
    """The paper's steps, one point at a time, with dense matrices."""
    x = unit(np.concatenate([query, gallery]))
    distances = np.square(np.square(x[:, None] - x).sum(axis=2))
    distances /= distances.max(axis=1, keepdims=True)
    order = np.argsort(distances, axis=1, kind="stable")

    def mutual(i, k):
        return {j for j in order[i, : k + 1] if i in order[j, : k + 1]}

    encoding = np.zeros_like(distances)
    for i in range(len(x)):
        near = mutual(i, k1)
        expanded = set(near)
        for j in near:
            circle = mutual(j, int(np.around(k1 / 2)))
            if len(circle & near) > 2 / 3 * len(circle):
                expanded |= circle
        for j in expanded:
            encoding[i, j] = np.exp(-distances[i, j])
        encoding[i] /= encoding[i].sum()
    encoding = np.array([encoding[order[i, :k2]].mean(axis=0) for i in range(len(x))])
    result = np.zeros((len(query), len(gallery)))
    for i in range(len(query)):
        for j in range(len(gallery)):
            a, b = encoding[i], encoding[len(query) + j]
            jaccard = 1 - np.minimum(a, b).sum() / np.maximum(a, b).sum()
            result[i, j] = (1 - lambda_value) * jaccard + lambda_value * distances[i, len(query) + j]
    return result


def test_every_re_ranking_is_tested_here():
    tested = (average_query_expansion, k_reciprocal_distances, neighbor_feature_centralization)
    assert {RERANKING.get(name) for name in RERANKING} == set(tested)


def test_golden_values_of_k_reciprocal_re_ranking():
    distances = k_reciprocal_distances(GOLDEN["query"], GOLDEN["gallery"])
    assert distances.dtype == np.float32
    np.testing.assert_allclose(distances, GOLDEN["rerank_k20_6_03_sqeuclidean"], atol=1e-5)


@pytest.mark.parametrize(
    ("k1", "k2", "lambda_value"), [(6, 3, 0.3), (7, 1, 0.0), (5, 2, 1.0), (15, 6, 0.5), (1, 2, 0.3)]
)
def test_k_reciprocal_agrees_with_the_definition(k1, k2, lambda_value):
    x = points(k1)
    arguments = (x[:15], x[15:], k1, k2, lambda_value)
    np.testing.assert_allclose(k_reciprocal_distances(*arguments), slow_k_reciprocal(*arguments), atol=1e-5)


def test_blocks_do_not_change_the_result(monkeypatch):
    x = points(1)
    whole = k_reciprocal_distances(x[:15], x[15:], k1=6, k2=3)
    monkeypatch.setattr(_neighbours, "_ROWS", 7)
    np.testing.assert_allclose(k_reciprocal_distances(x[:15], x[15:], k1=6, k2=3), whole, atol=1e-6)


def test_duplicates_and_zeros_do_no_harm():
    x = np.concatenate([np.repeat(points(2, n=5), 8, axis=0), np.zeros((2, 8))])
    assert np.isfinite(k_reciprocal_distances(x[:10], x[10:], k1=6, k2=3)).all()
    assert np.isfinite(neighbor_feature_centralization(x)).all()
    assert np.isfinite(k_reciprocal_distances(np.ones((3, 4)), np.ones((9, 4)), k1=3, k2=2)).all()


def slow_expansion(query, gallery, alpha):
    expanded = []
    for q in query:
        closest = sorted(gallery, key=lambda g, q=q: -(q @ g))[:5]
        expanded.append(q + sum(max(q @ g, 0) ** alpha * g for g in closest))
    return unit(np.array(expanded))


@pytest.mark.parametrize("alpha", [0, 1, 3])
def test_query_expansion_agrees_with_the_definition(alpha):
    query, gallery = unit(points(3, n=12)), unit(points(4, n=40))
    expanded = average_query_expansion(5 * query, 7 * gallery, k=5, alpha=alpha)
    np.testing.assert_allclose(expanded, slow_expansion(query, gallery, alpha), atol=1e-6)


def test_golden_values_of_query_expansion():
    """Computed once with the reference above in float64."""
    expanded = average_query_expansion(GOLDEN["query"], GOLDEN["gallery"])
    golden = [[0.0878730, 0.4284012, -0.4169912], [0.0083872, 0.2400781, 0.0628315]]
    np.testing.assert_allclose(expanded[[0, 149], :3], golden, atol=1e-5)


def test_golden_values_of_neighbour_feature_centralisation():
    features = neighbor_feature_centralization(NFC["features"])
    np.testing.assert_allclose(features, NFC["nfc_k2_2"], atol=1e-5)


@pytest.mark.parametrize(("k1", "k2"), [(2, 2), (1, 4), (5, 2)])
def test_neighbour_feature_centralisation_agrees_with_the_definition(k1, k2):
    x = unit(points(5))
    order = [[j for j in np.argsort(-(x @ a), kind="stable") if j != i] for i, a in enumerate(x)]
    expected = [
        a + sum((x[j] for j in order[i][:k1] if i in order[j][:k2]), np.zeros(8)) for i, a in enumerate(x)
    ]
    np.testing.assert_allclose(
        neighbor_feature_centralization(3 * x, k1, k2), unit(np.array(expected)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: k_reciprocal_distances(x[:10], x[10:], k1=60), "k1 < 60"),
        (lambda x: k_reciprocal_distances(x[:10], x[10:], k1=5, k2=7), "k2 <= k1"),
        (lambda x: k_reciprocal_distances(x[:10], x[10:], lambda_value=1.5), "lambda_value=1.5"),
        (lambda x: k_reciprocal_distances(x[:10], x[10:, :4]), "query has 8 dimensions, gallery 4"),
        (lambda x: k_reciprocal_distances(x[:0], x), "query must hold embeddings"),
        (lambda x: average_query_expansion(x, x[:3]), "1 <= k <= 3"),
        (
            lambda x: average_query_expansion(x, np.full_like(x, np.nan)),
            "60 of 60 gallery embeddings hold NaN",
        ),
        (lambda x: average_query_expansion(x, x, alpha=-1), "alpha=-1"),
        (lambda x: neighbor_feature_centralization(x[:2]), "k1 and k2 in 1..1"),
        (lambda x: neighbor_feature_centralization(x, k1=0), "got 0 and 2"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(points(0))
