"""The losses that know modalities, and the center loss."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from src.losses._centers import moved_centers
from src.losses.center_loss import center_loss
from src.losses.cosine_alignment import cosine_alignment
from src.losses.cross_modal_batch_hard import cross_modal_batch_hard
from src.losses.hetero_center import hetero_center
from tests.networks import value_and_gradient

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "data" / "cross_modal_losses.json").read_text(encoding="utf-8")
)
INPUTS, LABELS = np.array(GOLDEN["inputs"], "float32"), np.array(GOLDEN["labels"])
MODALITIES = np.repeat([0, 1], 8)
LOSSES = {loss.__name__: loss for loss in (cross_modal_batch_hard, hetero_center, cosine_alignment)}


def batch_hard_reference(features, labels, modalities, margin=0.3):
    losses = []
    for x, label, modality in zip(features, labels, modalities, strict=True):
        d = np.sqrt(((features - x) ** 2).sum(axis=1))
        positives = d[(labels == label) & (modalities != modality)]
        negatives = d[(labels != label) & (modalities != modality)]
        if len(positives) and len(negatives):
            losses.append(max(0.0, margin + positives.max() - negatives.min()))
    return np.mean(losses) if losses else 0.0


def hetero_center_reference(features, labels, modalities):
    gaps = []
    for label in set(labels):
        sides = [features[(labels == label) & (modalities == modality)] for modality in (0, 1)]
        if all(len(side) for side in sides):
            gaps.append(np.sum((sides[0].mean(axis=0) - sides[1].mean(axis=0)) ** 2))
    return np.mean(gaps) if gaps else 0.0


def cosine_alignment_reference(features, labels, modalities):
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    pairs = [
        1.0 - units[i] @ units[j]
        for i in np.flatnonzero(modalities == 0)
        for j in np.flatnonzero(modalities == 1)
        if labels[i] == labels[j]
    ]
    return np.mean(pairs) if pairs else 0.0


REFERENCES = {
    "cross_modal_batch_hard": batch_hard_reference,
    "hetero_center": hetero_center_reference,
    "cosine_alignment": cosine_alignment_reference,
}


@pytest.mark.parametrize(
    ("name", "golden"),
    [("cross_modal_batch_hard", 2.932367), ("hetero_center", 72.415263), ("cosine_alignment", 0.847225)],
)
def test_values_on_the_published_batch(name, golden):
    """Computed once with the references of this file in float64."""
    assert float(LOSSES[name](INPUTS, LABELS, MODALITIES)) == pytest.approx(golden, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=25, deadline=None)
@given(
    batch=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=10),
    seed=st.integers(0, 999),
)
def test_any_batch_agrees_with_the_reference(name, batch, seed):
    labels, modalities = np.array(batch).T
    features = np.random.default_rng(seed).normal(size=(len(batch), 5)).astype("float32")
    value, gradient = value_and_gradient(LOSSES[name], features, labels, modalities)
    expected = REFERENCES[name](features.astype("float64"), labels, modalities)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("labels", "modalities"),
    [([0, 0, 1, 1], [0, 0, 0, 0]), ([0, 1, 2, 3], [0, 0, 1, 1]), ([0], [1])],
    ids=["one modality", "nobody twice", "one image"],
)
def test_batch_without_a_valid_pair_has_no_loss_and_no_gradient(name, labels, modalities):
    features = INPUTS[: len(labels)]
    value, gradient = value_and_gradient(LOSSES[name], features, np.array(labels), np.array(modalities))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros_like(features))


def test_batch_hard_without_a_negative_of_the_other_modality_has_no_loss():
    value, gradient = value_and_gradient(
        cross_modal_batch_hard, INPUTS[:3], np.array([0, 0, 1]), np.array([0, 1, 0]), margin=100.0
    )
    # The thermal image has a negative, visible ones have none.
    assert value == pytest.approx(
        100 + np.linalg.norm(INPUTS[1] - INPUTS[0]) - np.linalg.norm(INPUTS[1] - INPUTS[2]), rel=1e-5
    )
    assert np.any(gradient[1])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1e-9, 1.0, 1e6, 1e9])
def test_finite_at_any_scale(name, scale):
    value, gradient = value_and_gradient(LOSSES[name], np.float32(scale) * INPUTS, LABELS, MODALITIES)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", LOSSES)
def test_low_precision_features_are_compared_in_float32(name):
    half = INPUTS.astype("float16")
    value, gradient = value_and_gradient(LOSSES[name], half, LABELS, MODALITIES)
    assert value == pytest.approx(REFERENCES[name](half.astype("float64"), LABELS, MODALITIES), rel=1e-4)
    assert gradient.dtype == np.float16


def test_swapping_the_modalities_changes_nothing():
    for loss in LOSSES.values():
        one, other = loss(INPUTS, LABELS, MODALITIES), loss(INPUTS, LABELS, 1 - MODALITIES)
        assert float(one) == pytest.approx(float(other), rel=1e-6)


# ------------------------------------------------------------------------------------------------------------
# Center loss


def test_center_loss_pulls_features_to_their_own_centers():
    centers = np.random.default_rng(1).normal(size=(5, 16)).astype("float32")
    value, gradient = value_and_gradient(center_loss, INPUTS, LABELS, centers)
    away = INPUTS.astype("float64") - centers[LABELS]
    assert value == pytest.approx(np.mean(np.sum(away**2, axis=1)), rel=1e-5)
    np.testing.assert_allclose(gradient, 2 * away / len(away), rtol=1e-5, atol=1e-7)


def test_center_loss_on_the_published_batch():
    """Computed once as the mean square of the distances, in float64."""
    centers = np.eye(5, 16, dtype="float32")
    assert float(center_loss(INPUTS, LABELS, centers)) == pytest.approx(76.334534, rel=1e-6)


def test_centers_are_constants_of_the_loss():
    centers = tf.Variable(np.zeros((5, 16), "float32"))
    with tf.GradientTape() as tape:
        value = center_loss(INPUTS, LABELS, centers)
    assert tape.gradient(value, centers) is None


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e9, 1e25])
def test_center_loss_is_finite_at_any_scale(scale):
    value, gradient = value_and_gradient(
        center_loss, np.float32(scale) * INPUTS, LABELS, np.zeros((4, 16), "float32")
    )
    assert np.isfinite(value) and value <= 1e12
    assert np.all(np.isfinite(gradient))


@settings(max_examples=25, deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=9), seed=st.integers(0, 999))
def test_centers_move_as_the_paper_says(labels, seed):
    generator, labels = np.random.default_rng(seed), np.array(labels)
    features = generator.normal(size=(len(labels), 3)).astype("float32")
    centers = generator.normal(size=(5, 3)).astype("float32")
    expected = centers.astype("float64")
    for identity in range(5):
        members = features[labels == identity]
        delta = np.sum(centers[identity] - members, axis=0) / (1 + len(members))
        expected[identity] = centers[identity] - 0.5 * delta
    np.testing.assert_allclose(moved_centers(centers, features, labels), expected, atol=1e-5)


def test_centers_arrive_at_the_means():
    centers = np.zeros((4, 16), "float32")
    for _ in range(60):
        centers = moved_centers(centers, INPUTS, LABELS)
    means = [INPUTS[identity == LABELS].mean(axis=0) for identity in range(4)]
    np.testing.assert_allclose(centers, means, atol=1e-4)
