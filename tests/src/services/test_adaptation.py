"""Adaptation of networks with one input and with two stems: rounds, guards, resuming, and labels that nobody reads."""

import csv
import json
import logging
import shutil
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import onnx
import pytest
from keras import layers, ops
from PIL import Image

from common.artifacts import Model
from common.config import Component, ConfigError, validate
from common.registry import Registry
from common.run import Run, seed_everything
from src.adaptation.guards import NothingToLearnError
from src.adaptation.memory import ClusterMemory
from src.adaptation.statistics import cluster_statistics
from src.data.pipeline import load_images
from src.data.preprocessing import Preprocessing
from src.data.readers.vt_mot import vt_mot
from src.data.sample import UNKNOWN, Sample
from src.data.selection import Data, read
from src.pipeline import _preflight, _starting_model
from src.registries import MODELS
from src.schema import Config
from src.services import adaptation, evaluation, quantization
from src.services._adaptation import labels as labels_module
from src.services._adaptation import learner as learners
from src.services._adaptation.labels import given_by, least_points
from src.services._adaptation.labels import labels_of as labels_of_target
from src.services._adaptation.learner import learner_of, memories_of
from src.services._adaptation.target import target_of
from src.services._adaptation.target_images import Side

SHAPE = (64, 32, 3)
PREPROCESSING = {
    "input_shape": SHAPE, "scale": 1 / 127.5, "offset": -1.0, "interpolation": "bilinear", "aspect_ratio": "fit",
    "color_mode": "rgb",
}  # fmt: skip
SECTION = {
    "optimizer": {"Adam": {"learning_rate": 0.01}}, "rounds": 2, "steps_per_round": 3, "batch_size": 16,
    "images_per_identity": 2, "k1": 6, "k2": 2, "clustering": {"dbscan": {"eps": 0.7, "min_samples": 2}},
    "cross_modal_weight": 1.0,
}  # fmt: skip
SCHEDULE = {"LRStepDecay": {"initial_lr": 0.01, "step_size": 1, "decay_rate": 0.5}}
WALKS = [(camera, track) for camera in (1, 2) for track in (1, 2, 3)]


def _image(person: int, modality: str, key: tuple) -> Image.Image:
    """A person's colours; the thermal image is a negative of one channel."""
    coarse = np.random.default_rng(person).integers(20, 236, (4, 2, 3))
    if modality == "thermal":
        coarse = 255 - coarse[..., :1].repeat(3, axis=2)
    noise = np.random.default_rng((person, modality == "thermal", *key)).integers(-30, 31, (64, 32, 3))
    pixels = np.clip(coarse.repeat(16, 0).repeat(16, 1) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels if modality == "visible" else pixels[..., 0])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight people to adapt to and four to test on, seen by two pairs of sensors in walks of two frames, two a walk."""
    folder = tmp_path_factory.mktemp("vt_mot")
    for modality in ("visible", "thermal"):
        for part in ("train", "query", "gallery"):
            (folder / part / modality).mkdir(parents=True)
        for person in range(12):
            for camera, track in WALKS:
                part = "train" if person < 8 else "query" if track == 1 else "gallery"
                for frame in range(2):
                    name = f"streetx{person}_c{camera}_t{track}_g{person // 2}_{frame:06d}.jpg"
                    image = _image(person, modality, (camera, track, frame))
                    image.save(folder / part / modality / name, quality=95)
    return folder


def _branch(images: keras.KerasTensor, prefix: str, trunk: list[layers.Layer]) -> keras.KerasTensor:
    x = layers.Conv2D(4, 1, use_bias=False, name=f"{prefix}stem")(images)
    for layer in trunk:
        x = layer(x)
    return x


def _trunk() -> list[layers.Layer]:
    return [
        layers.BatchNormalization(name="norm"),
        layers.ReLU(name="relu"),
        layers.AveragePooling2D(16, name="grid"),
        layers.Flatten(name="flat"),
        layers.Dense(16, name="features"),
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Model]:
    """A network with one input, and one with two stems, both new."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE)
    networks = {"one": keras.Model(image, _branch(image, "", _trunk()), name="one")}
    images = {
        "visible": keras.Input(SHAPE, name="visible"),
        "thermal": keras.Input((64, 32, 1), name="thermal"),
    }
    trunk = _trunk()
    outputs = {name: _branch(image, f"{name}_", trunk) for name, image in images.items()}
    networks["two"] = keras.Model(images, outputs, name="two")
    found = {}
    for name, network in networks.items():
        path = folder / f"{name}.keras"
        network.save(path)
        found[name] = Model({"keras": path}, "float32", SHAPE, 16, PREPROCESSING, {"model_name": name})
        found[name].save()
    return found


def _config(root, model, section=None, mode="adaptation", **sections):
    start = {"model_path": str(model.path)} if isinstance(model, Model) else model
    return validate(
        Config,
        {
            "operation_mode": mode,
            "model": start,
            "dataset": {"dataset_name": "vt_mot", "root_path": str(root), "cache": "memory"},
            "adaptation": {**SECTION, **(section or {})},
            **sections,
        },
    )


def _run(folder, config):
    seed_everything(0, deterministic_ops=False)
    model = _starting_model(config)
    data = _preflight(config, {"adaptation": adaptation}, model, Run(folder, 0))
    return adaptation.run(config, data, model, Run(folder, 0))


def _weights(model):
    return keras.saving.load_model(model.path, compile=False).get_weights()


