"""The losses of IDKL, each beside a reference that goes image by image in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from src.losses._divergences import symmetric_divergence
from src.losses.branch_semantics import branch_semantics
from src.losses.branch_structure import branch_structure
from src.losses.modality_classification import modality_classification
from src.losses.modality_confusion import modality_confusion
from src.losses.modality_semantics import modality_semantics
from src.losses.modality_structure import modality_structure
from src.losses.purification import purification

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "data" / "cross_modal_losses.json").read_text(encoding="utf-8")
)
INPUTS, LABELS = np.array(GOLDEN["inputs"], "float32"), np.tile(np.repeat(range(4), 2), 2)
MODALITIES = np.repeat([0, 1], 8)
CLASSES, WIDTH = 4, 5


def softmax(scores):
    values = np.exp(scores - np.max(scores))
    return values / values.sum()


def divergence(first, second):
    p, q = softmax(np.asarray(first)), softmax(np.asarray(second))
    return np.sum(p * np.log(p / q)) + np.sum(q * np.log(q / p))


def cosine_distance(a, b):
    lengths = [max(np.linalg.norm(x), 1e-6) for x in (a, b)]
    return 1.0 - a @ b / lengths[0] / lengths[1]


def euclidean_distance(a, b):
    return np.linalg.norm(a - b)


DISTANCES = {"cosine": cosine_distance, "euclidean": euclidean_distance}


def centers_of(features, labels, modalities):
    """Identity in both modalities to its visible and its thermal center."""
    found = {}
    for label in set(labels):
        sides = [features[(labels == label) & (modalities == modality)] for modality in (0, 1)]
        if all(len(side) for side in sides):
            found[label] = [side.mean(axis=0) for side in sides]
    return found


def modality_structure_reference(features, labels, modalities, temperature=0.1, metric="cosine"):
    centers, losses = centers_of(features, labels, modalities), []
    for label in labels:
        others = [other for other in labels if other != label and other in centers]
        if label not in centers or not others:
            continue

        def row(own, other, label=label, others=others):
            return [-DISTANCES[metric](centers[label][own], centers[k][other]) / temperature for k in others]

        pairs = ((row(0, 0), row(1, 1)), (row(0, 0), row(0, 1)), (row(1, 1), row(1, 0)))
        losses.append(sum(divergence(*pair) for pair in pairs))
    return np.mean(losses) if losses else 0.0


def branch_structure_reference(features, specific, modalities, temperature=0.1, metric="cosine"):
    losses = []
    for i in range(len(features)):
        others = [j for j in range(len(features)) if j != i and modalities[j] == modalities[i]]
        if others:
            rows = [
                [-DISTANCES[metric](x[i], x[j]) / temperature for j in others] for x in (features, specific)
            ]
            losses.append(divergence(*rows))
    return np.mean(losses) if losses else 0.0


def modality_semantics_reference(logits, labels, modalities):
    found = [
        divergence(logits[i], logits[j])
        for i in range(len(labels))
        for j in range(len(labels))
        if labels[i] == labels[j] and modalities[i] != modalities[j]
    ]
    return np.mean(found) if found else 0.0


def entropy(scores):
    p = softmax(scores)
    return -np.sum(p * np.log(p))


def purification_reference(map_logits, normed, labels, modalities):
    lost = [np.exp(max(0.0, entropy(after) - entropy(before))) - 1 for before, after in map_logits]
    told = [
        -np.log(softmax(one)[label]) for pair, label in zip(map_logits, labels, strict=True) for one in pair
    ]
    gaps = []
    before, after = (centers_of(normed[:, n], labels, modalities) for n in (0, 1))
    for label in labels:
        if label in before:
            gaps.append(max(0.0, cosine_distance(*after[label]) - cosine_distance(*before[label])))
    return np.mean(lost) + (np.mean(gaps) if gaps else 0.0) + 2 * np.mean(told)


def branch_semantics_reference(logits, further):
    return np.mean([divergence(x, y) for x, y in zip(logits, further, strict=True)])


def classification_reference(logits, modalities):
    return np.mean([-np.log(softmax(row)[m]) for row, m in zip(logits, modalities, strict=True)])


def batch(seed, labels, modalities):
    """Arguments of each loss and of its reference."""
    random = np.random.default_rng(seed)
    count = len(labels)

    def draw(*shape):
        return random.normal(size=(count, *shape)).astype("float32")

    features, specific = draw(WIDTH), draw(WIDTH)
    logits, further = draw(CLASSES), draw(CLASSES)
    return {
        modality_structure: ((features, labels, modalities), modality_structure_reference),
        branch_structure: ((features, specific, modalities), branch_structure_reference),
        modality_semantics: ((logits, labels, modalities), modality_semantics_reference),
        branch_semantics: ((logits, further), branch_semantics_reference),
        purification: ((draw(2, CLASSES), draw(2, WIDTH), labels, modalities), purification_reference),
    }


LOSSES = list(batch(0, np.array([0]), np.array([0])))


def value_and_gradients(loss, arguments, **keywords):
    """The value, and the gradients with respect to the floating arguments."""
    tensors = [tf.constant(argument) for argument in arguments]
    floating = [tensor for tensor in tensors if tensor.dtype.is_floating]
    with tf.GradientTape() as tape:
        tape.watch(floating)
        value = loss(*tensors, **keywords)
    gradients = tape.gradient(value, floating, unconnected_gradients="zero")
    return float(value), [gradient.numpy() for gradient in gradients]


def doubled(arguments):
    return [np.asarray(a, "float64") if np.asarray(a).dtype.kind == "f" else a for a in arguments]


@pytest.mark.parametrize(
    ("loss", "arguments", "golden"),
    [
        (modality_structure, (INPUTS, LABELS, MODALITIES), 2.540013),
        (branch_structure, (INPUTS, INPUTS**2, MODALITIES), 3.374937),
        (modality_semantics, (INPUTS[:, :4], LABELS, MODALITIES), 4.010207),
        (branch_semantics, (INPUTS[:, :4], INPUTS[:, 4:8]), 4.414871),
        (
            purification,
            (INPUTS[:, :8].reshape(16, 2, 4), INPUTS.reshape(16, 2, 8), LABELS, MODALITIES),
            4.914991,
        ),
        (modality_classification, (INPUTS[:, :2], MODALITIES), 1.207359),
        (modality_confusion, (INPUTS[:, 2:4], MODALITIES), 1.384298),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_values_on_the_published_batch(loss, arguments, golden):
    """Computed once with the references of this file in float64."""
    assert float(loss(*arguments)) == pytest.approx(golden, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=9),
    seed=st.integers(0, 999),
)
def test_any_batch_agrees_with_the_reference(loss, rows, seed):
    labels, modalities = np.array(rows).T
    arguments, reference = batch(seed, labels, modalities)[loss]
    value, gradients = value_and_gradients(loss, arguments)
    assert value == pytest.approx(reference(*doubled(arguments)), rel=1e-4, abs=1e-5)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


@pytest.mark.parametrize("metric", DISTANCES)
def test_structure_follows_temperature_and_distance(metric):
    features, specific = INPUTS, 0.3 * INPUTS**2
    for loss, reference, arguments in (
        (modality_structure, modality_structure_reference, (features, LABELS, MODALITIES)),
        (branch_structure, branch_structure_reference, (features, specific, MODALITIES)),
    ):
        given_arguments = {"temperature": 2.0, "distance_metric": metric}
        expected = reference(*doubled(arguments), 2.0, metric)
        assert expected > 0.01
        assert float(loss(*arguments, **given_arguments)) == pytest.approx(expected, rel=1e-4)


def test_what_is_near_counts_and_not_what_is_far():
    """Moving the nearest neighbour changes the loss more than moving the farthest by as much."""
    line = np.array([[0.0], [1.0], [5.0], [20.0]], "float32")
    none = np.zeros(4, int)
    moved = {name: line.copy() for name in ("near", "far")}
    moved["near"][1] += 0.5
    moved["far"][3] += 0.5
    losses = {
        name: float(branch_structure(line, other, none, temperature=1.0, distance_metric="euclidean"))
        for name, other in moved.items()
    }
    assert losses["near"] > 10 * losses["far"]


@pytest.mark.parametrize(
    ("loss", "arguments"),
    [
        (modality_structure, (INPUTS, LABELS, np.zeros(16, int))),
        (modality_structure, (INPUTS, np.zeros(16, int), MODALITIES)),
        (branch_structure, (INPUTS[:2], INPUTS[2:4], np.array([0, 1]))),
        (modality_semantics, (INPUTS, np.arange(16), MODALITIES)),
        (branch_semantics, (INPUTS, INPUTS)),
    ],
    ids=["one modality", "one identity", "nobody else", "nobody twice", "equal branches"],
)
def test_nothing_to_align_is_no_loss_and_no_gradient(loss, arguments):
    value, gradients = value_and_gradients(loss, arguments)
    assert value == pytest.approx(0.0, abs=1e-6)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, np.zeros_like(gradient), atol=1e-6)


def test_between_modalities_neither_order_nor_their_names_matter():
    features = INPUTS.copy()
    features[8:] = features[:8]
    labels = np.tile(LABELS[:8], 2)
    assert float(modality_structure(features, labels, MODALITIES)) == pytest.approx(0.0, abs=1e-5)
    assert float(modality_semantics(features, labels, MODALITIES)) > 0.1  # images of one identity differ
    order = np.random.default_rng(0).permutation(16)
    for loss in (modality_structure, modality_semantics):
        one = loss(INPUTS, LABELS, MODALITIES)
        for other in (
            loss(INPUTS[order], LABELS[order], MODALITIES[order]),
            loss(INPUTS, LABELS, 1 - MODALITIES),
        ):
            assert float(one) == pytest.approx(float(other), rel=1e-4)


@pytest.mark.parametrize("loss", [branch_structure, branch_semantics])
def test_the_specific_branch_may_only_teach(loss):
    more = (MODALITIES,) if loss is branch_structure else ()
    arguments = (INPUTS, INPUTS**2, *more)
    mutual, (own, other) = value_and_gradients(loss, arguments)
    taught, (own_again, none) = value_and_gradients(loss, arguments, stop_gradient=True)
    assert mutual == taught and np.any(other) and not np.any(none)
    np.testing.assert_array_equal(own, own_again)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e3, 1e9])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_finite_at_any_scale(loss, scale):
    arguments, _ = batch(3, LABELS, MODALITIES)[loss]
    scaled = [np.float32(scale) * a if a.dtype.kind == "f" else a for a in arguments]
    value, gradients = value_and_gradients(loss, scaled)
    assert np.isfinite(value) and all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_a_mask_that_hides_people_or_shows_the_modality_costs():
    sharp = np.zeros((16, CLASSES), "float32")
    sharp[np.arange(16), LABELS % CLASSES] = 6.0
    normed = np.ones((16, 2, 2), "float32")
    good = float(purification(np.stack([sharp, sharp], 1), normed, LABELS % CLASSES, MODALITIES))
    blurred = np.stack([sharp, 0.3 * sharp], 1)
    assert float(purification(blurred, normed, LABELS % CLASSES, MODALITIES)) > good + 0.5
    halved = normed * np.array([1.0, 0.5], "float32")[:, None]
    assert float(
        purification(np.stack([sharp, sharp], 1), halved, LABELS % CLASSES, MODALITIES)
    ) == pytest.approx(good, abs=1e-5)
    shown = normed.copy()
    shown[8:, 1, 0] = -1.0
    assert float(purification(np.stack([sharp, sharp], 1), shown, LABELS % CLASSES, MODALITIES)) > good + 0.5


@pytest.mark.parametrize("loss", [modality_classification, modality_confusion])
def test_modalities_are_classes(loss):
    logits = np.random.default_rng(0).normal(size=(16, 2)).astype("float32")
    expected = classification_reference(logits.astype("float64"), MODALITIES)
    assert float(loss(logits, MODALITIES)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(np.zeros((16, 2), "float32"), MODALITIES)) == pytest.approx(np.log(2), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature: expected more than 0, received 0.0"),
        ({"distance_metric": "cosin"}, "distance_metric: unknown value 'cosin', did you mean 'cosine'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    for loss, given_arguments in (
        (modality_structure, (INPUTS, LABELS, MODALITIES)),
        (branch_structure, (INPUTS, INPUTS, MODALITIES)),
    ):
        with pytest.raises(ValueError, match=message):
            loss(*given_arguments, **arguments)


def test_an_empty_mask_is_no_divergence():
    none = np.zeros((2, 3), bool)
    np.testing.assert_array_equal(
        symmetric_divergence(np.eye(2, 3, dtype="float32"), np.zeros((2, 3), "float32"), none), [0, 0]
    )
