"""What a teacher tells a step, however it comes to know it."""

from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from PIL import Image

from common.config import validate
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.models._head import embedding_model, reid_network
from src.registries import MODELS
from src.schema import Distillation, Training
from src.training.step import losses_of, make_training_step
from src.training.teacher import (
    cached_teacher,
    following_teacher,
    joined,
    margins_of,
    prototypes_of,
    seeing_teacher,
)
from src.training.validation import embed_samples, routes_of
from tests.numeric import unit

SHAPE = (4, 4, 3)
LABELS = np.array([0, 0, 1, 1, 2, 2], np.int32)
MODALITIES = ["visible"] * 6
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(6, *SHAPE)).astype(np.float32)


def network(width, identities=None, seed=0, name="toy"):
    keras.utils.set_random_seed(seed)
    images = keras.Input(SHAPE)
    features = keras.layers.Dense(width, name="dense")(keras.layers.Flatten()(images))
    backbone = keras.Model(images, features, name=name)
    return backbone if identities is None else reid_network(backbone, identities, bnneck=True, projection=7)


def test_prototypes_are_mean_directions():
    vectors = unit(RANDOM.normal(size=(6, 5)).astype(np.float32))
    expected = [vectors[label == LABELS].mean(axis=0) for label in range(3)]
    np.testing.assert_allclose(
        prototypes_of(vectors, LABELS, MODALITIES), unit(np.stack(expected)), rtol=1e-5
    )


def test_a_person_is_between_the_modalities_however_many_images_each_has():
    vectors = unit(np.array([[1, 0], [1, 0], [1, 0], [0, 1], [1, 1]], np.float32))
    modalities = ["visible", "visible", "visible", "thermal", "thermal"]
    found = prototypes_of(vectors, np.array([0, 0, 0, 0, 1]), modalities)
    np.testing.assert_allclose(found, unit(np.array([[1, 1], [1, 1]], np.float32)), rtol=1e-6)


def test_margins_tell_images_that_look_like_others():
    vectors = unit(np.array([[1, 0.1], [1, 0.1], [0.1, 1], [1, 0.3]], np.float32))
    labels, modalities = np.array([0, 0, 1, 1]), ["visible"] * 4
    prototypes = prototypes_of(vectors, labels, modalities)
    expected = [v @ prototypes[own] - v @ prototypes[1 - own] for v, own in zip(vectors, labels, strict=True)]
    margins = margins_of(vectors, labels, modalities)
    np.testing.assert_allclose(margins, expected, rtol=1e-5)
    assert margins.argmin() == 3


def test_the_cosines_of_several_teachers_are_averaged():
    parts = [RANDOM.normal(size=(6, width)).astype(np.float32) for width in (3, 5)]
    one = np.asarray(joined(parts))
    expected = np.mean([unit(part) @ unit(part).T for part in parts], axis=0)
    np.testing.assert_allclose(one @ one.T, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, rtol=1e-6)


def test_a_cache_tells_what_the_teachers_see():
    networks = [network(5), network(3, seed=1)]
    table = np.asarray(joined([model(IMAGES) for model in networks]))
    prototypes = prototypes_of(table, LABELS, MODALITIES)
    index = np.array([4, 0, 5], np.int32)
    cached = cached_teacher(table, prototypes).gives(None, index)
    seen = seeing_teacher(networks, prototypes).gives(IMAGES[index], index)
    assert set(cached) == set(seen) == {"teacher_embedding", "teacher_logits"}
    for name in cached:
        np.testing.assert_allclose(cached[name], seen[name], atol=1e-5)
    np.testing.assert_allclose(cached["teacher_logits"], 16 * table[index] @ prototypes.T, rtol=1e-4)