def _same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# --------------------------------------------------------------------------------------------------------------------
# Whole runs


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_model_is_adapted_and_described(name, root, models, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    report, adapted = _run(tmp_path, _config(root, models[name]))
    assert adapted.path == tmp_path / "saved_models/adapted_model.keras"
    assert not _same(_weights(adapted), _weights(models[name]))
    loaded = Model.load(adapted.path)
    assert loaded.source.path.name == f"{name}.keras" and loaded.embedding_dim == 16
    assert loaded.preprocessing["scale"] == 1 / 127.5
    assert loaded.trained_on["adapted_images"] == 8 * 6 * 2 * 2 and loaded.trained_on["model_name"] == name
    assert report.metrics["rounds"] == 2 and report.metrics["visible/images"] == 96
    assert report.metrics["visible/clusters"] >= 2 and report.metrics["thermal/across"] > 0.5
    assert (
        "adapting" in caplog.text and "96 visible images and 96 thermal images, 48 by tracks" in caplog.text
    )
    assert "the model of the last round is kept" in report.notes[0].lower()
    names = {path.name for path in report.files}
    assert names == {
        "rounds.csv", "pseudo_labels.csv", "clusters.png", "cluster_shares.png", "cluster_sheet.png", "report.html",
    }  # fmt: skip
    assert all(path.is_file() for path in report.files)
    with (tmp_path / "adaptation/pseudo_labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 192 and {row["modality"] for row in rows} == {"visible", "thermal"}
    assert {row["label"].partition("-")[0] for row in rows} <= {"visible", "thermal", ""}
    assert [row[:2] for row in report.tables[0].rows] == [
        (1, "visible"), (1, "thermal"), (2, "visible"), (2, "thermal"),
    ]  # fmt: skip


def test_adaptation_ends_with_a_test_that_shows_the_model_before_beside_it(
    root, models, tmp_path, monkeypatch
):
    monkeypatch.setattr(evaluation, "evaluation_pictures", lambda *_: [])
    config = _config(root, models["one"])
    assert config.services == ("adaptation", "evaluation")
    model = _starting_model(config)
    services = {"adaptation": adaptation, "evaluation": evaluation}
    data = _preflight(config, services, model, Run(tmp_path, 0))
    _, adapted = adaptation.run(config, data, model, Run(tmp_path, 0))
    report = evaluation.run(config, data, adapted, Run(tmp_path, 0))
    assert [row[0] for row in report.tables[0].rows[:2]] == ["one.keras", "adapted_model.keras"]
    assert "thermal_to_visible_mAP" in " ".join(report.metrics)


def test_a_new_network_learns_from_clusters_alone(root, tmp_path):
    # Unsupervised training: no source model; its batch norms start from the statistics of some images.
    config = _config(
        root, {"model_name": "plain_cnn", "input_shape": [64, 32, 3]}, {"rounds": 1, "steps_per_round": 1}
    )
    report, adapted = _run(tmp_path, config)
    assert adapted.source is None and adapted.embedding_dim == 192
    assert keras.saving.load_model(adapted.path, compile=False).layers[-1].name == "bnneck"
    assert report.metrics["rounds"] == 1
    assert Model.load(adapted.path).trained_on["modalities"] == ["visible", "thermal"]


@pytest.mark.parametrize("name", ["one", "two"])
def test_batch_norms_take_the_statistics_of_the_target(name, root, models, tmp_path):
    config = _config(root, models[name], {"rounds": 0, "target_statistics": True})
    report, adapted = _run(tmp_path, config)
    assert report.metrics["rounds"] == 0 and "Its batch norms started with" in report.notes[0]
    before, after = (keras.saving.load_model(model.path, compile=False) for model in (models[name], adapted))
    for old, new in zip(before.variables, after.variables, strict=True):
        assert np.array_equal(old, new) == ("moving" not in new.path)
    if name == "one":
        images = load_images(read(config).target, Preprocessing(**PREPROCESSING))
        stem = ops.convert_to_numpy(keras.Model(before.input, before.get_layer("stem").output)(images))
        norm = after.get_layer("norm")
        np.testing.assert_allclose(norm.moving_mean, stem.mean(axis=(0, 1, 2)), atol=1e-4)


@pytest.mark.parametrize(
    "section",
    [
        {"clustering": {"dbscan": {"eps": 1e-6, "min_samples": 99}}},
        {"optimizer": {"SGD": {"learning_rate": 1e38}}},
    ],
)
def test_a_guard_takes_the_statistics_of_the_target_back(section, root, models, tmp_path):
    report, adapted = _run(tmp_path, _config(root, models["one"], {**section, "target_statistics": True}))
    assert _same(_weights(adapted), _weights(models["one"]))
    assert report.metrics["rounds"] == 0 and "batch norms" not in report.notes[0]


@pytest.mark.parametrize("pretrained", [False, True])
def test_pretrained_statistics_are_kept_and_a_new_neck_gets_its_own(root, tmp_path, monkeypatch, pretrained):
    made = []

    def learner_of(*arguments):
        made.append(learners.learner_of(*arguments))
        return made[0]

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(adaptation, "build_backbone", lambda _: MODELS.get("plain_cnn")(SHAPE))
    monkeypatch.setattr(adaptation, "learner_of", learner_of)
    monkeypatch.setattr(adaptation, "features_of", stop)
    name = {"model_name": "mobilenetv1_a025", "input_shape": list(SHAPE), "pretrained": pretrained}
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, _config(root, name))
    [learner] = made
    for network in (learner.trained, learner.joined):
        norms = [layer for layer in network.layers if "BatchNormalization" in type(layer).__name__]
        as_built = [not np.any(layer.moving_mean) for layer in norms]
        assert norms[-1].name == "bnneck" and as_built == [*[pretrained] * (len(norms) - 1), False]
        assert all(layer.trainable and layer.momentum > 0 for layer in norms)


def test_learning_brings_images_of_a_person_together(root, models, tmp_path):
    """The thermal network starts with a stem of its own, so that people are far apart across the modalities."""
    config = _config(root, models["two"], {"rounds": 4, "steps_per_round": 20})
    _, adapted = _run(tmp_path, config)
    samples = [sample for part in ("query", "gallery") for sample in vt_mot(root, part)]
    scores = [_across(model, samples) for model in (models["two"], adapted)]
    assert scores[1] > scores[0] + 0.05


def _across(model, samples):
    """mAP of thermal images that search visible ones."""
    from src.training import validation

    network = keras.saving.load_model(model.path, compile=False)
    routes = validation.routes_of(network, Preprocessing(**PREPROCESSING))
    embeddings = validation.embed_samples(routes, samples)
    thermal = np.array([sample.modality == "thermal" for sample in samples])
    asking, shown = (
        [s for s, t in zip(samples, thermal, strict=True) if t == side] for side in (True, False)
    )
    return validation.score(embeddings[thermal], embeddings[~thermal], asking, shown).mAP


# --------------------------------------------------------------------------------------------------------------------
# Labels of the target


def test_the_loader_hands_over_no_identity(root, models):
    data = read(_config(root, models["one"]))
    assert {sample.identity for sample in data.target} == {UNKNOWN}
    assert data.training == []
    people = [int(sample.path.name.split("x")[1].split("_")[0]) for sample in data.target]
    neighbours = np.mean([a == b for a, b in zip(people, people[1:], strict=False)])
    assert neighbours < 0.3, "the order of the images does not tell who is seen"
    one = data.target[0]
    assert one.track and one.moment and one.scene


@pytest.fixture
def make_labels_garbage(monkeypatch):
    """Makes the reader give one of three names to each image, drawn at random."""

    def with_garbage(path, part):
        random = np.random.default_rng(1)
        return [replace(sample, identity=f"x{random.integers(3)}") for sample in vt_mot(path, part)]

    real = Registry.get
    return lambda: monkeypatch.setattr(
        Registry, "get", lambda self, name: with_garbage if name == "vt_mot" else real(self, name)
    )


def test_garbage_labels_give_the_same_weights(root, models, tmp_path, make_labels_garbage):
    config = _config(root, models["one"])
    report, adapted = _run(tmp_path / "true", config)
    make_labels_garbage()
    garbage = read(config, services=["training"])
    assert len({sample.identity for sample in garbage.training}) == 3
    again, from_garbage = _run(tmp_path / "garbage", config)
    assert _same(_weights(from_garbage), _weights(adapted))
    assert again.metrics == report.metrics


def _of_convolutions(folder) -> Model:
    """The network with one input as a phone takes it: what TFLite refuses, a dense layer, is a convolution."""
    keras.utils.set_random_seed(0)
    image = keras.Input(SHAPE)
    x = _branch(image, "", [*_trunk()[:-2], layers.Conv2D(16, (4, 2), name="features")])
    network = keras.Model(image, layers.GlobalAveragePooling2D(name="pool")(x), name="convolutions")
    network.save(folder / "start.keras")
    model = Model({"keras": folder / "start.keras"}, "float32", SHAPE, 16, PREPROCESSING)
    model.save()
    return model


def test_garbage_labels_give_the_same_int8_model_after_an_adaptation(root, tmp_path, make_labels_garbage):
    section = {
        "quantizer": "tfmot_qat", "max_images": 32, "encodings": [],
        "qat": {"epochs": 2, "batch_size": 32, "learning_rate": 0.001},
    }  # fmt: skip
    config = _config(root, _of_convolutions(tmp_path), {"rounds": 1}, "chain_aq", quantization=section)

    def quantized(folder):
        seed_everything(0, deterministic_ops=False)
        model, run = _starting_model(config), Run(folder, 0)
        data = _preflight(config, {"adaptation": adaptation, "quantization": quantization}, model, run)
        _, adapted = adaptation.run(config, data, model, run)
        report, made = quantization.run(config, data, adapted, run)
        graph = onnx.load(made.files["onnx"]).graph
        # Their order is that of the exporter, which is not always the same.
        return report, sorted(onnx.numpy_helper.to_array(weight).tobytes() for weight in graph.initializer)

    report, weights = quantized(tmp_path / "true")
    assert "the best by cosine to float on 38 validation images" in report.notes[0]
    assert "qat/val_mAP" not in report.metrics
    make_labels_garbage()
    again, from_garbage = quantized(tmp_path / "garbage")
    assert from_garbage == weights
    assert again.metrics["qat/val_cosine_mean"] == report.metrics["qat/val_cosine_mean"]


def test_quantization_after_an_adaptation_is_not_told_who_is_seen(root, models):
    section = {"quantizer": "tfmot_qat", "max_images": 16, "compare": True}
    data = read(_config(root, models["one"], {}, "chain_aqe", quantization=section))
    assert data.training == data.validation == [] and len(data.calibration) == 16
    assert {sample.identity for sample in (*data.target, *data.calibration)} == {UNKNOWN}
    alone = read(_config(root, models["one"], {}, "chain_qe", quantization=section))
    assert alone.training and not {UNKNOWN} & {sample.identity for sample in alone.validation}


def test_quantization_is_checked_for_a_network_that_adaptation_will_make(root):
    start = {"model_name": "plain_cnn", "input_shape": [64, 32, 3]}
    section = {"quantizer": "tfmot_qat", "qat": {"float_layers": ["gem*"]}}
    config = _config(root, start, {}, "chain_aq", quantization=section)
    with pytest.raises(ConfigError, match=r"'gem\*' is no layer of"):
        quantization.preflight(config, read(config), None)


def test_a_target_with_identities_is_refused():
    with pytest.raises(AssertionError, match="without identities"):
        target_of([Sample("a.jpg", 3, 1)], constraints=True)


def test_tracks_moments_and_scenes_tell_who_is_one_person_and_who_is_not(root, models):
    samples = read(_config(root, models["one"])).target
    target = target_of(samples, constraints=True)
    walk = [sample.moment.rpartition("_")[0] for sample in samples]
    cells = set(zip(target.groups.tolist(), walk, strict=True))
    assert len(cells) == 48 == target.groups.max() + 1
    assert len(target.apart) == 24  # two people walk together
    free = target_of(samples, constraints=False)
    assert free.groups.tolist() == list(range(192)) and len(free.apart) == 0


@pytest.mark.parametrize("center", [True, False])
def test_places_of_a_person_are_joined_where_cameras_are_centred(center, root, models):
    """Features with a shift of each sensor, as large as what tells people apart."""
    config = _config(root, models["one"], {"center_cameras": center})
    target = target_of(read(config).target, constraints=True)
    person = np.array([int(s.path.name.split("x")[1].split("_")[0]) for s in target.samples])
    random = np.random.default_rng(0)
    looks, ground = random.normal(size=(8, 16)), 1.5 * random.normal(size=(2, 3, 16))
    thermal = (target.modalities == "thermal").astype(int)
    features = looks[person] + ground[thermal, target.cameras] + 0.2 * random.normal(size=(192, 16))
    labels = labels_of_target(config.adaptation, target, features)
    for name in ("visible", "thermal"):
        own = target.modalities == name
        found = cluster_statistics(labels.own[own], None, person[own], target.cameras[own])
        assert found.joined == (1.0 if center else 0.0)


def test_a_person_who_is_twice_in_a_frame_is_a_mistake():
    frame = {"identity": UNKNOWN, "camera": 1, "scene": "a"}
    samples = [Sample(f"{n}.jpg", track="t", **frame) for n in range(2)]
    with pytest.raises(ConfigError, match=r"from the scene 'a'.* or set adaptation.constraints: False"):
        target_of(samples, constraints=True)


# --------------------------------------------------------------------------------------------------------------------
# Guards


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"clustering": {"dbscan": {"eps": 1e-6, "min_samples": 99}}}, "images for noise: raise its eps"),
        ({"clustering": {"dbscan": {"eps": 1.0}}, "k1": 90, "constraints": False}, "images into one cluster, so there"),
        ({"optimizer": {"SGD": {"learning_rate": 1e38}}, "rounds": 3}, "lower the learning rate"),
    ],
)  # fmt: skip
def test_a_guard_keeps_the_model_and_says_what_to_change(section, message, root, models, tmp_path, caplog):
    report, adapted = _run(tmp_path, _config(root, models["one"], section))
    assert _same(_weights(adapted), _weights(models["one"]))
    assert report.metrics["rounds"] == 0 and message in report.notes[1]
    assert "the model is as it was before" in caplog.text


