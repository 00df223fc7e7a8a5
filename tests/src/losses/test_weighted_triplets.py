"""The two losses on softly mined distances: `weighted_regularized_triplet` and `channel_augmented_joint`."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from src.losses.channel_augmented_joint import channel_augmented_joint
from src.losses.triplet import triplet
from src.losses.weighted_regularized_triplet import weighted_regularized_triplet
from tests.networks import value_and_gradient

DATA = Path(__file__).parents[2] / "data"
SINGLE = np.load(DATA / "losses.npz")
CROSS = json.loads((DATA / "cross_modal_losses.json").read_text(encoding="utf-8"))
INPUTS, LABELS = np.array(CROSS["inputs"], "float32"), np.array(CROSS["labels"])
UNIT = INPUTS / np.linalg.norm(INPUTS, axis=1, keepdims=True)
LOSSES = {"wrt": weighted_regularized_triplet, "adp_square": channel_augmented_joint}


def reference(name, features, labels, alpha=1.0, gamma=1.0, published=False):
    """Anchor by anchor, in float64; `published` has the weights of the published code."""
    features, losses = features.astype("float64"), []
    for anchor, label in enumerate(labels):
        d = np.sqrt(((features - features[anchor]) ** 2).sum(axis=1))
        positives, negatives = d[labels == label], d[labels != label]
        if len(positives) < 2 or not len(negatives):
            continue
        far = np.exp(alpha * (positives - positives.max()))
        near = np.exp(-alpha * negatives) if published else np.exp(-alpha * (negatives - negatives.min()))
        epsilon = 1e-6 if published else 0.0
        difference = far @ positives / (far.sum() + epsilon) - near @ negatives / (near.sum() + epsilon)
        if name == "adp_square":
            difference = gamma * difference * abs(difference)
        losses.append(np.logaddexp(0.0, difference))
    return np.mean(losses) if losses else 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_values_on_normalized_features_are_the_published_ones(name):
    assert float(LOSSES[name](UNIT, LABELS)) == pytest.approx(CROSS["l2norm"][name], abs=1e-5)


@pytest.mark.parametrize(("name", "gap"), [("wrt", 0.07518), ("adp_square", 0.36298)])
def test_values_on_raw_features_differ_by_the_published_underflow_only(name, gap):
    """At distances of 10 the published weights, exp(-d) / (sum + 1e-6), no longer sum to 1, which makes them higher."""
    assert reference(name, INPUTS, LABELS, published=True) == pytest.approx(CROSS["raw"][name], abs=1e-5)
    expected = reference(name, INPUTS, LABELS)
    assert float(LOSSES[name](INPUTS, LABELS)) == pytest.approx(expected, abs=1e-5)
    assert CROSS["raw"][name] - expected == pytest.approx(gap, abs=1e-5)


def test_value_and_gradient_are_those_of_agw():
    labels, embeddings = SINGLE["labels"], SINGLE["embeddings"]
    value, gradient = value_and_gradient(weighted_regularized_triplet, embeddings, labels)
    published = reference("wrt", embeddings, labels, published=True)
    assert published == pytest.approx(float(SINGLE["value/weighted_regularized_triplet"]), abs=1e-5)
    assert value == pytest.approx(reference("wrt", embeddings, labels), abs=1e-5)
    assert value == pytest.approx(published, abs=3e-5)
    np.testing.assert_allclose(gradient, SINGLE["grad/weighted_regularized_triplet"], atol=2e-6)

    def normalized(features, labels):
        return weighted_regularized_triplet(tf.math.l2_normalize(features, axis=1), labels)

    value, gradient = value_and_gradient(normalized, embeddings, labels)
    assert value == pytest.approx(float(SINGLE["value/weighted_regularized_triplet_l2norm"]), abs=1e-5)
    np.testing.assert_allclose(gradient, SINGLE["grad/weighted_regularized_triplet_l2norm"], atol=2e-6)


@pytest.mark.parametrize("features", ["raw", "l2norm"])
def test_the_published_batch_hard_loss_is_triplet_on_the_batch_of_both_modalities(features):
    vectors = INPUTS if features == "raw" else UNIT
    found = triplet(vectors, LABELS, margin=0.3, strategy="hard", distance_metric="euclidean")
    assert float(found) == pytest.approx(CROSS[features]["batch_hard_m0.3"], abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    seed=st.integers(0, 999),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_any_batch_agrees_with_the_reference(name, labels, seed, scale):
    labels = np.array(labels)
    features = (scale * np.random.default_rng(seed).normal(size=(len(labels), 5))).astype("float32")
    value, gradient = value_and_gradient(LOSSES[name], features, labels)
    assert value == pytest.approx(reference(name, features, labels), rel=1e-4, abs=1e-5)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_alpha_sharpens_the_weights_and_gamma_scales_the_square(alpha, gamma):
    found = channel_augmented_joint(INPUTS, LABELS, alpha=alpha, gamma=gamma)
    assert float(found) == pytest.approx(reference("adp_square", INPUTS, LABELS, alpha, gamma), rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1e-6, 1e2, 1e6, 1e9])
def test_finite_at_any_scale_with_a_gradient_where_there_is_a_loss(name, scale):
    """The published code has weights of 0 and an infinite loss from distances of about 88 on."""
    value, gradient = value_and_gradient(LOSSES[name], np.float32(scale) * INPUTS, LABELS)
    assert np.isfinite(value) and value > 0
    assert np.all(np.isfinite(gradient))
    # The square has no slope where all distances are equally small.
    assert np.abs(gradient).max() > (1e-3 if name == "wrt" else 1e-9)


def test_finite_where_the_published_code_is_not():
    features = np.array([[0.0], [300.0], [1.0], [301.0]], "float32")
    assert float(weighted_regularized_triplet(features, np.array([0, 0, 1, 1]))) == pytest.approx(299.0)


@pytest.mark.parametrize(("alpha", "gamma"), [(-1.0, 1.0), (1.0, 0.0)])
def test_factors_out_of_range_are_refused(alpha, gamma):
    with pytest.raises(ValueError, match=f"received alpha {alpha} and gamma {gamma}"):
        channel_augmented_joint(INPUTS, LABELS, alpha=alpha, gamma=gamma)
