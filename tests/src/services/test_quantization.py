"""Quantization: which files are written, what the gate catches, what is kept, what is compared, what a user is told."""

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from PIL import Image

from common.artifacts import Model
from common.config import ConfigError, validate
from common.quantization.qat import prepare_qat
from common.run import Run
from common.runtime import open_model
from common.runtime.onnx_file import inspect_onnx
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.selection import Data
from src.losses.cross_entropy import cross_entropy
from src.losses.triplet import triplet
from src.schema import Config, NumericGate, QuantizationAwareTraining
from src.services import quantization
from src.services._int8 import comparison, numeric_gate, train_int8
from src.services._int8.branch import Branch, branches_of
from src.services._int8.export import Export

SHAPE, DIM = (32, 32, 3), 24
PREPROCESSING = Preprocessing(SHAPE)


def _network(shape=SHAPE, seed=3) -> keras.Model:
    keras.utils.set_random_seed(seed)
    image = keras.Input(shape, name="images")
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(DIM, 3, strides=2, padding="same", name="last")(x)
    return keras.Model(image, layers.GlobalAveragePooling2D(name="pool")(x), name="small")


def _two_stems() -> keras.Model:
    keras.utils.set_random_seed(3)
    maps = keras.Input((16, 16, 8))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(DIM, 3, name="trunk_conv")(maps))
    trunk = keras.Model(maps, pooled, name="trunk")
    inputs = {name: keras.Input((32, 32, n), name=name) for name, n in (("visible", 3), ("thermal", 1))}
    stems = {
        name: layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name=f"{name}_stem")(image)
        for name, image in inputs.items()
    }
    return keras.Model(inputs, {name: trunk(x) for name, x in stems.items()}, name="two_stems")


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> list[Sample]:
    """6 people in two cameras, the second thermal, 2 images each: a pattern of colours for everyone, with noise."""
    folder, samples = tmp_path_factory.mktemp("people"), []
    for person in range(1, 7):
        coarse = np.random.default_rng(person).integers(0, 256, (4, 4, 3))
        for camera, modality in ((1, "visible"), (2, "thermal")):
            for number in range(2):
                noise = np.random.default_rng(100 * person + 10 * camera + number).integers(
                    -30, 31, (32, 32, 3)
                )
                pixels = np.clip(coarse.repeat(8, 0).repeat(8, 1) + noise, 0, 255).astype(np.uint8)
                path = folder / f"{person}_{camera}_{number}.png"
                Image.fromarray(pixels).save(path)
                samples.append(Sample(path, person, camera, modality))
    return samples


@pytest.fixture(scope="module")
def data(people) -> Data:
    query = [sample for sample in people if sample.path.stem.endswith("1_0")]
    gallery = [sample for sample in people if sample not in query]
    return Data(training=people, validation=people, query=query, gallery=gallery, calibration=people)


def _saved(network: keras.Model, folder: Path) -> Model:
    network.save(folder / "best_model.keras")
    model = Model(
        {"keras": folder / "best_model.keras"}, "float32", SHAPE, DIM,
        {"input_shape": SHAPE, "scale": 1 / 127.5, "offset": -1.0, "interpolation": "bilinear",
         "aspect_ratio": "fit", "color_mode": "rgb"},
    )  # fmt: skip
    model.save()
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return _saved(_network(), tmp_path_factory.mktemp("model"))


def _config(model: Model, quantization: dict, **changes) -> Config:
    raw = {
        "operation_mode": "quantization",
        "model": {"model_path": str(model.path)},
        "dataset": {"training_path": "images"},
        "quantization": quantization,
        **changes,
    }
    return validate(Config, raw)


def _quantize(model: Model, data: Data, folder: Path, **section):
    config = _config(model, section)
    quantization.preflight(config, data, model)
    return quantization.run(config, data, model, Run(folder, 0))


def _branch(people, network=None) -> Branch:
    return branches_of(network or _network(), PREPROCESSING, people)[0]