def _at(monkeypatch, name, time, act):
    """Lets a function of the service raise `act`, or give what `act` makes of it, at its first, second, ... time."""
    real, calls = getattr(adaptation, name), []

    def called(*arguments):
        calls.append(arguments)
        if len(calls) != time:
            return real(*arguments)
        if isinstance(act, BaseException):
            raise act
        return act(real(*arguments))

    monkeypatch.setattr(adaptation, name, called)


def _finds_nobody_at(monkeypatch, time):
    _at(monkeypatch, "labels_of", time, adaptation.NothingToLearnError("no clusters"))


def _files_of_rounds(folder):
    names = {path.name for path in (folder / "adaptation").rglob("*")}
    return {name for name in names if name.startswith(("round_", "last_round"))}


def test_a_guard_in_a_later_round_keeps_the_last_weights_that_could_be_clustered(
    root, models, tmp_path, monkeypatch
):
    first, after_one = _run(tmp_path / "one", _config(root, models["one"], {"rounds": 1}))
    _finds_nobody_at(monkeypatch, 3)
    report, adapted = _run(tmp_path / "three", _config(root, models["one"], {"rounds": 3}))
    assert _same(_weights(adapted), _weights(after_one)), "those that the second round clustered with"
    assert report.metrics["rounds"] == 1 and "Round 2 failed" in report.notes[1]
    assert report.metrics["rounds_left"] == 2
    assert _files_of_rounds(tmp_path / "three") == {"round_1.csv"}, "nothing of the round that is taken back"


