"""Callbacks are checked before anything runs: schedules, their number, and what is monitored."""

import keras
import numpy as np
import pytest

from common.config import ConfigError
from src.models._head import reid_network
from src.registries import (
    build_schedule,
    check_callback,
    check_callbacks,
    check_monitors,
    monitor_mode,
    monitor_of,
    monitors,
    schedules_in,
)
from src.schema import Training
from src.training import validation
from src.training.step import losses_of, make_validation_step

LINEAR = {"initial_lr": 0.1, "hold_steps": 1, "decay_steps": 2, "end_lr": 0.0}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("LRLinearDecay", {**LINEAR, "decay_steps": 0}, "schedule 'LRLinearDecay': decay_steps must be an integer"),
        ("LRLinearDecay", {**LINEAR, "hold_step": 0}, "no argument 'hold_step', did you mean 'hold_steps'"),
        ("LRLinearDecay", {"initial_lr": 0.1}, "schedule 'LRLinearDecay' needs the argument"),
        ("LRLinearDecai", {}, "unknown callback 'LRLinearDecai', did you mean 'LRLinearDecay'"),
        ("LearningRateScheduler", {"schedule": "lambda epoch: 0.1"}, "needs a Python function"),
        ("CSVLogger", {}, "callback 'CSVLogger' is built in and cannot be redefined"),
        ("EarlyStopping", {"monitor": "val_acuracy"}, "'val_acuracy' is not logged, did you mean 'val_accuracy'"),
        ("ReduceLROnPlateau", {"monitor": "precision"}, "monitor 'precision' is not logged, expected one of: acc"),
    ],
)  # fmt: skip
def test_a_callback_that_cannot_work_is_refused(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        check_callback(name, arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("LRLinearDecay", {**LINEAR, "verbose": 1, "warmup_epochs": 2}),
        ("EarlyStopping", {"monitor": "val_mAP", "patience": 3}),
        ("ReduceLROnPlateau", {}),
        ("TerminateOnNaN", {}),
    ],
)
def test_others_are_accepted(name, arguments):
    check_callback(name, arguments)


def test_verbose_is_the_callback_s_and_not_the_schedule_s():
    assert build_schedule("LRLinearDecay", {**LINEAR, "verbose": 1})(2) == pytest.approx(0.05)


def test_only_one_callback_may_set_the_learning_rate():
    both = {"LRStepDecay": {}, "EarlyStopping": {}, "ReduceLROnPlateau": None}
    assert schedules_in(both) == ["LRStepDecay", "ReduceLROnPlateau"]
    with pytest.raises(
        ConfigError, match="more than one learning-rate schedule, LRStepDecay, ReduceLROnPlateau"
    ):
        check_callbacks(both)
    check_callbacks({"LRStepDecay": {}, "EarlyStopping": {}})


def test_what_can_be_monitored_is_what_classification_logs():
    training = Training(
        batch_size=4, epochs=1, images_per_identity=2, optimizer="SGD", triplet_loss={"margin": 0.3}
    )
    losses = losses_of(training)
    features = keras.Input((4,))
    network = reid_network(keras.Model(features, keras.layers.Dense(3)(features)), 2)
    step = make_validation_step(network, losses, compiled=False)
    labels = np.array([0, 0, 1, 1], np.int32)
    logged = validation.classification(step, [np.eye(4, dtype=np.float32)], labels)
    assert set(monitors(losses, retrieval=False)) == set(logged) | {
        name.removeprefix("val_") for name in logged
    }


def test_what_can_be_monitored_depends_on_the_validation():
    assert monitors(["cross_entropy"], retrieval=True) == [
        *("loss", "cross_entropy_loss", "accuracy", "val_rank1", "val_mAP")
    ]
    with pytest.raises(ConfigError, match="callback 'EarlyStopping': monitor 'val_loss' is not logged"):
        check_monitors({"LRStepDecay": {}, "EarlyStopping": None}, monitors([], retrieval=True))
    check_monitors({"EarlyStopping": {"monitor": "val_mAP"}}, monitors([], retrieval=True))
    across = {"EarlyStopping": {"monitor": "val_thermal_to_visible_mAP"}}
    check_monitors(across, monitors([], retrieval=True, both_modalities=True))
    with pytest.raises(ConfigError, match="'val_thermal_to_visible_mAP' is not logged"):
        check_monitors(across, monitors([], retrieval=True))


def test_the_monitor_may_be_the_default_and_has_a_direction():
    assert monitor_of("EarlyStopping", {}) == "val_loss"
    assert monitor_of("LRStepDecay", {}) is None
    modes = {name: monitor_mode(name) for name in monitors(["triplet"], retrieval=True)}
    assert modes == {
        "loss": "min",
        "triplet_loss": "min",
        "accuracy": "max",
        "val_rank1": "max",
        "val_mAP": "max",
    }