# --- files -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(model, data, tmp_path_factory):
    """A run of `Onnx_quantizer` with two batch sizes and NCHW images: folder, report, model."""
    folder = tmp_path_factory.mktemp("exported")
    section = {"batch_sizes": [1, 4], "input_layout": "nchw", "encodings": ["legacy", "2.0.0"]}
    report, made = _quantize(model, data, folder, quantizer="Onnx_quantizer", **section)
    return folder / "quantized_models", report, made


def test_every_batch_size_is_a_file_with_its_manifest(exported):
    folder, report, made = exported
    assert made.files == {"onnx": folder / "quantized_model.onnx"} and made.precision == "int8"
    for name, batch in (("quantized_model", 1), ("quantized_model_batch4", 4)):
        file = inspect_onnx(folder / f"{name}.onnx")
        assert (file.batch, file.channels_first, file.input_shape, file.embedding_dim) == (
            batch,
            True,
            SHAPE,
            DIM,
        )
        loaded = Model.load(folder / f"{name}.onnx")
        assert loaded.source.path.name == "best_model.keras" and loaded.input_shape == SHAPE
    assert {path.name for path in report.files} == {
        "quantized_model.onnx", "quantized_model.json", "quantized_model_batch4.onnx", "quantized_model_batch4.json",
        "quantized_model_encodings_legacy.json", "quantized_model_encodings_2.0.0.json",
    } == {path.name for path in folder.iterdir()}  # fmt: skip


def test_batch_sizes_and_layouts_compute_the_same(exported, model, data, tmp_path):
    folder, _, _ = exported
    _, plain = _quantize(model, data, tmp_path, quantizer="Onnx_quantizer", encodings=[])
    assert [path.suffix for path in sorted((tmp_path / "quantized_models").iterdir())] == [".json", ".onnx"]
    images = _branch(data.calibration).spread_images(10)
    found = []
    for path in (plain.path, folder / "quantized_model.onnx", folder / "quantized_model_batch4.onnx"):
        with open_model(path) as runtime:
            found.append(runtime.embed(images))
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    np.testing.assert_allclose(found[2], found[0], atol=1e-5)


def test_encodings_are_those_of_the_graph(exported):
    folder, _, _ = exported
    legacy = json.loads((folder / "quantized_model_encodings_legacy.json").read_text())
    new = json.loads((folder / "quantized_model_encodings_2.0.0.json").read_text())
    assert (legacy["version"], new["version"]) == ("0.6.1", "2.0.0")
    graph = onnx.load(folder / "quantized_model.onnx").graph
    quantized = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert quantized and set(legacy["activation_encodings"]) == quantized


@pytest.fixture(scope="module")
def trained(model, data, tmp_path_factory):
    """Folder, report and model of a run of `tfmot_qat` with PTQ beside it."""
    folder = tmp_path_factory.mktemp("trained")
    section = {"encodings": [], "qat": {"max_steps": 1, "batch_size": 8}, "compare": True}
    return folder / "quantized_models", *_quantize(model, data, folder, quantizer="tfmot_qat", **section)


def _assert_passed(folder, report, made, files):
    assert {path.name for path in folder.iterdir()} == files
    assert report.failure is None
    for path in made.files.values():
        assert report.metrics[f"gate/{path.name}/mean_gap"] < 5e-4
        assert 0 < report.metrics[f"gate/{path.name}/float_gap"] < 0.05


def test_the_file_of_tflite_converter_passes_the_gate(model, data, tmp_path):
    run = _quantize(model, data, tmp_path, quantizer="TFlite_converter")
    _assert_passed(tmp_path / "quantized_models", *run, {"quantized_model.tflite", "quantized_model.json"})


def test_the_files_of_quantization_aware_training_pass_the_gate(trained):
    made = {"quantized_model.onnx", "quantized_model.tflite", "quantized_model.json"}
    _assert_passed(*trained, made | {"quantized_model_ptq.onnx", "quantized_model_ptq.json"})