def test_a_round_that_cannot_be_learned_leaves_the_files_of_those_before(root, models, tmp_path, monkeypatch):
    _at(monkeypatch, "_learned", 2, adaptation.NothingToLearnError("the loss became nan"))
    report, _ = _run(tmp_path, _config(root, models["one"], {"rounds": 3}))
    assert report.metrics["rounds"] == 1
    assert _files_of_rounds(tmp_path) == {"round_1.csv", "last_round.npz"}


def test_a_last_round_in_which_the_network_collapses_is_taken_back(root, models, tmp_path, monkeypatch):
    _, after_one = _run(tmp_path / "one", _config(root, models["one"], {"rounds": 1}))
    _at(monkeypatch, "features_of", 3, np.ones_like)
    report, adapted = _run(tmp_path / "two", _config(root, models["one"], {"rounds": 2}))
    assert "Round 2 failed" in report.notes[1] and "it has collapsed" in report.notes[1]
    assert _same(_weights(adapted), _weights(after_one))


def test_a_run_that_is_cut_off_leaves_a_model_with_its_preprocessing(root, models, tmp_path, monkeypatch):
    _at(monkeypatch, "_learned", 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, _config(root, models["one"], {"rounds": 3}))
    [path] = tmp_path.rglob("adapted_model.keras")
    left = Model.load(path)
    assert left.trained_on["adaptation_rounds"] == 1
    assert left.preprocessing == models["one"].preprocessing | {"input_shape": list(SHAPE)}


def test_a_network_that_has_collapsed_is_kept(root, models, tmp_path):
    network = keras.saving.load_model(models["one"].path)
    network.get_layer("features").set_weights([np.zeros((32, 16)), np.ones(16)])
    network.save(tmp_path / "flat.keras")
    model = replace(models["one"], files={"keras": tmp_path / "flat.keras"})
    model.save()
    report, adapted = _run(tmp_path, _config(root, model))
    assert "it has collapsed" in report.notes[1] and _same(_weights(adapted), network.get_weights())


def test_without_a_model_to_keep_nothing_to_learn_is_an_error(root, tmp_path):
    start = {"model_name": "plain_cnn", "input_shape": [64, 32, 3]}
    noise = {"clustering": {"dbscan": {"eps": 1e-6, "min_samples": 99}}}
    with pytest.raises(ConfigError, match="adaptation: .* images for noise"):
        _run(tmp_path, _config(root, start, noise))


def test_a_new_network_that_cannot_be_clustered_with_after_a_round_is_not_kept(root, tmp_path, monkeypatch):
    rounds = iter([labels_of_target])

    def once(*arguments):
        for function in rounds:
            return function(*arguments)
        raise NothingToLearnError("all noise")

    monkeypatch.setattr(adaptation, "labels_of", once)
    start = {"model_name": "plain_cnn", "input_shape": [64, 32, 3]}
    with pytest.raises(ConfigError, match="all noise .there is no model to go back to, and none is kept"):
        _run(tmp_path, _config(root, start))
    assert not any((tmp_path / "saved_models").iterdir())
    assert not list((tmp_path / "adaptation").rglob("*.csv"))


def test_images_that_are_all_broken_leave_nothing_to_cluster(root, models, tmp_path):
    for part in ("train", "query", "gallery"):
        shutil.copytree(root / part, tmp_path / "target" / part)
    for path in (tmp_path / "target/train").rglob("*.jpg"):
        path.write_bytes(b"no image")
    dataset = {"dataset_name": "vt_mot", "root_path": str(tmp_path / "target"), "on_bad_image": "skip"}
    with pytest.raises(ConfigError, match="there is nothing to cluster: the target has no images"):
        _run(tmp_path, _config(root, models["one"], dataset=dataset))


def test_statistics_of_the_smaller_modality_do_not_cut_off_those_of_the_other(models, monkeypatch):
    taken = []
    monkeypatch.setattr(
        adaptation, "average_statistics", lambda model, batches, names: taken.extend(map(len, batches))
    )
    sides = {
        name: Side(np.arange(n), [], Preprocessing(**PREPROCESSING), np.zeros((n, *SHAPE), np.uint8))
        for name, n in (("visible", 150), ("thermal", 10))
    }
    network = keras.saving.load_model(models["one"].path, compile=False)
    learner = SimpleNamespace(trained=network, joined=network)
    adaptation._set_statistics(SimpleNamespace(sides=sides, learner=learner), "")
    assert taken == [64 + 10, 64 + 10, 22 + 10]


