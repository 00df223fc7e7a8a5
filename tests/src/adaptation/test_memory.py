import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from src.adaptation.contrastive import contrastive
from src.adaptation.memory import ClusterMemory


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def batch(seed, n=9, clusters=3, dimensions=5):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, dimensions)).astype("float32"), np.append(
        np.arange(clusters), random.integers(-1, clusters, n - clusters)
    )


def test_it_begins_with_the_mean_of_each_cluster():
    features, labels = batch(0)
    memory = ClusterMemory(7 * features, labels)
    expected = [unit(unit(features)[labels == c].mean(axis=0)) for c in range(3)]
    np.testing.assert_allclose(memory.centroids, expected, rtol=1e-5)
    assert memory.centroids.dtype == np.float32


@pytest.mark.parametrize("momentum", [0.0, 0.2, 1.0])
def test_each_image_in_turn_moves_its_centroid(momentum):
    features, labels = batch(1)
    memory = ClusterMemory(features, labels, momentum, hard=False)
    expected = memory.centroids.astype(float)
    new, new_labels = batch(2)
    for feature, label in zip(unit(new), new_labels, strict=True):
        if label >= 0:
            expected[label] = unit(momentum * expected[label] + (1 - momentum) * feature)
    memory.update(3 * new, new_labels)
    np.testing.assert_allclose(memory.centroids, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_least_similar_image_of_each_cluster_moves_its_centroid(seed):
    memory = ClusterMemory(*batch(seed), momentum=0.3, hard=True)
    before = memory.centroids.astype(float)
    new, labels = batch(seed + 100)
    memory.update(new, labels)
    for cluster in range(3):
        own = unit(new)[labels == cluster]
        hardest = own[np.argmin(own @ before[cluster])]
        expected = unit(0.3 * before[cluster] + 0.7 * hardest)
        np.testing.assert_allclose(memory.centroids[cluster], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hard", [False, True])
def test_clusters_that_are_not_in_the_batch_stay(hard):
    memory = ClusterMemory(*batch(3), hard=hard)
    before = memory.centroids.copy()
    memory.update(*(x[1:2] for x in batch(4)))
    assert (memory.centroids[[0, 2]] == before[[0, 2]]).all()
    assert (memory.centroids[1] != before[1]).any()
    after = memory.centroids.copy()
    memory.update(np.ones((2, 5)), np.array([-1, -1]))
    assert (memory.centroids == after).all()


@pytest.mark.parametrize(
    ("labels", "momentum", "message"),
    [
        ([0, 2], 0.2, r"without gaps, got \[0, 2\]"),
        ([-1, -1], 0.2, r"got \[-1\]"),
        ([0, 1], 1.2, "momentum must be from 0 to 1, got 1.2"),
    ],
)
def test_what_is_no_clustering_is_refused(labels, momentum, message):
    with pytest.raises(ValueError, match=message):
        ClusterMemory(np.eye(2), np.array(labels), momentum)


def reference(features, labels, centroids, clusters, temperature):
    """Image by image, proxy by proxy, in float64."""
    losses = []
    for feature, label in zip(unit(features.astype(float)), labels, strict=True):
        scores = np.exp(centroids.astype(float) @ feature / temperature)
        own = clusters == label
        if own.any():
            losses.append(np.mean([-np.log(s / (s + scores[~own].sum())) for s in scores[own]]))
    return np.mean(losses) if losses else 0.0


def value_and_gradient(features, *arguments, **keywords):
    features = tf.constant(features)
    with tf.GradientTape() as tape:
        tape.watch(features)
        value = contrastive(features, *arguments, **keywords)
    return float(value), tape.gradient(value, features).numpy()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 8),
    proxies=st.integers(1, 7),
    temperature=st.sampled_from([0.05, 0.5]),
)
def test_the_loss_agrees_with_the_definition(seed, n, proxies, temperature):
    random = np.random.default_rng(seed)
    features, labels = random.normal(size=(n, 4)).astype("float32"), random.integers(-1, 4, n)
    centroids = unit(random.normal(size=(proxies, 4))).astype("float32")
    clusters = random.integers(0, 4, proxies)
    value, gradient = value_and_gradient(features, labels, centroids, clusters, temperature)
    expected = reference(features, labels, centroids, clusters, temperature)
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert np.isfinite(gradient).all()


def test_with_a_centroid_each_it_is_cross_entropy():
    features, labels = batch(5)
    centroids = ClusterMemory(features, labels).centroids
    kept = labels >= 0
    logits = unit(features[kept]) @ centroids.T / 0.05
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(labels[kept], logits.astype("float32"))
    value, gradient = value_and_gradient(features, labels, centroids)
    assert value == pytest.approx(float(tf.reduce_mean(expected)), rel=1e-4)
    assert (gradient[~kept] == 0).all() and (np.abs(gradient[kept]).max(axis=1) > 0).all()


def test_no_image_of_a_cluster_is_no_loss():
    value, gradient = value_and_gradient(
        np.ones((2, 3), "float32"), np.array([-1, -1]), np.eye(3, dtype="float32")
    )
    assert value == 0 and (gradient == 0).all()


def test_half_precision_is_computed_in_single():
    features, labels = batch(6)
    centroids = ClusterMemory(features, labels).centroids
    half = contrastive(features.astype("float16"), labels, centroids)
    assert half.dtype == tf.float32
    assert float(half) == pytest.approx(
        float(contrastive(features.astype("float16").astype("float32"), labels, centroids)), rel=1e-6
    )


def test_a_temperature_is_above_0():
    with pytest.raises(ValueError, match="temperature must be above 0, received 0"):
        contrastive(np.ones((1, 2)), np.zeros(1, int), np.eye(2), temperature=0)


def test_descending_brings_images_to_their_clusters():
    features, labels = batch(7)
    labels = np.abs(labels)
    memory = ClusterMemory(np.eye(3, 5), np.arange(3))
    for _ in range(60):
        features = features - 0.5 * value_and_gradient(features, labels, memory.centroids)[1]
    assert (unit(features) @ memory.centroids.T).argmax(axis=1).tolist() == labels.tolist()