# --- one graph per modality --------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", ["Onnx_quantizer", "tfmot_qat"])
def test_a_graph_per_modality_from_one_set_of_weights(data, tmp_path, quantizer):
    network = _two_stems()
    model = _saved(network, tmp_path)
    qat = {"qat": {"max_steps": 1, "batch_size": 8}} if quantizer == "tfmot_qat" else {}
    report, made = _quantize(
        model, data, tmp_path, quantizer=quantizer, encodings=["1.0.0"], compare=True, **qat
    )
    assert report.failure is None
    folder = tmp_path / "quantized_models"
    kernels = []
    for name, channels in (("thermal", 1), ("visible", 3)):
        path = folder / f"quantized_model_{name}.onnx"
        assert report.metrics[f"gate/{path.name}/float_gap"] < 0.1
        loaded = Model.load(path)
        assert loaded.input_shape == (32, 32, channels)
        assert loaded.preprocessing["color_mode"] == {1: "grayscale", 3: "rgb"}[channels]
        assert (folder / f"quantized_model_{name}_encodings_1.0.0.json").is_file()
        weights = onnx.load(path).graph.initializer
        kernels.append(
            {w.raw_data for w in weights if w.data_type == onnx.TensorProto.INT8 and len(w.dims) == 4}
        )
    assert len(kernels[0] & kernels[1]) == 1 and len(kernels[0] | kernels[1]) == 3
    assert made.path == folder / "quantized_model_visible.onnx"
    assert made.siblings["thermal"].path == folder / "quantized_model_thermal.onnx"
    kind = "qat" if qat else "ptq"
    assert report.metrics[f"compare/{kind}/onnxruntime_cpu/cosine_mean"] > 0.9


def test_a_modality_without_images_is_named(data):
    visible = [sample for sample in data.calibration if sample.modality == "visible"]
    with pytest.raises(ConfigError, match="input 'thermal', but the calibration images are visible only"):
        branches_of(_two_stems(), PREPROCESSING, visible)


# --- the gate ----------------------------------------------------------------------------------------------------


