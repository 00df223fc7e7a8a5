"""Every weight that a recipe trains gets a gradient within three steps: no part of a network is there for show."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from common.config import validate
from common.layers.rewrite import with_fused_batch_norm
from src.data.preprocessing import Preprocessing
from src.models._head import embedding_model, reid_network
from src.registries import LOSSES, MODELS
from src.schema import Adaptation, Loss, Training
from src.services._adaptation.learner import learner_of
from src.training.callbacks import FollowLossSchedules
from src.training.step import forward, losses_of

RECIPES = Path(__file__).parents[3] / "config_file_examples"
SHAPE, IDENTITIES, K, STEPS = (64, 32, 3), 4, 2, 3
ALL_ENDED = 10_000  # an epoch after all schedules
WITHOUT_GRADIENT = {
    "_w/bias": "a batch norm follows, which removes it",
    "_phi/bias": "a softmax follows, which removes it",
}
OF_NO_RECIPE = ("cosine_alignment", "cross_modal_batch_hard", "hetero_center")


def small(arguments):
    return {**arguments, "backbone": "plain_cnn"} if "backbone" in arguments else arguments


def recipes():
    """Recipe to its model's name and arguments and its section `training`; a recipe that trains a file is a phase 2.

    Of several that train one small network by the same losses there is the first.
    """
    found = {}
    for path in sorted(RECIPES.glob("vireid/*.yaml")):
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "training" not in raw:
            continue  # distillation has its own test in test_teacher.py, adaptation trains what another recipe made
        name, section = raw["model"].get("model_name", "plain_cnn"), raw["training"]
        arguments = small(raw["model"].get("arguments", {}))
        decisive = [section.get(key) for key in ("losses", "triplet_loss", "loss_weighting", "bnneck")]
        recipe = pytest.param(name, arguments, section, id=path.stem)
        found.setdefault(repr([name, arguments, decisive]), recipe)
    return list(found.values())


def batch(number):
    random = np.random.default_rng(number)
    labels = np.repeat(np.arange(IDENTITIES), K)
    colours = np.random.default_rng(99).uniform(-1, 1, (IDENTITIES, 1, 1, 3))

    def draw():
        return (colours[labels] + random.normal(0, 0.5, (len(labels), *SHAPE))).astype("float32")

    return {"visible": draw(), "thermal": draw()}, np.tile(labels, 2).astype("int32")


def untouched(network, training):
    """Paths of the weights whose gradient was 0 or none in all steps."""
    losses = losses_of(training)
    FollowLossSchedules(training.terms, losses).on_epoch_begin(ALL_ENDED)
    variables, optimizer = network.trainable_variables, keras.optimizers.SGD(0.01)
    reached = set()
    for number in range(STEPS):
        images, labels = batch(number)
        with tf.GradientTape() as tape:
            total = forward(network, losses, images, labels, training=True)["loss"]
        gradients = tape.gradient(total, [variable.value for variable in variables])
        assert all(g is None or np.all(np.isfinite(g)) for g in gradients)
        reached |= {v.path for v, g in zip(variables, gradients, strict=True) if g is not None and np.any(g)}
        moves = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        optimizer.apply([g for g, _ in moves], [v for _, v in moves])
    return {variable.path for variable in variables} - reached


def network_for(name, arguments, training):
    keras.utils.set_random_seed(0)
    backbone = MODELS.build(name, arguments, input_shape=SHAPE)
    terms = training.terms
    network = reid_network(
        backbone,
        IDENTITIES,
        training.bnneck,
        centers=any(term.takes("centers") for term in terms),
        log_variances=len(terms) if training.loss_weighting == "uncertainty" else 0,
    )
    return with_fused_batch_norm(network)


def unexplained(paths):
    return {path for path in paths if not path.endswith(tuple(WITHOUT_GRADIENT))}


@pytest.mark.parametrize(("name", "arguments", "section"), recipes())
def test_a_recipe_trains_all_of_its_network(name, arguments, section):
    if name.startswith("resnet"):
        name = "plain_cnn"
    section = {**section, "batch_size": section.get("batch_size", 16), "optimizer": "SGD"}
    training = validate(Training, {**section, "images_per_identity": section.get("images_per_identity", K)})
    assert not unexplained(untouched(network_for(name, arguments, training), training))


@pytest.mark.parametrize(("heads", "weighting"), [(0, "uncertainty"), (4, "fixed"), (4, "uncertainty")])
def test_every_switch_of_idkl_trains_what_it_adds(heads, weighting):
    raw = yaml.safe_load((RECIPES / "vireid/idkl_synthetic.yaml").read_text(encoding="utf-8"))["training"]
    training = validate(Training, {**raw, "optimizer": "SGD", "loss_weighting": weighting})
    network = network_for("idkl", {"backbone": "plain_cnn", "attention_heads": heads}, training)
    assert not unexplained(untouched(network, training))
    assert any("attention" in v.path for v in network.trainable_variables) == (heads > 0)


@pytest.mark.slow
def test_the_optimised_idkl_is_trained_whole_on_its_own_backbone():
    raw = yaml.safe_load((RECIPES / "vireid/idkl_optimised_sysu_mm01.yaml").read_text(encoding="utf-8"))
    training = validate(Training, {**raw["training"], "batch_size": 24, "optimizer": "SGD"})
    network = network_for("idkl", raw["model"]["arguments"], training)
    assert any("attention" in v.path for v in network.trainable_variables)
    assert not unexplained(untouched(network, training))


@pytest.mark.parametrize("loss", OF_NO_RECIPE)
@pytest.mark.parametrize("name", ["plain_cnn", "agw"])
def test_a_loss_of_no_recipe_reaches_the_whole_backbone_by_itself(name, loss):
    section = {"batch_size": 16, "epochs": 1, "optimizer": "SGD", "bnneck": True, "sampler": "cross_modal"}
    training = validate(Training, {**section, "losses": {loss: {}}})
    arguments = {"backbone": "plain_cnn"} if name == "agw" else {}
    found = untouched(network_for(name, arguments, training), training)
    assert {path.split("/")[0] for path in unexplained(found)} <= {"bnneck", "logits"}


@pytest.mark.parametrize("name", ["plain_cnn", "agw"])
def test_adaptation_trains_the_whole_network(name, monkeypatch):
    section = {"batch_size": 16, "images_per_identity": K, "optimizer": "SGD"}
    training = validate(Training, {**section, "epochs": 1, "bnneck": True})
    arguments = {"backbone": "plain_cnn"} if name == "agw" else {}
    network = embedding_model(network_for(name, arguments, training))
    for layer in network._flatten_layers():
        if layer.name.endswith("non_local_w_bn"):
            layer.gamma.assign(
                keras.ops.ones_like(layer.gamma)
            )  # 0 at first, when one step reaches nothing before it
    learner = learner_of(
        network, Preprocessing(SHAPE), validate(Adaptation, section), ("visible", "thermal"), compiled=False
    )
    reached = set()

    def note(gradients, variables):
        reached.update(
            v.path for v, g in zip(variables, gradients, strict=True) if g is not None and np.any(g)
        )

    monkeypatch.setattr(learner.optimizer, "apply", note)
    images, labels = batch(0)
    random = np.random.default_rng(0).normal(size=(2, IDENTITIES, learner.trained.output.shape[-1]))
    memory = (random / np.linalg.norm(random, axis=-1, keepdims=True)).astype("float32")
    own = dict(zip(images, np.split(labels, 2), strict=True))
    clusters = dict.fromkeys(images, np.arange(IDENTITIES, dtype="int32"))
    learner.step(images, own, own, dict(zip(images, memory, strict=True)), clusters)
    assert not unexplained({variable.path for variable in learner.trained.trainable_variables} - reached)


def test_without_its_losses_the_specific_branch_would_stand_still():
    """The test can fail: cross-entropy on the shared branch alone leaves the other one untouched."""
    training = validate(
        Training, {"batch_size": 16, "epochs": 1, "optimizer": "SGD", "losses": {"cross_entropy": {}}}
    )
    found = untouched(network_for("idkl", {"backbone": "plain_cnn"}, training), training)
    assert {path.split("/")[0] for path in found} >= {
        "specific_conv6",
        "purifier_in",
        "modality_fc1",
        "map_logits",
    }
    assert not any(path.startswith(("conv", "bnneck", "logits")) for path in found)


def test_every_loss_is_in_a_recipe_or_a_list_of_exceptions():
    named = {
        term.name
        for parameters in recipes()
        for term in validate(
            Training,
            {"batch_size": 16, "optimizer": "SGD", "epochs": 1, "losses": parameters.values[2].get("losses")},
        ).terms
    }
    of_training = {name for name in LOSSES if not Loss(name=name).needs_teacher}
    assert of_training - named <= set(OF_NO_RECIPE)
