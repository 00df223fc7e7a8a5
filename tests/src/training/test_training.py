"""The training step, the loop and its checkpoints, on a network small enough to trace in no time."""

import json
import resource
import signal

import keras
import numpy as np
import pytest

from common.config import ConfigError, validate
from common.layers.rewrite import with_fused_batch_norm
from src.data.sample import Sample
from src.models._head import embedding_model, reid_network
from src.schema import Training
from src.training import validation
from src.training.callbacks import make_callbacks
from src.training.checkpoint import Best, Progress, read_checkpoint, save_checkpoint
from src.training.fit import TrainingDivergedError, fit
from src.training.step import forward, losses_of, make_training_step, make_validation_step

BATCH, IDENTITIES = 8, 4


def _training(**changes) -> Training:
    base = {
        "batch_size": BATCH,
        "epochs": 2,
        "optimizer": "SGD",
        "images_per_identity": 2,
        "triplet_loss": {},
    }
    return Training.model_validate({**base, **changes})


def _network(bnneck: bool = True) -> keras.Model:
    keras.utils.set_random_seed(0)
    images = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False)(images)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return reid_network(keras.Model(images, x, name="toy"), IDENTITIES, bnneck)


def _batches(count: int, bad: int | None = None):
    random = np.random.default_rng(0)
    for number in range(count):
        labels = np.repeat(np.arange(IDENTITIES), 2).astype(np.int32)
        images = random.normal(labels[:, None, None, None], 1, (BATCH, 32, 32, 3)).astype(np.float32)
        images[0] = np.nan if number == bad else images[0]
        yield {"images": images, "labels": labels, "index": np.arange(BATCH)}


def test_the_loss_is_the_weighted_sum_of_its_parts():
    training = _training(triplet_loss={"weight": 0.5})
    batch = next(_batches(1))
    scalars = forward(_network(), losses_of(training), batch["images"], batch["labels"], training=False)
    parts = float(scalars["cross_entropy_loss"]) + 0.5 * float(scalars["triplet_loss"])
    assert float(scalars["loss"]) == pytest.approx(parts, rel=1e-6)
    assert set(scalars) == {"loss", "cross_entropy_loss", "triplet_loss", "accuracy"}


def test_without_the_section_there_is_no_triplet_loss():
    assert set(losses_of(_training(triplet_loss=None))) == {"cross_entropy"}


def test_a_compiled_step_equals_an_eager_one():
    results = []
    for compiled in (True, False):
        network = _network()
        step = make_training_step(network, keras.optimizers.Adam(0.01), losses_of(_training()), compiled)
        losses = [float(step(b["images"], b["labels"])["loss"]) for b in _batches(3)]
        results.append((losses, network.get_weights()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for first, second in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)


def test_neck_and_classifier_may_learn_faster():
    moves = {}
    for rate in (1.0, 10.0):
        network = _network()
        before = [v.numpy() for v in network.trainable_variables]
        batch, sgd = next(_batches(1)), keras.optimizers.SGD(1e-3)
        make_training_step(network, sgd, losses_of(_training()), compiled=False, head_rate=rate)(
            batch["images"], batch["labels"]
        )
        moves[rate] = [v.numpy() - old for v, old in zip(network.trainable_variables, before, strict=True)]
    paths = [variable.path for variable in network.trainable_variables]
    assert paths[-2:] == ["bnneck/gamma", "logits/kernel"]
    for path, slow, fast in zip(paths, *moves.values(), strict=True):
        factor = 10.0 if path.startswith(("bnneck", "logits")) else 1.0
        np.testing.assert_allclose(fast, factor * slow, rtol=2e-3, atol=1e-6)


def test_an_optimizer_that_does_not_see_the_scale_of_gradients_is_refused():
    with pytest.raises(ConfigError, match="head_rate scales gradients, .* expected optimizer SGD"):
        validate(Training, {**_training().model_dump(mode="json"), "optimizer": "Adam", "head_rate": 10.0})


def test_training_learns_what_can_be_learned():
    network = with_fused_batch_norm(_network())
    step = make_training_step(network, keras.optimizers.Adam(0.01), losses_of(_training()))
    losses = [float(step(b["images"], b["labels"])["loss"]) for b in _batches(60)]
    assert np.mean(losses[-5:]) < 0.7 * losses[0]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_sixteen_bit_training_updates_float32_weights(policy):
    network = with_fused_batch_norm(_network(), policy)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=8.0)
    before = network.get_weights()
    batch = next(_batches(1))
    loss = make_training_step(network, optimizer, losses_of(_training()), compiled=False)(
        batch["images"], batch["labels"]
    )
    assert np.isfinite(float(loss["loss"]))
    assert any(not np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))
    assert {v.dtype for v in network.trainable_variables} == {"float32"}


