"""The losses that compare a student with its teacher."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from src.losses.feature_distillation import feature_distillation
from src.losses.focal_ranking import focal_ranking
from src.losses.logit_distillation import logit_distillation
from src.losses.relational_distillation import relational_distillation

GOLDENS = np.load(Path(__file__).parents[2] / "data" / "losses.npz")
RANDOM = np.random.default_rng(0)
LABELS, MODALITIES = np.tile(np.repeat(np.arange(4), 2), 2), np.repeat([0, 1], 8)
STUDENT = RANDOM.normal(size=(16, 6)).astype("float32") + np.repeat(np.eye(4, 6, dtype="float32"), 4, axis=0)
TEACHER = RANDOM.normal(size=(16, 9)).astype("float32")
OWN = RANDOM.normal(size=(16, 9)).astype("float32")
CASES = {
    "logit_distillation": (logit_distillation, OWN, {"teacher_logits": TEACHER}),
    "feature_distillation": (feature_distillation, OWN, {"teacher_embedding": TEACHER}),
    "relational_distillation": (relational_distillation, STUDENT, {"teacher_embedding": TEACHER}),
    "focal_ranking": (focal_ranking, STUDENT, {"labels": LABELS, "teacher_embedding": TEACHER}),
}


def value_and_gradient(loss, first, **keywords):
    first = tf.constant(first)
    with tf.GradientTape() as tape:
        tape.watch(first)
        value = loss(first, **keywords)
    return float(value), tape.gradient(value, first).numpy()


def cosines(vectors):
    vectors = vectors.astype("float64")
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units @ units.T


def softmax(row):
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def logit_reference(logits, teacher_logits, temperature=4.0):
    total = 0.0
    for own, taught in zip(logits.astype("float64"), teacher_logits.astype("float64"), strict=True):
        p, q = softmax(taught / temperature), softmax(own / temperature)
        total += temperature**2 * np.sum(p * np.log(p / q))
    return total / len(logits)


def feature_reference(projected, teacher_embedding):
    pairs = zip(projected.astype("float64"), teacher_embedding.astype("float64"), strict=True)
    return np.mean([1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs])


def relational_reference(features, teacher_embedding, modalities=None, temperature=0.1):
    own, taught = cosines(features), cosines(teacher_embedding)
    modalities = np.zeros(len(own)) if modalities is None else modalities
    total, kinds = 0.0, sorted(set(modalities))
    for i in range(len(own)):
        for kind in kinds:
            others = [j for j in range(len(own)) if taught[i, j] < 1 - 1e-5 and modalities[j] == kind]
            if others:
                p, q = softmax(taught[i, others] / temperature), softmax(own[i, others] / temperature)
                total += np.sum(p * np.log(p / q)) / len(kinds)
    return total / len(own)


def ranking_reference(features, labels, teacher_embedding, modalities=None, margin=0.3, teacher_margin=1.0):
    own, taught, losses = cosines(features), cosines(teacher_embedding), []
    modalities = np.zeros(len(own)) if modalities is None else modalities
    across = len(set(modalities)) > 1
    for i in range(len(own)):
        shown = [j for j in range(len(own)) if j != i and (not across or modalities[j] != modalities[i])]
        positives = [j for j in shown if labels[j] == labels[i]]
        negatives = [j for j in shown if labels[j] != labels[i]]
        if positives and negatives:
            p, n = min(positives, key=lambda j: own[i, j]), max(negatives, key=lambda j: own[i, j])
            m, m_t = own[i, p] - own[i, n], taught[i, p] - taught[i, n]
            weight = (1 - 1 / (1 + np.exp(-m / 0.1))) ** 2
            losses.append(weight * max(0, margin - m) + teacher_margin * max(0, m_t - m))
    return np.mean(losses) if losses else 0.0


def test_value_and_gradient_of_the_logits_are_those_of_pytorch():
    embeddings = tf.constant(GOLDENS["embeddings"])
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        loss = logit_distillation(embeddings @ GOLDENS["classifier"], GOLDENS["teacher_logits"])
    assert float(loss) == pytest.approx(float(GOLDENS["value/kd_kl_T4"]), rel=1e-5)
    np.testing.assert_allclose(tape.gradient(loss, embeddings), GOLDENS["grad/kd_kl_T4"], atol=1e-6)


def test_values_on_the_published_embeddings():
    """Computed once with the references of this file: one half of the embeddings is taught the other."""
    student, teacher = np.split(GOLDENS["embeddings"], 2)
    labels, modalities = np.arange(16) // 2, np.arange(16) % 2
    assert float(feature_distillation(student, teacher)) == pytest.approx(0.988769, rel=1e-5)
    assert float(relational_distillation(student, teacher)) == pytest.approx(1.534592, rel=1e-5)
    assert float(relational_distillation(student, teacher, modalities)) == pytest.approx(1.280081, rel=1e-5)
    assert float(focal_ranking(student, labels, teacher, modalities)) == pytest.approx(0.2928354, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("logit_distillation", logit_reference),
        ("feature_distillation", feature_reference),
        ("relational_distillation", relational_reference),
        ("focal_ranking", ranking_reference),
    ],
)
def test_a_batch_agrees_with_the_reference(name, reference):
    loss, own, given = CASES[name]
    value, gradient = value_and_gradient(loss, own, **given)
    assert value == pytest.approx(reference(own, **given), rel=1e-5)
    assert value > 0 and np.all(np.abs(gradient).max(axis=1) > 0)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_temperatures_agree_with_the_reference(temperature):
    value = logit_distillation(OWN, TEACHER, temperature)
    assert float(value) == pytest.approx(logit_reference(OWN, TEACHER, temperature), rel=1e-4)
    value = relational_distillation(STUDENT, TEACHER, temperature=temperature)
    expected = relational_reference(STUDENT, TEACHER, temperature=temperature)
    assert float(value) == pytest.approx(expected, rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=10),
    seed=st.integers(0, 999),
)
def test_any_batch_is_ranked_as_the_reference_ranks_it(batch, seed):
    labels, modalities = np.array(batch).T
    random = np.random.default_rng(seed)
    features, taught = (random.normal(size=(len(batch), n)).astype("float32") for n in (5, 3))
    value, gradient = value_and_gradient(
        focal_ranking, features, labels=labels, teacher_embedding=taught, modalities=modalities
    )
    expected = ranking_reference(features, labels, taught, modalities)
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert np.all(np.isfinite(gradient))


@settings(max_examples=25, deadline=None)
@given(modalities=st.lists(st.integers(0, 1), min_size=1, max_size=10), seed=st.integers(0, 999))
def test_each_modality_has_relations_of_its_own(modalities, seed):
    random = np.random.default_rng(seed)
    features, taught = (random.normal(size=(len(modalities), n)).astype("float32") for n in (5, 3))
    given_ = {"teacher_embedding": taught, "modalities": np.array(modalities)}
    value, gradient = value_and_gradient(relational_distillation, features, **given_)
    assert value == pytest.approx(relational_reference(features, **given_), rel=1e-4, abs=1e-5)
    assert np.all(np.isfinite(gradient))


def test_further_views_of_an_image_tell_nothing_of_others():
    """A cached teacher gives the views of one photo one embedding, with the greatest cosine of all."""
    seen = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    taught, modalities = TEACHER[seen], np.array([0, 0, 1, 1, 0, 0, 1, 1])
    value, _ = value_and_gradient(
        relational_distillation, STUDENT[:8], teacher_embedding=taught, modalities=modalities
    )
    assert value == pytest.approx(relational_reference(STUDENT[:8], taught, modalities), rel=1e-4)
    own, other = cosines(STUDENT[:8]), cosines(taught)
    total = 0.0
    for i in range(8):
        for kind in (0, 1):
            others = [j for j in range(8) if seen[j] != seen[i] and modalities[j] == kind]
            p, q = softmax(other[i, others] / 0.1), softmax(own[i, others] / 0.1)
            total += np.sum(p * np.log(p / q)) / 16
    assert value == pytest.approx(total, rel=1e-4)


def test_visible_anchors_rank_thermal_images_and_thermal_anchors_visible_ones():
    # One person each in 0, 2 (visible, thermal) and 1, 3; the nearest other image of 0 is visible, and does not count.
    features = np.array([[1, 0], [1, 0.1], [0.9, 0.5], [0.2, 1]], "float32")
    labels, modalities = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    value = focal_ranking(features, labels, features, modalities, focus=0.0, margin=2.0)
    c = cosines(features)
    margins = [c[0, 2] - c[0, 3], c[1, 3] - c[1, 2], c[2, 0] - c[2, 1], c[3, 1] - c[3, 0]]
    assert float(value) == pytest.approx(np.mean([2 - m for m in margins]), rel=1e-5)
    plain = focal_ranking(features, labels, features, np.zeros(4, int), focus=0.0, margin=2.0)
    assert float(plain) == pytest.approx(float(focal_ranking(features, labels, features, focus=0, margin=2)))
    assert abs(float(plain) - float(value)) > 0.01


def test_the_weight_of_a_triplet_has_no_gradient_and_falls_where_the_student_is_sure():
    labels = np.array([0, 0, 1, 1])
    sure = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], "float32")  # margins of 1
    given_ = {"labels": labels, "teacher_embedding": sure, "margin": 2.0}
    value, _ = value_and_gradient(focal_ranking, sure, **given_)
    assert value == pytest.approx((1 / (1 + np.exp(10))) ** 2, rel=1e-3)
    features = STUDENT[:4]
    value, gradient = value_and_gradient(focal_ranking, features, **{**given_, "teacher_margin": 0.0})
    flat, flat_gradient = value_and_gradient(
        focal_ranking, features, **{**given_, "teacher_margin": 0.0, "focus": 0.0}
    )
    assert 0 < value < flat
    # The same triplets, each gradient scaled by a weight below 1: a weight with a gradient would reverse some.
    assert np.abs(gradient).sum() < np.abs(flat_gradient).sum()
    assert np.sum(gradient * flat_gradient) > 0


def test_a_student_that_ranks_as_its_teacher_is_left_alone():
    labels = np.array([0, 0, 1, 1])
    wide = np.array([[1, 0], [1, 0.05], [0, 1], [0.05, 1]], "float32")
    value, gradient = value_and_gradient(
        focal_ranking, wide, labels=labels, teacher_embedding=wide, margin=0.3
    )
    assert value == 0 and not np.any(gradient)


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_left_to_learn_from_a_teacher_that_says_the_same(name):
    loss, own, given_ = CASES[name]
    same = {key: own if key.startswith("teacher") else value for key, value in given_.items()}
    rest = {"margin": -2.0} if name == "focal_ranking" else {}
    value, gradient = value_and_gradient(loss, own, **same, **rest)
    assert value == pytest.approx(0, abs=1e-5) and np.abs(gradient).max() < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_the_teacher_is_a_constant(name):
    loss, own, given_ = CASES[name]
    key = next(key for key in given_ if key.startswith("teacher"))
    taught = tf.Variable(given_[key])
    with tf.GradientTape() as tape:
        value = loss(own, **{**given_, key: taught})
    assert tape.gradient(value, taught) is None


def test_bases_and_widths_do_not_matter_to_relations():
    rotation = np.linalg.qr(RANDOM.normal(size=(6, 6)))[0].astype("float32")
    wide = np.concatenate([3 * STUDENT @ rotation, np.zeros((16, 3), "float32")], axis=1)
    assert float(relational_distillation(STUDENT, wide)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e6])
def test_finite_at_any_scale(name, scale):
    loss, own, given_ = CASES[name]
    value, gradient = value_and_gradient(loss, np.float32(scale) * own, **given_)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", CASES)
def test_low_precision_is_compared_in_float32(name):
    loss, own, given_ = CASES[name]
    value, gradient = value_and_gradient(loss, own.astype("float16"), **given_)
    assert value == pytest.approx(float(loss(own, **given_)), rel=1e-2)
    assert gradient.dtype == np.float16


def test_a_batch_of_one_image_has_no_relations():
    value, gradient = value_and_gradient(relational_distillation, STUDENT[:1], teacher_embedding=TEACHER[:1])
    assert value == 0 and not np.any(gradient)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("logit_distillation", {"temperature": 0}),
        ("relational_distillation", {"temperature": -1.0}),
        ("focal_ranking", {"temperature": 0}),
        ("focal_ranking", {"focus": -1}),
        ("focal_ranking", {"teacher_margin": -1}),
    ],
)
def test_an_argument_out_of_range_is_refused(name, argument):
    loss, own, given_ = CASES[name]
    with pytest.raises(ValueError, match=f"{next(iter(argument))}.*: expected .*more"):
        loss(own, **given_, **argument)
