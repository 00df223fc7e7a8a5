from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from src.losses.cross_entropy import cross_entropy

GOLDENS = np.load(Path(__file__).parents[2] / "data" / "losses.npz")


def reference(logits, labels, smoothing):
    """The definition, row by row, in float64."""
    total = 0.0
    for row, label in zip(logits.astype("float64"), labels, strict=True):
        target = np.full(len(row), smoothing / len(row))
        target[label] += 1.0 - smoothing
        total -= target @ np.log(np.exp(row) / np.exp(row).sum())
    return total / len(labels)


def test_value_and_gradient_are_those_of_torchreid():
    embeddings = tf.constant(GOLDENS["embeddings"])
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        loss = cross_entropy(embeddings @ GOLDENS["classifier"], GOLDENS["labels"])
    assert float(loss) == pytest.approx(float(GOLDENS["value/label_smooth_ce_0.1"]), abs=1e-6)
    np.testing.assert_allclose(
        tape.gradient(loss, embeddings), GOLDENS["grad/label_smooth_ce_0.1"], atol=1e-7
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_reference(smoothing, dtype):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 5)).astype(dtype), rng.integers(0, 5, 7)
    loss = cross_entropy(logits, labels, label_smoothing=smoothing)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(reference(logits, labels, smoothing), abs=1e-5)


def test_large_logits_stay_finite():
    logits = tf.constant([[1e4, -1e4], [1e4, -1e4]])
    assert float(cross_entropy(logits, np.array([0, 1]), label_smoothing=0.0)) == pytest.approx(1e4)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing: expected a number in \[0, 1\)"):
        cross_entropy(np.zeros((2, 2), "float32"), np.zeros(2), label_smoothing=smoothing)