class _Runtime:
    """A file that gives the embeddings which it was made with."""

    name = "stub"

    def __init__(self, embeddings):
        self.embed = lambda images: embeddings[: len(images)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def _turned(angle):
    """Unit vectors (4, 2) at an angle to the first axis."""
    return np.tile([[np.cos(angle), np.sin(angle)]], (4, 1)).astype(np.float32)


def _gate(
    monkeypatch, people, float_angle, source_angle, file_angle, rounds_alike=True, is_result=True, **limits
):
    """The gate on a file whose embeddings, and those of its source and the float model, point in given directions."""
    branch = _branch(people[:4])
    monkeypatch.setattr(numeric_gate, "embedder", lambda network: lambda images: _turned(float_angle))
    monkeypatch.setattr(numeric_gate, "open_model", lambda path, threads: _Runtime(_turned(file_angle)))
    export = Export(
        "m.onnx",
        "onnx",
        branch,
        1,
        b"",
        "source",
        lambda images: _turned(source_angle),
        rounds_alike,
        is_result=is_result,
    )
    return numeric_gate.numeric_gate([(Path("out/m.onnx"), export)], [branch], NumericGate(**limits))


def test_gaps_are_one_minus_cosine():
    a, b = np.array([[1.0, 0], [2, 2], [0, 1]]), np.array([[3.0, 0], [1, 0], [0, -1]])
    np.testing.assert_allclose(numeric_gate.gaps(a, b), [0, 1 - np.sqrt(0.5), 2], atol=1e-7)


def test_a_file_beside_its_source_passes_and_one_that_is_off_is_named(monkeypatch, people):
    passed = _gate(monkeypatch, people, 0.0, 0.02, 0.03)
    assert passed.failure is None
    assert passed.metrics["gate/m.onnx/mean_gap"] == pytest.approx(1 - np.cos(0.01), rel=0.02)
    assert passed.metrics["gate/m.onnx/float_gap"] == pytest.approx(1 - np.cos(0.03), rel=0.02)
    off = _gate(monkeypatch, people, 0.0, 0.02, 0.2)
    assert "out/m.onnx: mean gap to the source 0.016, limit 0.0005" in off.failure
    assert "greatest gap to the source 0.016, limit 0.005" in off.failure
    assert off.table.rows[0][-1] == "off" and passed.table.rows[0][-1] == "passed"


def test_a_single_image_that_is_far_from_float_is_found():
    floats = np.tile([[1.0, 0]], (16, 1))
    file = floats.copy()
    file[7] = [0, 1]
    export = Export("m.onnx", "onnx", None, 1, b"", "source", None, rounds_alike=False)
    found = numeric_gate._findings(NumericGate(), export, file, floats, floats)
    assert [str(x) for x in found.values() if x.is_off] == ["greatest gap to the float model 1, limit 0.5"]


def test_a_network_that_rounding_moves_is_measured_by_that(monkeypatch, people):
    """Where quantization costs 0.12, a right export may round otherwise for up to twice that."""
    passed = _gate(monkeypatch, people, 0.0, 0.5, -0.15)
    assert passed.failure is None and passed.table.rows[0][-1] == "passed, as two roundings"
    assert "mean gap to the source 0.3, limit 0.24" in _gate(monkeypatch, people, 0.0, 0.5, -0.3).failure
    assert "mean gap to the float model 0.12, limit 0.1" in _gate(monkeypatch, people, 0.0, 0.5, 0.5).failure


def test_a_file_quantized_from_float_is_bounded_by_float_gap_only(monkeypatch, people):
    assert _gate(monkeypatch, people, 0.0, 0.0, 0.9, rounds_alike=False, float_gap=0.4).failure is None
    failure = _gate(monkeypatch, people, 0.0, 0.0, 0.9, rounds_alike=False, float_gap=0.2).failure
    assert "mean gap to the float model 0.38, limit 0.2" in failure


def test_a_file_in_which_dimensions_have_died_does_not_pass():
    random = np.random.default_rng(0)
    floats = random.normal(size=(16, 10)) + 20  # a large common part keeps the cosine near 1
    floats[:, 9] = 20  # says nothing in float either
    dead = floats.copy()
    dead[:, :2] = 20
    assert numeric_gate.dead_dimensions(floats, floats) == 0
    assert numeric_gate.dead_dimensions(dead, floats) == pytest.approx(2 / 9)
    export = Export("m.onnx", "onnx", None, 1, b"", "source", None, rounds_alike=False)
    found = numeric_gate._findings(NumericGate(), export, dead, floats, floats)
    assert [str(x) for x in found.values() if x.is_off] == ["share of dead dimensions 0.22, limit 0.1"]


def test_a_file_to_compare_with_is_told_and_does_not_end_the_run(monkeypatch, people):
    found = _gate(monkeypatch, people, 0.0, 0.0, 0.9, rounds_alike=False, is_result=False)
    assert found.failure is None and found.table.rows[0][-1] == "off"
    assert "out/m.onnx: mean gap to the float model 0.38, limit 0.1" in found.notes[0]


def test_nan_does_not_pass(monkeypatch, people):
    assert _gate(monkeypatch, people, 0.0, 0.0, np.nan).failure is not None


def test_what_is_prepared_for_quantization_is_held_to_the_float_model(model, data, tmp_path, monkeypatch):
    """The preparation turns half of the dimensions round."""

    def wrong(network, calibration):
        turned = keras.models.clone_model(network)
        turned.set_weights(network.get_weights())
        kernel = turned.get_layer("last").kernel
        kernel.assign(kernel * np.where(np.arange(DIM) % 2, -1, 1))
        return turned

    monkeypatch.setattr(quantization, "equalize_channels", wrong)
    report, _ = _quantize(model, data, tmp_path, quantizer="TFlite_converter")
    assert "quantized_model.tflite: mean gap to the float model" in report.failure


def test_an_export_of_other_weights_ends_the_run(model, data, tmp_path, monkeypatch):
    """The exporter writes a network whose first kernel is upside down."""
    right = quantization.qat_files

    def wrong(section, branches, qat_model, stem):
        exports = list(right(section, branches, qat_model, stem))
        weights = qat_model.get_weights()
        qat_model.set_weights([w[::-1, ::-1] if w.shape == (3, 3, 3, 16) else w for w in weights])
        broken = list(right(section, branches, qat_model, stem))
        qat_model.set_weights(weights)
        return [replace(e, content=b.content) for e, b in zip(exports, broken, strict=True)]

    monkeypatch.setattr(quantization, "qat_files", wrong)
    section = {"encodings": [], "qat": {"max_steps": 1, "batch_size": 8}, "compare": True}
    report, _ = _quantize(model, data, tmp_path, quantizer="tfmot_qat", **section)
    assert f"{tmp_path}/quantized_models/quantized_model.onnx: " in report.failure
    assert "quantized_model.tflite" in report.failure
    assert not any(name.startswith("compare") for name in report.metrics)


# --- quantization-aware training ---------------------------------------------------------------------------------


def _train(people, held_out, **section):
    branch = _branch(people)
    qat = QuantizationAwareTraining(**{"batch_size": 8, "epochs": 2, **section})
    return branch, train_int8.train_int8(qat, branch.network, [branch], people, held_out, 0)


def test_the_best_epoch_is_kept_and_shown_beside_the_float_model(people):
    """A learning rate that destroys the network: the calibrated one, step 0, is the best."""
    branch, trained = _train(people, people, learning_rate=10.0)
    calibrated = prepare_qat(branch.network, branch.calibrate)
    images = branch.spread_images(8)
    np.testing.assert_allclose(trained.model(images), calibrated(images), atol=1e-5)
    assert [row[0] for row in trained.table.rows] == ["float", "0", "3", "6"]
    assert [row[-1] for row in trained.table.rows] == ["", "kept", "", ""]
    assert trained.metrics["qat/val_step"] == 0
    assert trained.metrics["qat/val_mAP"] > 0.4
    assert trained.metrics["qat/images_per_second"] > 0
    assert (
        "Step 0 of quantization-aware training is kept, the best by mAP, and among those within 0.5"
        in trained.note
    )


def test_a_later_epoch_wins_a_tie_and_float_layers_are_patterns(people):
    _, trained = _train(people, people, learning_rate=1e-7, float_layers=["po*"])
    assert trained.metrics["qat/val_step"] == 6
    assert not [w.name for w in trained.model.weights if "pool" in w.name and w.name.endswith("min:0")]


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([(0.500, 0.93), (0.497, 0.96)], 1),  # half a point of mAP is noise: the nearer one
        ([(0.500, 0.96), (0.503, 0.93)], 0),
        ([(0.500, 0.96), (0.506, 0.93)], 1),  # more than noise
        ([(0.500, 0.96), (0.490, 0.99)], 0),
        ([(0.500, 0.96), (0.496, 0.97), (0.503, 0.94)], 2),  # the second is too far from the third
        ([(0.500, 0.96), (0.500, 0.96)], 1),  # the later one has seen more
    ],
)
def test_of_steps_of_about_the_same_map_the_one_nearest_to_the_float_network_is_kept(
    people, monkeypatch, scores, kept
):
    branch = _branch(people)
    model = prepare_qat(branch.network, branch.calibrate)
    monkeypatch.setattr(train_int8, "settle", lambda model: None)
    watch = train_int8._Watch(model, [branch], people, 1, len(scores))
    for step, (score, cosine) in enumerate(scores):
        monkeypatch.setattr(watch, "_scores", lambda _, score=score: {"rank1": 0.5, "mAP": score})
        monkeypatch.setattr(train_int8, "gaps", lambda *_, cosine=cosine: np.array([1 - cosine]))
        watch.tick()
        watch.look(step)
        model.set_weights([weight + 1 for weight in model.get_weights()])
    expected = [weight + kept - len(scores) for weight in model.get_weights()]
    trained = watch.finish(8)
    for weight, wanted in zip(trained.model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, wanted, atol=1e-5)
    assert [row[-1] for row in trained.table.rows].index("kept") == kept + 1