def test_two_stems_need_both_modalities(root, models, tmp_path):
    config = _config(root, models["two"])
    only = config.model_copy(
        update={"dataset": config.dataset.model_copy(update={"training_modalities": ["visible"]})}
    )
    with pytest.raises(
        ConfigError, match="expects visible and thermal images, and the target has 0 thermal, 96"
    ):
        _run(tmp_path, only)
    # In a chain the model is not known beforehand; then it is kept.
    data = read(only)
    report, adapted = adaptation.run(only, data, models["two"], Run(tmp_path, 0))
    assert "add the thermal ones" in report.notes[1]
    assert _same(_weights(adapted), _weights(models["two"]))


# --------------------------------------------------------------------------------------------------------------------
# Resuming, teacher, proxies, other labels


@pytest.mark.parametrize("section", [{}, {"mean_teacher": 0.5}, {"target_statistics": True}])
def test_a_resumed_adaptation_is_the_same_as_one_that_ran_through(section, root, models, tmp_path):
    section = {**section, "learning_rate_schedule": SCHEDULE}
    report, through = _run(tmp_path / "through", _config(root, models["one"], {**section, "rounds": 3}))
    _run(tmp_path / "cut", _config(root, models["one"], {**section, "rounds": 1}))
    state = tmp_path / "cut/adaptation/last_round.npz"
    resumed, adapted = _run(
        tmp_path / "on", _config(root, models["one"], {**section, "rounds": 3, "resume_from": str(state)})
    )
    assert _same(_weights(adapted), _weights(through))
    assert resumed.metrics == report.metrics and resumed.tables == report.tables


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_guard_after_a_break_goes_back_as_far_as_without_one(rounds, root, models, tmp_path, monkeypatch):
    _run(tmp_path / "cut", _config(root, models["one"], {"rounds": rounds}))
    with monkeypatch.context() as patch:
        _finds_nobody_at(patch, rounds + 1)
        report, through = _run(tmp_path / "through", _config(root, models["one"], {"rounds": 3}))
    section = {"rounds": 3, "resume_from": str(tmp_path / "cut/adaptation/last_round.npz")}
    _finds_nobody_at(monkeypatch, 1)
    resumed, adapted = _run(tmp_path / "on", _config(root, models["one"], section))
    assert _same(_weights(adapted), _weights(through))
    assert resumed.metrics == report.metrics and resumed.metrics["rounds"] == rounds - 1
    assert resumed.tables == report.tables and resumed.notes == report.notes


def test_what_cannot_be_gone_on_from_is_refused_before_the_run(root, models, tmp_path):
    (tmp_path / "no.npz").write_text("no archive")
    for name in ("no.npz", "missing.npz"):
        with pytest.raises(ConfigError, match=f"{name} is not the adaptation/last_round.npz"):
            _run(tmp_path, _config(root, models["one"], {"resume_from": str(tmp_path / name)}))
    _run(tmp_path, _config(root, models["one"], {"rounds": 1}))
    state = str(tmp_path / "adaptation/last_round.npz")
    seeded = {"dataset_name": "vt_mot", "root_path": str(root), "seed": 5}
    with pytest.raises(ConfigError, match="go on with the same target and dataset.seed"):
        _run(tmp_path, _config(root, models["one"], {"resume_from": state}, dataset=seeded))
    others = {"resume_from": state, "k1": 8, "optimizer": "SGD", "rounds": 9}
    told = r"adaptation.k1: 6, received 8; adaptation.optimizer: .* only adaptation.rounds may differ"
    with pytest.raises(ConfigError, match=told):
        _run(tmp_path, _config(root, models["one"], others))
    with pytest.raises(ConfigError, match="the network of .* does not fit: go on with the same model"):
        _run(tmp_path, _config(root, models["two"], {"resume_from": state}))
    flipped = {"random_flip": {"mode": "horizontal"}}
    for changed, told in (
        ({"general": {"global_seed": 7}}, "general.global_seed: .*, received 7"),
        ({"data_augmentation_thermal": flipped}, "data_augmentation_thermal: .*, received .*horizontal"),
        ({"preprocessing": {"resizing": {"interpolation": "area"}}}, "preprocessing: None, received .*area"),
    ):
        with pytest.raises(ConfigError, match=told):
            _run(tmp_path, _config(root, models["one"], {"resume_from": state}, **changed))
    with pytest.raises(ConfigError, match="last_round.npz is after round 1, and adaptation.rounds is 1"):
        _run(tmp_path, _config(root, models["one"], {"resume_from": state, "rounds": 1}))


@pytest.mark.parametrize(
    ("section", "sections", "message"),
    [
        (
            {"resume_from": "last_round.npz"},
            {},
            "operation_mode 'chain_ta' makes another one before: expected a mode",
        ),
        (
            {},
            {"data_augmentation_second_view": {"random_channel_exchange": {}}},
            r"3 views \(visible, visible, thermal\) .* received 16 and 2: expected a multiple of 6 from 12",
        ),
        ({"k1": 49}, {}, "are 48 tracks and images without a track, and clustering needs 49"),
    ],
)
def test_what_an_adaptation_refuses_is_told_before_the_training_of_its_chain(
    section, sections, message, root
):
    training = {
        "batch_size": 24,
        "images_per_identity": 2,
        "epochs": 1,
        "optimizer": "SGD",
        "sampler": "cross_modal",
    }
    start = {"model_name": "plain_cnn", "input_shape": SHAPE}
    config = _config(root, start, section, mode="chain_ta", training=training, **sections)
    with pytest.raises(ConfigError, match=message):
        adaptation.preflight(config, read(config.of_target, services=("adaptation",)), None)


def test_without_clustering_and_links_nothing_is_learned(root, models, tmp_path):
    with pytest.raises(ConfigError, match="no two images of the target are linked by a track or a moment"):
        _run(tmp_path, _config(root, models["one"], {"clustering": None, "constraints": False}))


def _learner(models, **section):
    settings = _config("x", models["one"], section).adaptation
    network = keras.saving.load_model(models["one"].path, compile=False)
    return learner_of(
        network, Preprocessing(**PREPROCESSING), settings, ("visible", "thermal"), compiled=False
    )


def _step(learner, seed=0):
    random = np.random.default_rng(seed)
    images = {name: random.normal(size=(6, *SHAPE)).astype(np.float32) for name in ("visible", "thermal")}
    labels = {name: np.array([0, 0, 1, 1, -1, 2], np.int32) for name in images}
    across = {name: np.array([1, 1, 0, 0, 0, -1], np.int32) for name in images}
    centroids = {name: _unit(random.normal(size=(3, 16))) for name in images}
    clusters = {name: np.arange(3, dtype=np.int32) for name in images}
    return (images, labels, across, centroids, clusters), learner.step(
        images, labels, across, centroids, clusters
    )