def test_images_of_each_modality_go_through_their_own_input():
    parts = {name: network(5, seed=n, name=f"{name}_toy") for n, name in enumerate(("visible", "thermal"))}
    inputs = {name: keras.Input(SHAPE, name=name) for name in parts}
    two = keras.Model(inputs, {name: part(inputs[name]) for name, part in parts.items()})
    batch = {"visible": IMAGES[:2], "thermal": IMAGES[2:]}
    prototypes = prototypes_of(unit(np.asarray(parts["visible"](IMAGES))), LABELS, MODALITIES)
    told = seeing_teacher([two], prototypes).gives(batch, None)["teacher_embedding"]
    expected = np.concatenate([parts["visible"](batch["visible"]), parts["thermal"](batch["thermal"])])
    np.testing.assert_allclose(told, unit(expected), atol=1e-6)
    one = seeing_teacher([parts["visible"]], prototypes).gives(batch, None)["teacher_embedding"]
    np.testing.assert_allclose(one, unit(np.asarray(parts["visible"](IMAGES))), atol=1e-6)


def test_a_moving_average_follows_the_student_with_its_statistics():
    student = network(5, identities=3)
    teacher = following_teacher(student, 0.75)
    before = student.get_weights()
    # The mean of the steps while 1 / t is more than 1 - momentum, that of t = 4; the start is forgotten at once.
    for added in (1, 2, 6, 7, 8):
        student.set_weights([value + added for value in before])
        teacher.follow()
    expected = keras.models.clone_model(student)
    expected.set_weights([value + 0.75 * (1 + 2 + 6 + 7) / 4 + 0.25 * 8 for value in before])
    outputs, told = expected(IMAGES, training=False), teacher.gives(IMAGES, None)
    np.testing.assert_allclose(told["teacher_embedding"], unit(np.asarray(outputs["embedding"])), atol=1e-5)
    np.testing.assert_allclose(told["teacher_logits"], outputs["logits"], atol=1e-4)
    np.testing.assert_allclose(student.get_weights()[0], before[0] + 8, rtol=1e-6)


def test_the_projection_starts_as_the_embedding_or_a_rotation_and_is_not_kept():
    wide = network(5, identities=3)
    outputs = wide(IMAGES)
    assert outputs["projected"].shape == (6, 7)
    np.testing.assert_allclose(
        np.linalg.norm(outputs["projected"], axis=1), np.linalg.norm(outputs["embedding"], axis=1), rtol=1e-5
    )
    for length in (0, 5):
        same = reid_network(network(5), 3, projection=length)(IMAGES)
        np.testing.assert_array_equal(same["projected"], same["embedding"])
    assert "projection" not in [layer.name for layer in embedding_model(wide).layers]


def test_routes_and_a_step_agree_on_what_an_image_is(tmp_path):
    """The cache is made by the routes of evaluation, from files."""
    samples = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        Image.fromarray(RANDOM.integers(0, 255, (4, 4, 3)).astype(np.uint8)).save(path)
        samples.append(Sample(path, number, 1))
    routes = routes_of(network(5), Preprocessing(SHAPE))
    cached = embed_samples(routes, samples)
    pixels = np.stack([np.asarray(Image.open(sample.path), np.float32) for sample in samples])
    np.testing.assert_allclose(cached, network(5)(pixels / 127.5 - 1), atol=1e-5)