def test_people_seen_once_are_validated_by_the_cosine_and_nobody_by_nothing(people):
    alone = [next(s for s in people if s.identity == person) for person in (1, 2, 3)]
    _, trained = _train(people, alone)
    assert "best by cosine to float on" in trained.note and "qat/val_mAP" not in trained.metrics
    assert trained.table.columns[:2] == ("step", "cosine_mean")
    _, trained = _train(people, [])
    assert trained.table.rows == () and "no validation images" in trained.note


def test_task_losses_are_triplet_and_cross_entropy_against_the_mean_float_embedding(people):
    branch = _branch(people)
    section = QuantizationAwareTraining(task_weight=0.5, batch_size=8)
    images = branch.spread_images(len(people))
    normal = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    embeddings = normal(branch.network(images, training=False).numpy())
    labels = np.array([s.identity - 1 for s in people])
    prototypes = normal(np.stack([embeddings[labels == person].mean(0) for person in range(6)]))
    student = np.random.default_rng(0).normal(size=(8, DIM)).astype(np.float32)
    expected = triplet(student, labels[:8]) + cross_entropy(16 * normal(student) @ prototypes.T, labels[:8])
    loss = train_int8._task_loss(section, [branch], people)
    assert float(loss(student, labels[:8])) == pytest.approx(0.5 * float(expected), rel=1e-4)