def _unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def test_the_loss_of_a_step_is_that_of_every_image_by_itself(models):
    learner = _learner(models, cross_modal_weight=0.3)
    (images, labels, across, centroids, _), (scalars, embeddings) = _step(learner)
    vectors = _unit(embeddings.numpy())
    parts = {"visible": vectors[:6], "thermal": vectors[6:]}

    def slow(name, wanted, memory):
        terms = []
        for vector, label in zip(parts[name], wanted[name], strict=True):
            if label >= 0:
                logits = centroids[memory] @ vector / 0.05
                terms.append(np.log(np.exp(logits - logits[label]).sum()))
        return np.mean(terms)

    own = (slow("visible", labels, "visible") + slow("thermal", labels, "thermal")) / 2
    other = (slow("visible", across, "thermal") + slow("thermal", across, "visible")) / 2
    assert float(scalars["cluster_loss"]) == pytest.approx(own, rel=1e-4)
    assert float(scalars["cross_modal_loss"]) == pytest.approx(other, rel=1e-4)
    assert float(scalars["loss"]) == pytest.approx(own + 0.3 * other, rel=1e-4)


def test_the_teacher_is_the_moving_average_and_the_student_alone_takes_the_gradient(models):
    learner = _learner(models, mean_teacher=0.9)
    before = learner.joined.get_weights()
    _step(learner)
    trained = learner.trained.get_weights()
    assert not _same(trained, before)
    for kept, old, new in zip(learner.joined.get_weights(), before, trained, strict=True):
        np.testing.assert_allclose(kept, 0.9 * old + 0.1 * new, atol=1e-6)
    learner.finish_round()
    assert not _same(learner.joined.get_weights(), trained)
    plain = _learner(models)
    _step(plain)
    assert _same(plain.joined.get_weights(), before)
    plain.finish_round()
    assert _same(plain.joined.get_weights(), plain.trained.get_weights())


def test_each_modality_and_camera_is_remembered_by_itself(models):
    section = _config("x", models["one"], {"camera_proxies": True}).adaptation
    modalities = np.array(["visible"] * 4 + ["thermal"] * 3)
    labels, cameras = np.array([0, 0, 1, -1, 0, 1, 1]), np.array([1, 2, 1, 1, 1, 1, 1])
    features = _unit(np.random.default_rng(0).normal(size=(7, 5)))
    memories = memories_of(features, labels, modalities, cameras, section)
    assert memories["visible"].clusters.tolist() == [0, 0, 1]
    assert memories["visible"].place.tolist() == [0, 1, 2, -1, -1, -1, -1]
    assert memories["thermal"].clusters.tolist() == [0, 1]
    np.testing.assert_allclose(memories["visible"].learned.centroids[1], features[1], atol=1e-6)


def test_memory_follows_the_images_of_a_batch(models, monkeypatch):
    seen = []
    monkeypatch.setattr(
        ClusterMemory, "update", lambda self, features, places: seen.append((features.shape, places.tolist()))
    )
    section = _config("x", models["one"]).adaptation
    modalities = np.array(["visible", "visible", "thermal", "thermal"])
    memories = memories_of(np.eye(4, 16), np.array([0, 1, 0, 1]), modalities, np.ones(4, int), section)
    labels = learners.PseudoLabels(np.array([0, 1, 0, 1]), np.array([1, 0, 1, 0]))
    images = {name: ops.zeros((2, *SHAPE)) for name in memories}
    batch = {"images": images, "places": {"visible": ops.array([1, 0]), "thermal": ops.array([2, 3])}}
    learners.learn(_learner(models), [batch], labels, memories, lambda count, text: None)
    assert seen == [((2, 16), [1, 0]), ((2, 16), [0, 1])]


def test_tracks_alone_and_labels_of_a_file_take_the_place_of_clusters(root, models, tmp_path):
    report, _ = _run(tmp_path / "tracks", _config(root, models["one"], {"clustering": None, "rounds": 1}))
    assert report.metrics["visible/clusters"] == 48 and report.metrics["visible/noise"] == 0
    samples = vt_mot(root, "training")
    rows = [f"{sample.path},{sample.identity}" for sample in samples[3:]]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    section = {"pseudo_labels": str(tmp_path / "labels.csv"), "rounds": 1}
    report, _ = _run(tmp_path / "file", _config(root, models["one"], section))
    assert report.metrics["visible/clusters"] == 8 == report.metrics["thermal/clusters"]
    assert report.metrics["thermal/across"] == 1.0
    (tmp_path / "labels.csv").write_text("file,label\nother.jpg,3")
    with pytest.raises(ConfigError, match="names none of the target's images"):
        _run(tmp_path, _config(root, models["one"], section))
    (tmp_path / "labels.csv").write_text("image,label\nother.jpg,3")
    with pytest.raises(
        ConfigError,
        match="adaptation.pseudo_labels: .* has no column file: expected file, label, separated by",
    ):
        _run(tmp_path, _config(root, models["one"], section))


def test_saved_pseudo_labels_are_learned_from_as_they_are(root, models, tmp_path):
    _run(tmp_path / "found", _config(root, models["one"], {"rounds": 1}))
    path = tmp_path / "found/adaptation/pseudo_labels.csv"
    target = target_of(read(_config(root, models["one"])).target, constraints=True)
    given = given_by(path, target, cross_modal_weight=1.0)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for numbers, column in ((given.own, "label"), (given.across, "label_across")):
        assert ((numbers >= 0) == [bool(row[column]) for row in rows]).all() and (numbers >= 0).any()
        pairs = {(n, row[column]) for n, row in zip(numbers.tolist(), rows, strict=True) if n >= 0}
        names = {(n, name.partition("-")[0]) for n, name in pairs}
        assert len(pairs) == len(names) == len({name for _, name in pairs}), "one number a label"


def test_labels_that_connect_nothing_are_refused(root, models, tmp_path):
    rows = [f"{sample.path},{sample.modality}-{sample.identity}" for sample in vt_mot(root, "training")]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    section = {"pseudo_labels": str(tmp_path / "labels.csv"), "rounds": 1}
    with pytest.raises(ConfigError, match="give images of both one label, name that .* label_across, or set"):
        _run(tmp_path, _config(root, models["one"], section))
    report, _ = _run(tmp_path / "apart", _config(root, models["one"], {**section, "cross_modal_weight": 0}))
    assert report.metrics["visible/across"] == 0


