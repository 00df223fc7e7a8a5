import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.losses.triplet import triplet
from tests.networks import value_and_gradient

GOLDENS = np.load(Path(__file__).parents[2] / "data" / "losses.npz")
STRATEGIES = ["hard", "semi_hard", "simple"]
METRICS = ["euclidean", "cosine"]


def distance(x, y, metric):
    if metric == "euclidean":
        return np.sqrt(np.sum((x - y) ** 2))
    return 1.0 - np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y)


def reference(features, labels, margin, strategy, metric):
    """Triplet by triplet, in float64."""
    features, count = features.astype("float64"), len(labels)
    d = [[distance(features[i], features[j], metric) for j in range(count)] for i in range(count)]
    losses = []
    for a in range(count):
        positives = [d[a][i] for i in range(count) if i != a and labels[i] == labels[a]]
        negatives = [d[a][i] for i in range(count) if labels[i] != labels[a]]
        if strategy == "hard" and positives and negatives:
            losses.append(max(0.0, margin + max(positives) - min(negatives)))
        elif strategy == "simple":
            losses += [max(0.0, margin + p - n) for p, n in itertools.product(positives, negatives)]
        elif strategy == "semi_hard":
            for p in positives:
                farther = [n for n in negatives if n > p]
                if farther and margin + p - min(farther) > 0.0:
                    losses.append(margin + p - min(farther))
    return np.mean(losses) if losses else 0.0


def test_batch_hard_is_that_of_torchreid():
    loss, gradient = value_and_gradient(
        triplet,
        GOLDENS["embeddings"],
        GOLDENS["labels"],
        margin=0.3,
        strategy="hard",
        distance_metric="euclidean",
    )
    assert loss == pytest.approx(float(GOLDENS["value/triplet_batch_hard_euclidean_m0.3"]), abs=1e-6)
    np.testing.assert_allclose(gradient, GOLDENS["grad/triplet_batch_hard_euclidean_m0.3"], atol=1e-7)


@pytest.mark.parametrize(
    ("strategy", "metric", "golden"),
    [
        ("hard", "cosine", 0.505003),
        ("semi_hard", "euclidean", 0.2109211),
        ("semi_hard", "cosine", 0.2434618),
        ("simple", "euclidean", 0.1373000),
        ("simple", "cosine", 0.1276256),
    ],
)
def test_values_on_the_published_embeddings(strategy, metric, golden):
    """Computed once with the reference of this file in float64."""
    found = triplet(
        GOLDENS["embeddings"], GOLDENS["labels"], margin=0.3, strategy=strategy, distance_metric=metric
    )
    assert float(found) == pytest.approx(golden, rel=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=20, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=9), seed=st.integers(0, 999))
def test_any_batch_agrees_with_the_reference(strategy, metric, labels, seed):
    features = np.random.default_rng(seed).normal(size=(len(labels), 5)).astype("float32")
    loss, gradient = value_and_gradient(
        triplet, features, np.array(labels), margin=0.4, strategy=strategy, distance_metric=metric
    )
    assert loss == pytest.approx(reference(features, labels, 0.4, strategy, metric), abs=1e-5)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("labels", [[1, 1, 1, 1], [1, 2, 3, 4], [1]])
def test_batch_without_a_triplet_has_no_loss_and_no_gradient(strategy, metric, labels):
    features = np.random.default_rng(0).normal(size=(len(labels), 5)).astype("float32")
    loss, gradient = value_and_gradient(
        triplet, features, np.array(labels), strategy=strategy, distance_metric=metric
    )
    assert loss == 0.0
    np.testing.assert_array_equal(gradient, np.zeros_like(features))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_features_have_a_finite_gradient(strategy, metric, value):
    loss, gradient = value_and_gradient(
        triplet,
        np.full((6, 5), value, "float32"),
        np.array([0, 0, 1, 1, 2, 2]),
        strategy=strategy,
        distance_metric=metric,
    )
    assert np.isfinite(loss)
    assert np.all(np.isfinite(gradient))


def test_low_precision_features_are_compared_in_float32():
    features = np.random.default_rng(0).normal(size=(8, 16)).astype("float16")
    labels = np.repeat(np.arange(4), 2)
    loss, gradient = value_and_gradient(triplet, features, labels, distance_metric="euclidean")
    assert loss == pytest.approx(reference(features, labels, 0.3, "hard", "euclidean"), abs=1e-5)
    assert gradient.dtype == np.float16


def test_defaults_are_batch_hard_on_cosine():
    features = np.random.default_rng(3).normal(size=(8, 16)).astype("float32")
    labels = np.repeat(np.arange(4), 2)
    assert float(triplet(features, labels)) == pytest.approx(
        reference(features, labels, 0.3, "hard", "cosine")
    )


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="strategy: unknown value 'semihard', did you mean 'semi_hard'"):
        triplet(np.zeros((2, 2), "float32"), np.zeros(2), strategy="semihard")
    with pytest.raises(ValueError, match="distance_metric: unknown value 'cosin', did you mean 'cosine'"):
        triplet(np.zeros((2, 2), "float32"), np.zeros(2), distance_metric="cosin")