def test_labels_alone_can_train(people):
    _, trained = _train(
        people, people, distillation_weight=0.0, task_weight=1.0, learning_rate=1e-3, epochs=3
    )
    cosines = [float(row[3]) for row in trained.table.rows[1:]]
    assert cosines[-1] < cosines[0]  # nothing holds it to the float embedding


# --- the comparison ----------------------------------------------------------------------------------------------


def test_comparison_by_hand(people, tmp_path, monkeypatch):
    """A float model that knows people, and an INT8 file that mixes up two of them and has a dead dimension."""
    visible = [sample for sample in people if sample.path.stem.endswith("_0")]
    query, gallery = visible[::2], visible[1::2]
    ids = np.array([sample.identity for sample in (*query, *gallery)])
    known = np.concatenate([np.eye(6), np.full((6, 1), 0.3)], axis=1)[ids - 1]
    mixed = known.copy()
    mixed[0, :6] = np.eye(6)[1]  # the first query looks like the second person
    mixed[:, 6] = 0.5
    known[:, 6] += np.linspace(0, 0.1, len(known))
    network = _network()
    branch = Branch("", keras.Model(network.input, layers.Dense(7)(network.output)), PREPROCESSING, people)
    answers = iter([known, mixed])
    monkeypatch.setattr(comparison, "embed_samples", lambda *_: next(answers).astype(np.float32))
    monkeypatch.setattr(comparison, "open_model", lambda path, threads: _Runtime(mixed))
    for name in ("float.keras", "int8.onnx"):
        (tmp_path / name).write_bytes(bytes(2_000_000 if name == "float.keras" else 500_000))
    found = comparison.compare(
        [branch],
        tmp_path / "float.keras",
        [("ptq", {"": tmp_path / "int8.onnx"})],
        query,
        gallery,
        "test set",
    )
    metrics = {name.removeprefix("compare/"): value for name, value in found.metrics.items()}
    assert metrics["float/keras/rank1"] == 1 and metrics["ptq/stub/rank1"] == pytest.approx(5 / 6)
    assert (metrics["float/keras/dead_dimensions"], metrics["ptq/stub/dead_dimensions"]) == (0, 1)
    assert (metrics["float/keras/megabytes"], metrics["ptq/stub/megabytes"]) == (2.0, 0.5)
    assert metrics["float/keras/cosine_mean"] == pytest.approx(1)
    cosine = (known * mixed).sum(1) / np.linalg.norm(known, axis=1) / np.linalg.norm(mixed, axis=1)
    assert metrics["ptq/stub/cosine_mean"] == pytest.approx(cosine.mean(), abs=1e-6)
    assert metrics["ptq/stub/cosine_1_percent"] == pytest.approx(np.percentile(cosine, 1), abs=1e-6)
    assert [row[:3] for row in found.table.rows] == [
        ("float.keras", "float", "keras"), ("int8.onnx", "ptq", "stub"),
    ]  # fmt: skip
    assert "protocol market1501" in found.note