def test_mistakes_in_corrected_labels_are_named(root, models, tmp_path):
    target = target_of(read(_config(root, models["one"])).target, constraints=True)
    files = [str(sample.path) for sample in target.samples]
    own = [f"{name}-{n // 2 % 2}" for n, name in enumerate(target.modalities)]
    across = [f"{'thermal' if name == 'visible' else 'visible'}-1" for name in target.modalities]

    def given(own, across, separator=",", encoding="utf-8"):
        rows = zip(["file", *files], ["label", *own], ["label_across", *across], strict=True)
        path = tmp_path / "labels.csv"
        path.write_text("\n".join(map(separator.join, rows)), encoding=encoding)
        return given_by(path, target, cross_modal_weight=1.0)

    assert (given(own, across, encoding="utf-8-sig").across == 1).all(), "as a spreadsheet saves it"
    renamed = [name.replace("visible-1", "visible-2") for name in across]
    for arguments, message in (
        ((own, renamed), "label_across names 'visible-2', which no image has for its label: name one that"),
        ((own, across, ";"), "has no column file, label: .* its first line is 'file;label;label_across'"),
        ((across, across), "nobody to tell them from: give two labels or more to images of each modality"),
    ):
        with pytest.raises(ConfigError, match=message):
            given(*arguments)


def test_each_round_that_was_learned_keeps_its_pseudo_labels(root, models, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _at(patch, "_learned", 3, KeyboardInterrupt())
        _run(tmp_path, _config(root, models["one"], {"rounds": 3}))
    names = {path.name for path in (tmp_path / "adaptation/pseudo_labels").iterdir()}
    assert names == {"round_1.csv", "round_2.csv"}
    section = {"rounds": 3, "resume_from": str(tmp_path / "adaptation/last_round.npz")}
    report, _ = _run(tmp_path / "on", _config(root, models["one"], section))
    assert report.metrics["rounds"] == 3 and report.metrics["rounds_left"] == 0
    last = tmp_path / "on/adaptation/pseudo_labels/round_3.csv"
    assert last.read_bytes() == (tmp_path / "on/adaptation/pseudo_labels.csv").read_bytes()


def test_the_smallest_cluster_is_that_which_is_asked_for():
    asked = {
        "dbscan": 4, "agglomerative": 4, "hdbscan": 4, None: 1,
        ("dbscan", "min_samples", 7): 7, ("hdbscan", "min_cluster_size", 9): 9, ("hdbscan", "min_samples", 9): 4,
    }  # fmt: skip
    for clustering, least in asked.items():
        if isinstance(clustering, tuple):
            name, key, value = clustering
            clustering = {name: {key: value}}
        section = _config("x", {"model_path": "m.keras"}, {"clustering": clustering}).adaptation
        assert least_points(section.clustering) == least


def test_a_clustering_without_a_least_size_may_be_added(monkeypatch):
    registry = SimpleNamespace(get=lambda name: lambda distances, temperature=1.0: None)
    monkeypatch.setattr(labels_module, "CLUSTERING", registry)
    assert least_points(Component(name="mine")) == 1


def test_one_modality_with_a_second_view(root, models, tmp_path):
    dataset = {"dataset_name": "vt_mot", "root_path": str(root), "training_modalities": ["visible"]}
    config = _config(
        root, models["one"], {"rounds": 1}, dataset=dataset,
        data_augmentation={"random_flip": {"mode": "horizontal"}},
        data_augmentation_second_view={"random_channel_exchange": None},
    )  # fmt: skip
    report, _ = _run(tmp_path, config)
    assert "visible/across" not in report.metrics and report.metrics["visible/images"] == 96
    assert "was trained on" not in " ".join(report.notes), "of this model nothing is known"


def test_a_modality_that_the_model_was_trained_on_and_the_target_lacks_is_warned_of(
    root, models, tmp_path, caplog
):
    shutil.copy(models["one"].path, tmp_path / "both.keras")
    known = {"model_name": "one", "modalities": ["thermal", "visible"]}
    model = replace(models["one"], files={"keras": tmp_path / "both.keras"}, trained_on=known)
    model.save()
    only = {"dataset_name": "vt_mot", "root_path": str(root), "training_modalities": ["visible"]}
    report, adapted = _run(tmp_path / "visible", _config(root, model, {"rounds": 1}, dataset=only))
    told = "trained on thermal and visible images, and the target has no thermal ones"
    assert told in report.notes[1] and told in caplog.text
    assert Model.load(adapted.path).trained_on["modalities"] == ["thermal", "visible"]
    caplog.clear()
    report, _ = _run(tmp_path / "both", _config(root, model, {"rounds": 1}))
    assert len(report.notes) == 1 and "was trained on" not in caplog.text


# --------------------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adaptation": {"optimizer": "Adam", "round": 3}}, "adaptation.round: unknown key, did you mean 'rounds'?"),
        ({"adaptation": {"optimizer": "Adam", "k2": 40}}, "k2 must be at most k1, received 40 and 30"),
        ({"adaptation": {"optimizer": "Adam", "rounds": 0}}, "rounds must be 1 or more, received 0, with which"),
        ({"adaptation": {"optimizer": "Adam", "batch_size": 16}}, "batch_size must be a multiple of images_per"),
        ({"adaptation": {"optimizer": "Adam", "clustering": "kmeans"}}, "unknown clustering 'kmeans'"),
        ({"adaptation": {"optimizer": "Adam", "mean_teacher": 1.0}}, "adaptation.mean_teacher: should be less than 1"),
        ({"adaptation": None}, "operation_mode 'adaptation' needs the section 'adaptation'"),
        ({"adaptation": {"optimizer": "Adam", "target": {"dataset_name": "llcm"}}}, "adaptation.target.root_path"),
        ({"model": {"model_path": "m.tflite"}}, "takes a .keras file"),
        ({"model": {"model_name": "agw", "model_path": "m.keras"}}, "leave model.model_name out"),
        ({"operation_mode": "chain_aqt"}, "training starts a model, so it comes first"),
        ({"operation_mode": "chain_qae"}, "weights that adaptation changes, so it comes after it"),
        ({"operation_mode": "chain_aea"}, "adaptation appears more than once"),
        (
            {"operation_mode": "chain_aq", "quantization": {"quantizer": "tfmot_qat", "qat": {"task_weight": 1.0}}},
            "quantization.qat.task_weight needs labels",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_by_its_key(changes, message):
    raw = {
        "operation_mode": "adaptation",
        "model": {"model_path": "m.keras"},
        "dataset": {"dataset_name": "vt_mot", "root_path": "x"},
        "adaptation": {"optimizer": "Adam"},
    }
    with pytest.raises(ConfigError) as error:
        validate(Config, {**raw, **changes})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"clustering": {"dbscan": {"eps": 7}}}, "adaptation.clustering: dbscan: expected 0 < eps <= 1"),
        ({"clustering": {"infomap": {"neighbours": 0}}}, "infomap: neighbours must be 1 or more"),
        ({"batch_size": 6}, r"2 views \(visible, thermal\) with 2 .* received 6 and 2: .* multiple of 4 from 8"),
        ({"optimizer": {"Adam": {"learning_rate": "fast"}}}, "optimizer 'Adam' cannot be made"),
    ],
)  # fmt: skip
def test_a_value_that_is_refused_is_named_before_the_run(section, message, root, models, tmp_path):
    with pytest.raises(ConfigError, match=message):
        _run(tmp_path, _config(root, models["one"], section))


