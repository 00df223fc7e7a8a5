"""`training.losses`: terms, weights, schedules and centers, on networks small enough for eager steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from common.config import ConfigError, validate
from src.models._head import centers_of, embedding_model, log_variances_of, reid_network
from src.models._log_variances import LogVariances
from src.registries import LOSSES, logged_loss, monitors
from src.schema import Loss, Training
from src.training.callbacks import FollowLossSchedules
from src.training.step import check_losses, forward, losses_of, make_training_step, make_validation_step
from src.training.uncertainty import weighted_by_uncertainty

IDENTITIES, K = 3, 2
BASE = {"batch_size": 12, "epochs": 1, "optimizer": "SGD", "images_per_identity": K}
LABELS = np.tile(np.repeat(np.arange(IDENTITIES), K), 2).astype(np.int32)


def training(*losses, **more) -> Training:
    return validate(Training, {**BASE, **({"losses": list(losses)} if losses else {}), **more})


def network(centers=False, bnneck=True, branch=False, log_variances=0) -> keras.Model:
    """A network of two layers; with `branch` it has the outputs of `idkl`."""
    keras.utils.set_random_seed(0)
    images = keras.Input((4, 4, 3))
    features = keras.layers.Dense(5, name="dense")(keras.layers.Flatten()(images))
    outputs = features
    if branch:
        pair = keras.layers.Reshape((2, 5))(keras.layers.Dense(10, name="pair")(features))
        outputs = {
            "embedding": keras.layers.BatchNormalization(center=False, name="bnneck")(features),
            "specific_features": keras.layers.Dense(5, name="specific")(features),
            "specific_embedding": keras.layers.Dense(5, name="specific_neck")(features),
            "map_embedding": pair,
            "normed_features": pair,
            "modality_logits": keras.layers.Dense(2, name="modality")(features),
            "confusion_logits": keras.layers.Dense(2, name="confusion")(features),
        }
    backbone = keras.Model(images, outputs, name="toy")
    return reid_network(backbone, IDENTITIES, bnneck, centers=centers, log_variances=log_variances)


def images():
    random = np.random.default_rng(0)
    return {name: random.normal(size=(6, 4, 4, 3)).astype(np.float32) for name in ("visible", "thermal")}


@pytest.mark.parametrize("name", [name for name in LOSSES if not Loss(name=name).needs_teacher])
def test_every_loss_trains_by_its_name_alone(name):
    asked = training({"name": name})
    check_losses(asked)
    trained = network(centers=True, branch=bool(asked.terms[0].of_training_branch))
    step = make_training_step(trained, keras.optimizers.SGD(0.01), losses_of(asked), compiled=False)
    before = trained.get_layer("dense").get_weights()[0]
    first = step(images(), LABELS)
    assert set(first) == {"loss", logged_loss(name), "accuracy"}
    assert float(first["loss"]) == pytest.approx(float(first[logged_loss(name)]))
    assert not np.array_equal(before, trained.get_layer("dense").get_weights()[0])
    last = [step(images(), LABELS) for _ in range(10)][-1]
    assert 0 <= float(last["loss"]) < float(first["loss"])


def test_terms_add_up_and_each_is_logged():
    asked = training(
        {"name": "cross_entropy", "label_smoothing": 0.0},
        {"name": "triplet", "weight": 0.5, "on": "embedding", "margin": 1.0},
        {"name": "center_loss", "weight": "1/4"},
    )
    trained = network(centers=True)
    scalars = {
        key: float(value)
        for key, value in forward(trained, losses_of(asked), images(), LABELS, training=False).items()
    }
    expected = scalars["cross_entropy_loss"] + 0.5 * scalars["triplet_loss"] + 0.25 * scalars["center_loss"]
    assert scalars["loss"] == pytest.approx(expected, rel=1e-6)
    assert {"cross_entropy_loss", "triplet_loss", "center_loss"} <= set(
        monitors([term.name for term in asked.terms], retrieval=True)
    )
    outputs = trained(np.concatenate(list(images().values())), training=False)
    triplet = LOSSES.get("triplet")(outputs["embedding"], LABELS, margin=1.0)
    assert scalars["triplet_loss"] == pytest.approx(float(triplet), rel=1e-5)


def test_the_short_form_means_two_terms():
    short = training(label_smoothing=0.2, triplet_loss={"margin": 0.5, "weight": 2.0, "strategy": "simple"})
    written = training(
        {"name": "cross_entropy", "label_smoothing": 0.2},
        {"name": "triplet", "weight": 2.0, "margin": 0.5, "strategy": "simple", "distance_metric": "cosine"},
    )
    assert short.terms == written.terms
    assert [term.name for term in training().terms] == ["cross_entropy"]


def test_a_schedule_moves_the_weight_by_epochs():
    asked = training(
        {"name": "cross_entropy"}, {"name": "triplet", "weight": 2.0, "schedule": {"after": 1, "ramp": 2}}
    )
    losses = losses_of(asked)
    callback = FollowLossSchedules(asked.terms, losses)
    found = []
    for epoch in range(5):
        callback.on_epoch_begin(epoch)
        scalars = forward(network(), losses, images(), LABELS, training=False)
        rest = float(scalars["loss"]) - float(scalars["cross_entropy_loss"])
        found.append(rest / float(scalars["triplet_loss"]))
    np.testing.assert_allclose(found, [0.0, 1.0, 2.0, 2.0, 2.0], atol=1e-5)


def test_a_compiled_step_follows_the_schedule():
    asked = training({"name": "cross_entropy"}, {"name": "triplet", "schedule": {"after": 1}})
    losses = losses_of(asked)
    step = make_training_step(network(), keras.optimizers.SGD(0.0), losses, by_modality=True)
    callback, totals = FollowLossSchedules(asked.terms, losses), []
    for epoch in range(2):
        callback.on_epoch_begin(epoch)
        scalars = step(images(), LABELS)
        totals.append(float(scalars["loss"]) - float(scalars["cross_entropy_loss"]))
    assert totals[0] == pytest.approx(0.0, abs=1e-6) and totals[1] == pytest.approx(
        float(scalars["triplet_loss"]), rel=1e-4
    )


def test_centers_follow_the_features_and_are_kept_in_the_file(tmp_path):
    trained = network(centers=True)
    losses = losses_of(training({"name": "cross_entropy"}, {"name": "center_loss"}))
    batch = np.concatenate(list(images().values()))
    features = np.asarray(trained(batch, training=True)["features"])
    make_training_step(trained, keras.optimizers.SGD(0.0), losses, compiled=False)(images(), LABELS)
    # From zero, with four images: c - 0.5 * sum(c - x) / (1 + 4).
    expected = np.stack([0.5 * features[label == LABELS].sum(axis=0) / 5 for label in range(IDENTITIES)])
    np.testing.assert_allclose(centers_of(trained).centers, expected, rtol=1e-4)
    trained.save(tmp_path / "trained.keras")
    loaded = keras.saving.load_model(tmp_path / "trained.keras", safe_mode=True)
    np.testing.assert_array_equal(centers_of(loaded).centers, centers_of(trained).centers)
    assert "centers" not in [layer.name for layer in embedding_model(loaded).layers]
    assert trained.layers[-1].name == "logits", "frozen_layers: (0:-1) means all but the classifier"


def test_validation_leaves_the_centers_alone():
    trained = network(centers=True)
    forward(trained, losses_of(training({"name": "center_loss"})), images(), LABELS, training=False)
    assert not np.any(centers_of(trained).centers)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([{"name": "tripet"}], "losses.0.name: unknown loss 'tripet', did you mean 'triplet'?"),
        ([{"name": "triplet", "margn": 1}], "loss 'triplet' has no argument 'margn', did you mean 'margin'?"),
        ([{"name": "triplet", "labels": 1}], "loss 'triplet' has no argument 'labels'"),
        ([{"name": "triplet"}] * 2, "losses has triplet more than once"),
        ([{"name": "cross_entropy", "on": "features"}], "acts on: logits or specific_logits, received features"),
        ([{"name": "triplet", "on": ["logits"]}], "or specific_features or specific_embedding, received logits"),
        ([{"name": "branch_structure", "on": "specific_features"}], "acts on: features, received specific_features"),
        ([{"name": "modality_confusion", "on": "features"}], "what its arguments name, without `on`, received"),
        ([{"name": "center_loss", "on": "embedding"}], "acts on: features, received embedding"),
        ([{"name": "triplet", "weight": -1}], "losses.0.weight: should be greater than or equal to 0"),
        ([{"name": "triplet", "weight": 0}], "losses has weights of 0 only: there is nothing to learn from"),
        ({"tripet": {}}, "losses.0.name: unknown loss 'tripet', did you mean 'triplet'?"),
        ([{"name": "triplet", "schedule": {"ramp": 0}}], "schedule.ramp: should be greater than or equal to 1"),
        ([], "losses: list should have at least 1 item"),
    ],
)  # fmt: skip
def test_a_term_that_cannot_be_meant_is_refused(losses, message):
    with pytest.raises(ConfigError) as error:
        validate(Training, {**BASE, "losses": losses})
    assert message in str(error.value)


@pytest.mark.parametrize("key", [{"triplet_loss": {}}, {"label_smoothing": 0.1}])
def test_nothing_is_stated_twice(key):
    with pytest.raises(
        ConfigError, match=f"losses states every term, and {next(iter(key))} stands beside it"
    ):
        training({"name": "cross_entropy"}, **key)


def test_a_value_that_a_loss_refuses_is_found_before_the_training():
    with pytest.raises(
        ConfigError, match="loss 'triplet' cannot be computed: strategy: unknown value 'hrad'"
    ):
        check_losses(training({"name": "triplet", "strategy": "hrad"}))


def test_yaml_s_on_is_a_key_and_not_true():
    assert Loss.model_validate(yaml.safe_load("{name: triplet, on: embedding}")).outputs == ("embedding",)
    by_name = training(losses=yaml.safe_load("{triplet: {on: embedding, margin: 0.1}, cross_entropy: }"))
    written = training({"name": "triplet", "on": "embedding", "margin": 0.1}, {"name": "cross_entropy"})
    assert by_name.terms == written.terms


def test_a_weight_of_0_leaves_the_term_out():
    asked = training({"name": "cross_entropy"}, {"name": "triplet", "weight": 0})
    assert [term.name for term in asked.terms] == ["cross_entropy"]
    assert set(losses_of(asked)) == {"cross_entropy"}


def test_what_a_checkpoint_stores_is_read_again():
    asked = training({"name": "triplet", "margin": 0.2, "schedule": {"after": 3}})
    assert Training.model_validate(asked.model_dump(mode="json", exclude_unset=True)).terms == asked.terms


def test_a_term_on_two_outputs_is_the_sum():
    trained = network(branch=True)
    both = training({"name": "triplet", "on": ["features", "specific_features"], "margin": 1.0})
    found = forward(trained, losses_of(both), images(), LABELS, training=False)
    outputs = trained(np.concatenate(list(images().values())), training=False)
    values = [LOSSES.get("triplet")(outputs[name], LABELS, margin=1.0) for name in both.terms[0].outputs]
    assert float(found["triplet_loss"]) == pytest.approx(float(sum(values)), rel=1e-5)


def test_modalities_of_a_batch_are_those_of_its_images():
    """Visible images come first, whatever the batch: labels of modality follow the images, not their place."""
    asked = losses_of(training({"name": "modality_classification"}))
    trained, batch = network(branch=True), images()
    logits = np.asarray(trained(np.concatenate(list(batch.values())), training=False)["modality_logits"])
    told = -np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    whole = forward(trained, asked, batch, LABELS, training=False)["modality_classification_loss"]
    assert float(whole) == pytest.approx(np.mean([*told[:6, 0], *told[6:, 1]]), rel=1e-5)
    for number, part in enumerate(batch.values()):
        step = make_validation_step(trained, asked, compiled=False, modality=number)
        found = float(step(part, LABELS[:6])["modality_classification_loss"])
        assert found == pytest.approx(np.mean(told[6 * number : 6 * number + 6, number]), rel=1e-5)


# ------------------------------------------------------------------------------------------------------------
# Learned weights


def test_uncertainty_starts_at_the_weights_of_the_configuration_and_learns_the_scale():
    values = [np.float32(40.0), np.float32(0.02)]
    start = weighted_by_uncertainty(values, np.zeros(2, "float32"))
    assert [float(value) for value in start] == pytest.approx([40.0, 0.02])
    layer = LogVariances(2)
    layer.build((None, 3))
    optimizer = keras.optimizers.SGD(0.02)

    def train(values, steps):
        for _ in range(steps):
            with tf.GradientTape() as tape:
                total = sum(weighted_by_uncertainty(values, layer.values.value))
            optimizer.apply([tape.gradient(total, layer.values.value)], [layer.values])
        return np.asarray(layer.values)

    # The first is at its limit, the other at the log of twice the loss.
    assert train(values, 2000) == pytest.approx([4.0, np.log(2 * 0.02)], abs=0.05)
    # A loss that was 0 for long counts as it should once there is one again.
    assert train([np.float32(0.5), np.float32(0.0)], 1000)[1] == -4.0
    assert train([np.float32(0.5), np.float32(0.5)], 2000) == pytest.approx([0.0, 0.0], abs=0.05)


def test_learned_weights_are_trained_and_kept_and_not_deployed(tmp_path):
    asked = training(
        {"name": "cross_entropy"},
        {"name": "triplet", "weight": 2.0, "margin": 1.0},
        {"name": "cosine_alignment", "schedule": {"after": 1}},
    )
    trained = network(log_variances=3)
    step = make_training_step(trained, keras.optimizers.SGD(0.01), losses_of(asked), compiled=False)
    first = {name: float(value) for name, value in step(images(), LABELS).items()}
    assert first["loss"] == pytest.approx(first["cross_entropy_loss"] + 2 * first["triplet_loss"], rel=1e-5)
    expected = 0.01 * np.array([first["cross_entropy_loss"] - 0.5, 2 * (first["triplet_loss"] - 0.5), 0.0])
    found = np.asarray(log_variances_of(trained).values)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    trained.save(tmp_path / "trained.keras")
    loaded = keras.saving.load_model(tmp_path / "trained.keras", safe_mode=True)
    np.testing.assert_array_equal(log_variances_of(loaded).values, found)
    assert "log_variances" not in [layer.name for layer in embedding_model(loaded).layers]
    assert trained.layers[-1].name == "logits", "frozen_layers: (0:-1) means all but the classifier"