def _fit(
    folder,
    batches,
    epochs=2,
    callbacks=None,
    save=lambda done, best: None,
    validate=lambda: {"val_loss": 1.0},
    done=None,
):
    network = _network()
    optimizer = keras.optimizers.SGD(0.1)
    network.compile(optimizer=optimizer)
    return fit(
        step=make_training_step(network, optimizer, losses_of(_training()), compiled=False),
        batches=batches,
        epochs=epochs,
        steps_per_epoch=2,
        validate=validate,
        callbacks=make_callbacks(network, callbacks or {}, folder / "logs"),
        done=done or Progress(Best("val_loss", "min")),
        save=save,
        names_of=lambda index: [f"image_{i}.jpg" for i in index],
        folder=folder,
    )


def test_the_best_epoch_is_the_one_that_is_saved_as_best(tmp_path):
    values = iter([2.0, 1.0, 1.5])
    saved = []
    done = _fit(
        tmp_path, _batches(6), 3,
        save=lambda done, best: saved.append((done.epoch, best)), validate=lambda: {"val_loss": next(values)},
    )  # fmt: skip
    assert saved == [(1, True), (2, True), (3, False)]
    assert (done.best.epoch, done.best.value) == (1, 1.0)
    assert done.history["val_loss"] == [2.0, 1.0, 1.5]
    rows = (tmp_path / "logs/metrics/train_metrics.csv").read_text().splitlines()
    assert len(rows) == 4 and rows[0].startswith("epoch,")
    assert list((tmp_path / "logs").rglob("events.out.tfevents*"))


def test_a_keras_callback_stops_the_training(tmp_path):
    done = _fit(tmp_path, _batches(20), 10, {"EarlyStopping": {"monitor": "val_loss", "patience": 1}})
    assert len(done.history["loss"]) == 2


def test_a_schedule_sets_the_rate_of_each_epoch(tmp_path):
    schedule = {"LRCosineDecay": {"initial_lr": 1.0, "hold_steps": 0, "decay_steps": 2, "end_lr": 0.0}}
    done = _fit(tmp_path, _batches(6), 3, schedule)
    assert done.history["learning_rate"] == pytest.approx([1.0, 0.5, 0.0])


def test_a_loss_that_is_not_finite_stops_the_run_with_the_files(tmp_path):
    with pytest.raises(TrainingDivergedError, match="in epoch 2, step 2"):
        _fit(tmp_path, _batches(6, bad=3), 3)
    report = json.loads((tmp_path / "diverged_batch.json").read_text())
    assert report["files"] == [f"image_{i}.jpg" for i in range(BATCH)]


def test_saving_leaves_the_previous_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    model = embedding_model(_network())
    save_checkpoint(model, path)
    content = path.read_bytes()

    def fail(target):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save", fail)
    with pytest.raises(OSError, match="No space left on device: .*, the previous one is kept"):
        save_checkpoint(model, path)
    assert path.read_bytes() == content


def test_validation_averages_over_every_image_once():
    network, losses = _network(), losses_of(_training(triplet_loss=None))
    batch = next(_batches(1))
    step = make_validation_step(network, losses, compiled=False)
    logs = validation.classification(step, [batch["images"][:6], batch["images"][6:]], batch["labels"])
    whole = forward(network, losses, batch["images"], batch["labels"], training=False)
    assert logs["val_loss"] == pytest.approx(float(whole["loss"]), rel=1e-5)
    assert logs["val_accuracy"] == pytest.approx(float(whole["accuracy"]))


def _samples(keys, folder):
    return [Sample(folder / f"{n}.jpg", identity, camera) for n, (identity, camera) in enumerate(keys)]


def test_held_out_identities_are_divided_into_query_and_gallery(tmp_path):
    samples = _samples([(1, 1), (1, 1), (1, 2), (2, 1), (2, 1)], tmp_path)
    query, gallery = validation.split_query_gallery(samples)
    assert [s.path.stem for s in query] == ["0", "2", "3"]
    assert [s.path.stem for s in gallery] == ["1", "4"]


