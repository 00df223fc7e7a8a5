from types import SimpleNamespace

import keras
import numpy as np
import pytest

from common.artifacts import Model
from common.config import ConfigError, validate
from src.data.sample import Sample
from src.data.selection import Data
from src.models._head import reid_network
from src.schema import Config, Training
from src.training.check_training import _check_batch
from src.training.checkpoint import Best, Progress, save_checkpoint
from src.training.start import _as_before, _check_heads, inputs_of, start_of, start_preprocessing, with_best
from src.training.validator import searched

FILES = ("best_augmented_model.keras", "best_model.keras")


@pytest.fixture
def checkpoint(tmp_path):
    """The last checkpoint of an interrupted training, with its best models beside it."""
    folder = tmp_path / "before"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text(name)
    return folder / "last_augmented_model.keras"


def test_a_resumed_training_keeps_the_best_models_so_far(checkpoint, tmp_path):
    done = Progress(Best("val_mAP", "max", 0.9, 1), epoch=3)
    assert with_best(done, 3, checkpoint, tmp_path) == done
    for name in FILES:
        assert (tmp_path / name).read_text() == name
    assert {path.name for path in tmp_path.iterdir()} == {"before", *FILES}


def test_where_the_best_models_are_lost_a_coming_epoch_is_the_best(checkpoint, tmp_path, caplog):
    checkpoint.with_name("best_model.keras").unlink()
    before = Progress(Best("val_mAP", "max", 0.9, 1), epoch=3)
    done = with_best(before, 4, checkpoint, tmp_path)
    assert (done.best, done.epoch) == (Best("val_mAP", "max"), 3)
    assert "best_model.keras is not there" in caplog.text
    with pytest.raises(ConfigError, match="at the end of its 3 epochs, and .*best_model.keras is not there"):
        with_best(before, 3, checkpoint, tmp_path)


def test_a_training_without_a_best_epoch_has_nothing_to_keep(checkpoint, tmp_path, caplog):
    done = Progress(Best("val_loss", "min"), step=2)
    assert with_best(done, 3, checkpoint, tmp_path) == done
    assert [path.name for path in tmp_path.iterdir()] == ["before"] and not caplog.text


TRAINING = {"batch_size": 8, "epochs": 1, "optimizer": "SGD", "images_per_identity": 2}


def _config(preprocessing=None, name=None, **training):
    raw = {
        "operation_mode": "training",
        "model": {"model_path": "m.keras", "model_name": name},
        "dataset": {"training_path": "t"},
        "training": {**TRAINING, **training},
        "preprocessing": preprocessing,
    }
    return validate(Config, raw)


def _model(path):
    recorded = {"input_shape": (64, 32, 3), "scale": 1 / 255, "offset": 0.0}
    return Model({"keras": path / "m.keras"}, "float32", (64, 32, 3), 8, preprocessing=recorded)


def test_a_training_from_a_model_takes_its_preprocessing_unless_another_is_stated(tmp_path, caplog):
    stated, shape = {"rescaling": {"scale": 0.5, "offset": 0}}, (64, 32, 3)
    assert start_preprocessing(_config(), None, shape).scale == 1 / 127.5
    assert start_preprocessing(_config(), _model(tmp_path), shape).scale == 1 / 255
    assert start_preprocessing(_config(stated), _model(tmp_path), shape).scale == 0.5
    assert not caplog.text
    resumed = _config(stated, resume_training=True)
    assert start_preprocessing(resumed, _model(tmp_path), shape).scale == 1 / 255
    assert "preprocessing differs from what" in caplog.text


def test_across_modalities_thermal_images_search_visible_ones(tmp_path):
    samples = [Sample(tmp_path / f"{n}.jpg", n // 4, 1, ("visible", "thermal")[n % 2]) for n in range(8)]
    query, gallery = searched(samples, by_modality=True)
    assert {s.modality for s in query} == {"thermal"} and {s.modality for s in gallery} == {"visible"}
    assert len(query) == len(gallery) == 4
    query, _ = searched(samples, by_modality=False)
    assert len(query) == 2  # one image of each person and camera


def test_batches_of_two_modalities_are_for_one_device():
    batches = SimpleNamespace(p=4, labels=np.arange(8), by_modality=True, check=lambda: None)
    training = validate(Training, {**TRAINING, "distribution": "mirrored"})
    distribution = SimpleNamespace(is_distributed=True, replicas=2)
    with pytest.raises(ConfigError, match="distribution: mirrored divides batches of one modality"):
        _check_batch(training, batches, distribution)


def test_a_resumed_training_has_the_losses_that_are_stated_now(caplog):
    now = validate(Training, {**TRAINING, "losses": [{"name": "triplet"}], "dropout": 0.5})
    kept = _as_before(now, validate(Training, TRAINING).model_dump(mode="json"))
    assert ([term.name for term in kept.terms], kept.dropout) == (["triplet"], 0.0)
    assert "training.dropout cannot change when a training is resumed" in caplog.text


def _network(**head):
    image = keras.Input((32, 32, 3))
    return reid_network(keras.Model(image, keras.layers.GlobalAveragePooling2D()(image)), 4, **head)


def test_a_training_is_resumed_with_as_many_people_as_before(tmp_path):
    path = tmp_path / "last_augmented_model.keras"
    save_checkpoint(_network(), path, Progress(Best("val_loss", "min")), {"identities": 4})
    people = [Sample(tmp_path / f"{n}.jpg", n, 1) for n in range(3)]
    model = Model({"keras": path}, "float32", (32, 32, 3), 3)
    with pytest.raises(
        ConfigError, match="was trained on 4 identities, the training set has 3: resume on the"
    ):
        start_of(_config(resume_training=True), Data(people), model)


@pytest.mark.parametrize(
    ("losses", "weighting", "head", "missing"),
    [
        ({"modality_confusion": {}, "center_loss": {}}, "fixed", {}, "confusion_logits, centers"),
        ({"cross_entropy": {}}, "uncertainty", {"log_variances": 2}, "learned weights of 1 losses"),
    ],
)
def test_losses_that_a_checkpoint_was_not_trained_with_are_named(tmp_path, losses, weighting, head, missing):
    training = validate(Training, {**TRAINING, "losses": losses, "loss_weighting": weighting})
    with pytest.raises(ConfigError, match=f"losses needs {missing}, which .*m.keras was trained without"):
        _check_heads(training, _network(**head), tmp_path / "m.keras")


def test_a_network_for_two_modalities_is_no_start_of_another(tmp_path):
    images = {name: keras.Input((32, 32, 3), name=name) for name in ("visible", "thermal")}
    keras.Model(images, keras.layers.Add()(list(images.values()))).save(tmp_path / "m.keras")
    with pytest.raises(
        ConfigError, match="m.keras takes visible and thermal images already; leave model_name"
    ):
        inputs_of(_config(name="agw"), _model(tmp_path))