def test_float_ptq_and_qat_stand_side_by_side(trained):
    folder, report, _ = trained
    ptq = folder / "quantized_model_ptq.onnx"
    assert Model.load(ptq).preprocessing is not None and {ptq, ptq.with_suffix(".json")} <= set(report.files)
    assert report.metrics["gate/quantized_model_ptq.onnx/float_gap"] < 0.1
    table = report.tables[-1]
    assert "6 queries and 18 gallery images of the test set" in table.title
    assert [row[:3] for row in table.rows] == [
        ("best_model.keras", "float", "keras"),
        ("quantized_model_ptq.onnx", "ptq", "onnxruntime_cpu"),
        ("quantized_model.onnx", "qat", "onnxruntime_cpu"),
        ("quantized_model.tflite", "qat", "tflite"),
    ]
    for row in ("ptq/onnxruntime_cpu", "qat/onnxruntime_cpu", "qat/tflite"):
        assert 0.99 < report.metrics[f"compare/{row}/cosine_mean"] < 1
        assert report.metrics[f"compare/{row}/rank1"] == pytest.approx(
            report.metrics["compare/float/keras/rank1"], abs=0.2
        )


def test_without_a_test_set_validation_images_are_compared_on(model, data, tmp_path):
    data = replace(data, query=(), gallery=())
    report, _ = _quantize(model, data, tmp_path, quantizer="Onnx_quantizer", encodings=[], compare=True)
    assert "12 queries and 12 gallery images of the validation images" in report.tables[-1].title


# --- what a user is told -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ({}, {"calibration": ()}, "quantization has no calibration images"),
        (
            {"compare": True},
            {"query": (), "gallery": (), "validation": ()},
            "no person is in two images of the valid",
        ),
        ({"qat": {"float_layers": ["pool", "gem*"]}}, {}, r"qat.float_layers: 'gem\*' is no layer of small"),
    ],
)
def test_mistakes_are_found_before_the_run(model, data, section, changes, message):
    config = _config(model, {"quantizer": "tfmot_qat", **section})
    with pytest.raises(ConfigError, match=message):
        quantization.preflight(config, replace(data, **changes), model)


def test_images_that_fill_no_batch_are_found_before_the_run(model, data, people, tmp_path):
    def check(network, section, training):
        config = _config(network, {"quantizer": "tfmot_qat", "qat": section})
        quantization.preflight(config, replace(data, training=training), network)

    with pytest.raises(ConfigError, match="P = 2 identities cannot be drawn from 1"):
        check(model, {"task_weight": 1.0, "batch_size": 8}, [people[0]] * 8)
    two = _saved(_two_stems(), tmp_path)
    visible, thermal = ([x for x in people if x.modality == name] for name in ("visible", "thermal"))
    check(two, {"batch_size": 8}, people)
    with pytest.raises(
        ConfigError, match="qat: batches of 1 of 24 images .* of 2 inputs: expected at least 2"
    ):
        check(two, {"batch_size": 1}, people)
    with pytest.raises(
        ConfigError, match="a batch has 4 thermal images, and there are 2 .*batch_size to at most 4"
    ):
        check(two, {"batch_size": 8}, [*visible, *thermal[:2]])
    with pytest.raises(ConfigError, match="P = 1 identities cannot be drawn from 0"):
        check(two, {"task_weight": 1.0, "batch_size": 8}, visible)
    with pytest.raises(
        ConfigError, match="has an input 'thermal', but the calibration images are visible only"
    ):
        quantization.preflight(
            _config(two, {"quantizer": "Onnx_quantizer"}), replace(data, calibration=visible), two
        )


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            layers.SeparableConv2D(4, 3, name="odd"),
            "'odd' of class SeparableConv2D: write it as DepthwiseConv2D and",
        ),
        (
            layers.Conv2DTranspose(4, 3, name="odd"),
            "'odd' of class Conv2DTranspose: write it as UpSampling2D and",
        ),
    ],
)
def test_a_kernel_without_fake_quantization_is_found_before_the_run(data, tmp_path, layer, message):
    images = keras.Input((32, 32, 3))
    model = _saved(keras.Model(images, layers.GlobalAveragePooling2D()(layer(images))), tmp_path)
    with pytest.raises(
        ConfigError, match=f"quantizer: tfmot_qat has no fake quantization for layer {message}"
    ):
        quantization.preflight(_config(model, {"quantizer": "tfmot_qat"}), data, model)
    quantization.preflight(_config(model, {"quantizer": "Onnx_quantizer"}), data, model)