def test_the_protocol_follows_the_cameras(tmp_path):
    assert validation.default_protocol([1, 2, 1]) == "market1501"
    assert validation.default_protocol([0, 0]) == validation.default_protocol([1, 0, 2]) == "no_camera"


def test_retrieval_of_perfect_embeddings_scores_one(tmp_path):
    samples = _samples([(i, c) for i in range(3) for c in (1, 2)], tmp_path)
    logs = validation.retrieval(
        lambda part: np.eye(3, dtype=np.float32)[[s.identity for s in part]], samples[::2], samples[1::2]
    )
    assert logs == {"val_rank1": 1.0, "val_mAP": 1.0}


def test_a_checkpoint_keeps_the_progress_and_is_a_keras_file(tmp_path):
    done = Progress(
        Best("val_mAP", "max", 0.5, 2), 3, 1, {"loss": 2.0}, {"loss": [3.0]}, {"0_X": {"wait": 1}}
    )
    network = _network()
    save_checkpoint(network, tmp_path / "last.keras", done, {"identities": 4})
    assert read_checkpoint(tmp_path / "last.keras") == (done, {"identities": 4})
    loaded = keras.saving.load_model(tmp_path / "last.keras")
    for a, b in zip(network.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_without_progress_cannot_be_resumed_from(tmp_path):
    save_checkpoint(embedding_model(_network()), tmp_path / "best_model.keras")
    (tmp_path / "text.keras").write_text("no model")
    for name in ("best_model.keras", "text.keras", "missing.keras"):
        with pytest.raises(ConfigError, match=f"cannot be resumed from .*{name}.*last_augmented_model.keras"):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_leaves_with_the_usual_code(tmp_path, number):
    def interrupt():
        for count, batch in enumerate(_batches(20)):
            if count == 3:
                signal.raise_signal(number)
            yield batch

    saved = []
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as leaving:
        _fit(tmp_path, interrupt(), 5, save=lambda done, best: saved.append(done))
    assert leaving.value.code == 128 + number
    assert (saved[-1].epoch, saved[-1].step) == (1, 2)
    assert signal.getsignal(number) is before


def test_a_signal_during_the_validation_of_the_last_epoch_leaves_too(tmp_path):
    saved = []

    def validate():
        if len(saved) == 1:
            signal.raise_signal(signal.SIGTERM)
        return {"val_loss": 1.0}

    with pytest.raises(SystemExit) as leaving:
        _fit(tmp_path, _batches(20), 2, validate=validate, save=lambda done, best: saved.append(done))
    assert leaving.value.code == 128 + signal.SIGTERM
    assert (saved[-1].epoch, saved[-1].step) == (2, 0)


def test_callbacks_continue_with_their_patience(tmp_path):
    stopping = {"EarlyStopping": {"monitor": "val_loss", "patience": 3}}
    states = []
    _fit(tmp_path / "a", _batches(20), 3, stopping, save=lambda done, best: states.append(done))
    whole = _fit(tmp_path / "b", _batches(40), 10, stopping)
    resumed = _fit(tmp_path / "c", _batches(40), 10, stopping, done=states[1])
    assert len(whole.history["loss"]) == len(resumed.history["loss"]) == 4


@pytest.mark.parametrize(
    ("monitor", "value"), [("val_accuracy", 0.5), ("val_mAP", 0.5), ("val_triplet_loss", 0.5)]
)
def test_callbacks_know_the_direction_of_what_they_monitor(tmp_path, monitor, value):
    callbacks = {
        "EarlyStopping": {"monitor": monitor, "patience": 1},
        "ReduceLROnPlateau": {"monitor": monitor},
    }
    sign = -1 if monitor.endswith("loss") else 1
    values = iter([value, value + 0.1 * sign, value + 0.2 * sign])
    done = _fit(
        tmp_path, _batches(6), 3, callbacks, validate=lambda: {"val_loss": 1.0, monitor: next(values)}
    )
    assert len(done.history["loss"]) == 3, "three improvements in a row do not stop the training"


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "last_augmented_model.keras"
    network = _network()
    save_checkpoint(network, path, Progress(Best("val_loss", "min"), epoch=3))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # writing more fails as a full disk does
        with pytest.raises(OSError, match=r"cannot be written, the previous one is kept"):
            save_checkpoint(network, path, Progress(Best("val_loss", "min"), epoch=4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_checkpoint(path)[0].epoch == 3
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