@pytest.mark.parametrize("kind", ["cached", "seeing", "following"])
def test_a_compiled_step_asks_its_teacher_and_leaves_it_alone(kind):
    student, taught = network(5, identities=3), network(7, seed=1)
    table = np.asarray(joined([taught(IMAGES)]))
    teacher = {
        "cached": lambda: cached_teacher(table, prototypes_of(table, LABELS, MODALITIES)),
        "seeing": lambda: seeing_teacher([taught], prototypes_of(table, LABELS, MODALITIES)),
        "following": lambda: following_teacher(student, 0.9),
    }[kind]()
    names = ["logit_distillation", "relational_distillation", "focal_ranking"]
    names += ["feature_distillation"] if kind != "following" else []
    raw = {"batch_size": 6, "epochs": 1, "optimizer": "SGD", "images_per_identity": 2}
    asked = validate(Training, {**raw, "losses": [{"name": name} for name in names]})
    before = [taught.get_weights(), student.get_layer("dense").get_weights()]
    step = make_training_step(student, keras.optimizers.SGD(0.1), losses_of(asked), teacher=teacher)
    first = step(IMAGES, LABELS, np.arange(6, dtype=np.int32))
    assert set(first) == {"loss", "accuracy", *(f"{name}_loss" for name in names)}
    total = sum(float(first[f"{name}_loss"]) for name in names)
    assert float(first["loss"]) == pytest.approx(total, rel=1e-5)
    for kept, now in zip(before[0], taught.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)
    assert not np.array_equal(before[1][0], student.get_layer("dense").get_weights()[0])
    if kind != "following":
        last = [step(IMAGES, LABELS, np.arange(6, dtype=np.int32)) for _ in range(20)][-1]
        assert float(last["loss"]) < float(first["loss"])


class _Watching(keras.optimizers.SGD):
    """Remembers the largest gradient that each weight was given."""

    def apply(self, grads, trainable_variables=None):
        self.largest = getattr(self, "largest", {})
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            reached = float(np.abs(np.asarray(gradient)).max())
            self.largest[variable.path] = max(reached, self.largest.get(variable.path, 0.0))
        return super().apply(grads, trainable_variables)


def _recipe(name):
    path = Path(__file__).parents[3] / f"config_file_examples/vireid/{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _losses(name, number, section):
    """Of a default stage; of a recipe's where that has more; `idkl` has those that train its second branch besides."""
    stage = section.stages_of(name in ("agw", "idkl"))[number]
    losses = {loss.name: {"weight": loss.weight, **loss.arguments} for loss in stage.losses}
    losses |= {"feature_distillation": {}} if number else {}
    if name == "agw":
        stages = _recipe("phase3_distillation_synthetic")["distillation"]["stages"]
        losses |= list(stages.values())[number]["losses"]
    if name == "idkl":
        own = _recipe("idkl_synthetic")["training"]["losses"]
        losses = {key: {**keys, "schedule": None} for key, keys in own.items()} | losses
    return stage, losses


@pytest.mark.parametrize("number", [0, 1], ids=["easy", "hard"])
@pytest.mark.parametrize("name", ["plain_cnn", "mobilenetv1_a025", "agw", "idkl"])
def test_every_weight_of_a_student_gets_a_gradient_within_three_steps(name, number):
    section = validate(
        Distillation, {"teacher": "t.keras", "batch_size": 8, "images_per_identity": 2, "bnneck": True}
    )
    by_modality = name in ("agw", "idkl")
    stage, losses = _losses(name, number, section)
    asked = section.training_of(stage.model_validate({**stage.model_dump(mode="json"), "losses": losses}))
    keras.utils.set_random_seed(0)
    arguments = {"backbone": "plain_cnn"} if by_modality else {}
    student = reid_network(
        MODELS.get(name)((64, 32, 3), **arguments), 2, bnneck=True,
        projection=7 if "feature_distillation" in losses else None,
    )  # fmt: skip
    random = np.random.default_rng(0)
    images = {m: random.normal(size=(4, 64, 32, 3)).astype(np.float32) for m in ("visible", "thermal")}
    table = unit(random.normal(size=(8, 7)).astype(np.float32))
    labels = np.array([0, 0, 1, 1] * 2, np.int32)
    optimizer = _Watching(0.01)
    step = make_training_step(
        student, optimizer, losses_of(asked), compiled=False, by_modality=True,
        teacher=cached_teacher(table, prototypes_of(table, labels, ["visible"] * 8)),
    )  # fmt: skip
    for _ in range(3):
        step(images, labels, np.arange(8, dtype=np.int32))
    assert set(optimizer.largest) == {variable.path for variable in student.trainable_variables}
    dead = [path for path, reached in optimizer.largest.items() if reached == 0]
    assert dead == [], "no weight of these networks has an analytic zero"