def test_float_layers_are_checked_before_a_training(data):
    raw = {
        "operation_mode": "chain_tq",
        "model": {"model_name": "mobilenetv1_a025", "input_shape": [32, 32, 3]},
        "dataset": {"training_path": "images"},
        "training": {"batch_size": 8, "epochs": 1, "optimizer": "Adam", "bnneck": True},
        "quantization": {"quantizer": "tfmot_qat", "qat": {"float_layers": ["bnnek"]}},
    }
    with pytest.raises(ConfigError, match="'bnnek' is no layer of"):
        quantization.preflight(validate(Config, raw), data, None)
    raw["quantization"]["qat"]["float_layers"] = ["logits"]  # of the training's head
    with pytest.raises(ConfigError, match="'logits' is no layer of"):
        quantization.preflight(validate(Config, raw), data, None)
    raw["quantization"]["qat"]["float_layers"] = ["conv_pw_1"]
    with pytest.raises(ConfigError, match=r"qat.float_layers: \['conv_pw_1'\] have kernels"):
        quantization.preflight(validate(Config, raw), data, None)
    raw["quantization"]["qat"]["float_layers"] = ["bnneck"]
    quantization.preflight(validate(Config, raw), data, None)


@pytest.mark.parametrize("quantizer", ["tfmot_qat", "Onnx_quantizer", "TFlite_converter"])
def test_a_network_that_cannot_be_rebuilt_is_refused_before_the_run(data, tmp_path, quantizer):
    images = keras.Input((32, 32, 3))
    network = keras.Model(
        images, layers.GlobalAveragePooling2D()(layers.GaussianNoise(0.1, name="noise")(images))
    )
    model = _saved(network, tmp_path)
    with pytest.raises(ConfigError, match=r"cannot rebuild the network in tf_keras: layer 'noise' .*TWINS"):
        quantization.preflight(_config(model, {"quantizer": quantizer}), data, model)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"quantizer": "TFlite_converter", "batch_sizes": [1]},
            "TFlite_converter has no use for batch_sizes",
        ),
        ({"quantizer": "TFlite_converter", "calibrate_method": "MinMax"}, "no use for calibrate_method"),
        ({"quantizer": "TFlite_converter", "qat": {"epochs": 1}}, "no use for qat: leave out"),
        ({"quantizer": "Onnx_quantizer", "qat": {"epochs": 1}}, r"\(~quantization.qat on the command line"),
        (
            {"quantizer": "Onnx_quantizer", "quantization_input_type": "uint8"},
            "no use for quantization_input_type",
        ),
        (
            {"quantizer": "Onnx_quantizer", "quantization_output_type": "int8"},
            "no use for quantization_output_type",
        ),
        ({"calibrate_method": "Entropy"}, "set compare: True, or leave it out"),
        ({"batch_sizes": []}, "batch_sizes: list should have at least 1 item"),
        ({"batch_sizes": [1, 4, 4]}, r"batch_sizes has \[4\] more than once"),
        ({"encodings": ["0.6.1"]}, "encodings.0: unknown value '0.6.1', expected one of: 1.0.0, 2.0.0"),
        ({"input_layout": "hwc"}, "input_layout: unknown value 'hwc', did you mean 'nhwc'"),
        ({"gate": {"mean_gap": 0}}, r"gate.mean_gap: should be greater than 0 \(received 0\)"),
        ({"qat": {"distillation_weight": 0}}, "both 0: there is no loss"),
        ({"qat": {"task_weight": 1, "batch_size": 6}}, "multiple of 4 from 8 on, received 6"),
    ],
)
def test_keys_are_checked(model, section, message):
    with pytest.raises(ConfigError, match=message):
        _config(model, {"quantizer": "tfmot_qat", **section})


def test_benchmarking_goes_on_with_single_images(model):
    dataset = dict.fromkeys(("training_path", "test_query_path", "test_gallery_path"), "images")
    section = {"quantizer": "Onnx_quantizer", "batch_sizes": [4, 1]}
    with pytest.raises(ConfigError, match=r"first of quantization.batch_sizes must be 1, received \[4, 1\]"):
        _config(model, section, operation_mode="chain_qb", dataset=dataset)
    _config(model, section)