def test_a_target_without_test_images_is_adapted_to_without_a_test(root, models, tmp_path):
    shutil.copytree(root / "train", tmp_path / "target/train")
    config = _config(tmp_path / "target", models["one"])
    assert config.services == ("adaptation",)
    assert len(read(config).target) == 192
    assert _config(root, models["one"]).services == ("adaptation", "evaluation")
    with pytest.raises(
        ConfigError,
        match="chain_ae' needs test images, but dataset.root_path .* no folders query and gallery",
    ):
        _config(tmp_path / "target", models["one"], mode="chain_ae")


def test_services_before_adaptation_see_the_source_and_those_after_it_the_target():
    target = {"dataset_name": "vt_mot", "root_path": "drone"}
    raw = {
        "operation_mode": "chain_eaqe",
        "model": {"model_path": "m.keras"},
        "dataset": {"dataset_name": "sysu_mm01", "root_path": "source"},
        "adaptation": {"optimizer": "Adam", "target": target},
        "quantization": {"quantizer": "TFlite_converter"},
    }
    config = validate(Config, raw)
    assert config.split_services == (("evaluation",), ("adaptation", "quantization", "evaluation"))
    assert config.scores_source
    assert not validate(Config, {**raw, "operation_mode": "chain_aqe"}).scores_source
    assert not validate(Config, {**raw, "operation_mode": "chain_eaq"}).scores_source
    without = {**raw, "adaptation": {"optimizer": "Adam"}}
    assert not validate(Config, without).scores_source, "source and target are one data set"
    assert str(config.dataset.root_path) == "source" and str(config.of_target.dataset.root_path) == "drone"
    assert Data().target == ()


@pytest.fixture
def source(tmp_path):
    """Labelled people of another place, in the layout of VT-MOT."""
    source = tmp_path / "source"
    for part, people in (("train", range(20, 28)), ("query", range(28, 32)), ("gallery", range(28, 32))):
        for modality in ("visible", "thermal"):
            (source / part / modality).mkdir(parents=True)
            for person in people:
                for number in range(4):
                    name = f"courtx{person}_c{1 + number % 2}_t{number}_00000{part == 'query'}.jpg"
                    _image(person, modality, (number, part == "query")).save(source / part / modality / name)
    return source


def _travel(program, root, source, tmp_path, config, *overrides):
    """Run a chain with an adaptation in it at a reduced size; returns its folder."""
    done = program(
        "--config-name", config, f"dataset.root_path={source}",
        f"adaptation.target.root_path={root}", "model.input_shape=[64,32,3]", "training.epochs=1",
        "training.batch_size=16", "training.images_per_identity=2", "training.steps_per_epoch=2",
        "~training.callbacks", "adaptation.rounds=1", "adaptation.steps_per_round=2", "adaptation.batch_size=16",
        "adaptation.images_per_identity=2", "adaptation.k1=6", "adaptation.k2=2",
        "adaptation.clustering.agglomerative={threshold: 0.9, min_samples: 2}", *overrides,
        f"hydra.run.dir={tmp_path / 'run'}", f"mlflow.uri={tmp_path / 'mlruns'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path / "run"


@pytest.mark.slow
def test_the_road_from_training_to_int8_on_the_target(root, source, program, tmp_path):
    """chain_taqe: trained on labelled people of the source, adapted to the target, quantized, scored on the target."""
    run = _travel(
        program, root, source, tmp_path, "chain_taqeb_config.yaml", "operation_mode=chain_taqe",
        "++quantization.max_images=8", "++quantization.gate={float_gap: 0.5, dead_dimensions: 1}",
    )  # fmt: skip
    report = json.loads((run / "evaluation/metrics.json").read_text())
    made = {"after_training", "after_adaptation", "after_quantization"}
    assert {key.split("/")[0] for key in report["metrics"]} == {"float32", "int8"} | made
    names = [row[0] for row in report["tables"][0]["rows"]]
    assert names[:2] == ["best_model.keras", "adapted_model.keras"]
    manifest = json.loads((run / "saved_models/adapted_model.json").read_text())
    assert manifest["source"] == "best_model.keras" and manifest["trained_on"]["adapted_to"] == "vt_mot"


@pytest.mark.slow
@pytest.mark.qnn
def test_the_whole_road_in_one_command(root, source, program, tmp_path):
    stage = "{epochs: 1, steps_per_epoch: 2, optimizer: Adam, losses: [{name: cross_entropy}, {name: focal_ranking}]}"
    run = _travel(
        program, root, source, tmp_path, "chain_tkaqeb_config.yaml", "distillation.student.input_shape=[64,32,3]",
        "distillation.batch_size=16", "~distillation.stages", f"distillation.stages=[{stage}]",
        "++quantization.max_images=8",
        "++quantization.gate={float_gap: 0.5, dead_dimensions: 1}", "quantization.qat.batch_size=8",
        "++quantization.qat.max_steps=2", "++benchmarking.parity_images=2",
        "++benchmarking.latency_runs=3",
    )  # fmt: skip
    metrics = json.loads((run / "evaluation/metrics.json").read_text())["metrics"]
    page = (run / "report.html").read_text()
    for service in ("training", "distillation", "adaptation", "quantization"):
        assert 0 <= metrics[f"after_{service}/mAP"] <= 1
        assert f"<td>{service}</td>" in page.replace("\n", "").replace(" ", "")
    assert page.index("Progression") < page.index("evaluation on the source, vt_mot: Retrieval")
    assert page.index("Rank-1 on the source, vt_mot, %") < page.index("Rank-1 on the target, vt_mot, %")
    of_source = json.loads((run / "source/evaluation/metrics.json").read_text())["metrics"]
    assert {key.split("/")[0] for key in of_source} == {key.split("/")[0] for key in metrics}
