"""Distillation end to end at tiny size: one and two stems, with and without a cache, stages, mistakes."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml

from common.artifacts import Model
from common.config import ConfigError, compose, validate
from common.run import Run
from src.data.selection import read
from src.models._build import import_custom_model_file
from src.models._two_stems import branches_of, input_shapes
from src.pipeline import _preflight, _starting_model
from src.registries import MODELS
from src.schema import Config
from src.services import adaptation, distillation, training
from src.services._embed import with_mirror_image

NETWORK = """
import keras


def custom_model(input_shape, width: int = 12):
    images = keras.Input(input_shape)
    x = keras.layers.Conv2D(8, 3, strides=4, use_bias=False, name="conv1")(images)
    x = keras.layers.ReLU(name="conv1_relu")(keras.layers.BatchNormalization(momentum=0.9, name="bn1")(x))
    x = keras.layers.ReLU()(keras.layers.Conv2D(width, 3, strides=2, name="conv2")(x))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D(name="features")(x), name="toy")
"""
PREPROCESSING = {"input_shape": (64, 32, 3), "scale": 1 / 127.5, "offset": -1.0}
STAGE = {
    "epochs": 1,
    "steps_per_epoch": 2,
    "optimizer": {"SGD": {"learning_rate": 0.01}},
    "losses": [
        {"name": "cross_entropy"},
        {"name": "logit_distillation", "weight": 0.4},
        {"name": "relational_distillation", "weight": 0.4},
        {"name": "feature_distillation", "weight": 0.4},
    ],
}
HARD = {
    **STAGE,
    "losses": [{"name": "focal_ranking", "weight": 0.6}, {"name": "relational_distillation", "weight": 0.4}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The student's file, and two teachers of different widths."""
    made = tmp_path_factory.mktemp("distillation")
    (made / "toy.py").write_text(NETWORK)
    for name, width in (("wide", 20), ("narrow", 7)):
        save(toy(made / "toy.py", width), made / f"{name}.keras")
    return made


def toy(path, width, seed=5):
    keras.utils.set_random_seed(seed)
    module = import_custom_model_file(path)
    return module.custom_model((64, 32, 3), width)


def save(network, path, **preprocessing):
    network.save(path)
    shape = next(iter(input_shapes(network).values()))
    recorded = {**PREPROCESSING, "input_shape": shape, **preprocessing}
    Model({"keras": path}, "float32", shape, 1, preprocessing=recorded).save()


@pytest.fixture(scope="module")
def sysu(tiny_in):
    return tiny_in("sysu_mm01")


def raw_of(folder, tiny, **changes):
    section = {
        "teacher": str(folder / "wide.keras"), "batch_size": 8, "images_per_identity": 2, "bnneck": True,
        "stages": [STAGE, HARD], **changes.pop("distillation", {}),
    }  # fmt: skip
    return {
        "operation_mode": "distillation",
        "model": {
            "model_name": "custom_model", "custom_model_file": str(folder / "toy.py"), "input_shape": [64, 32, 3],
        },
        "dataset": {
            "dataset_name": "synthetic", "cache": "memory",
            "training_path": str(tiny / "bounding_box_train"), "validation_path": str(tiny / "bounding_box_val"),
            "test_query_path": str(tiny / "query"), "test_gallery_path": str(tiny / "bounding_box_test"),
        },
        "distillation": {key: value for key, value in section.items() if value is not None},
        **changes,
    }  # fmt: skip


def preflight(config, target):
    model = _starting_model(config)
    return model, _preflight(config, {"distillation": distillation}, model, Run(target, 0))


def run(config, target):
    model, data = preflight(config, target)
    keras.utils.set_random_seed(config.general.global_seed)
    return distillation.run(config, data, model, Run(target, 0))


def logged(target, stage):
    [header, *lines] = (
        (target / f"distillation/stage_{stage}/logs/metrics/train_metrics.csv").read_text().split()
    )
    names = header.split(",")
    return [dict(zip(names, map(float, line.split(",")), strict=True)) for line in lines]


def weights_of(path):
    return keras.saving.load_model(path, compile=False, safe_mode=True).get_weights()


@pytest.fixture(scope="module")
def distilled(folder, tiny, tmp_path_factory):
    """A report, a model, and the folder of the run."""
    target = tmp_path_factory.mktemp("run")
    before = weights_of(folder / "wide.keras")
    report, model = run(validate(Config, raw_of(folder, tiny)), target)
    for kept, now in zip(before, weights_of(folder / "wide.keras"), strict=True):
        np.testing.assert_array_equal(kept, now)
    return report, model, target


def test_the_student_alone_is_kept(distilled, folder):
    _, model, target = distilled
    assert model.path == target / "distilled_models/best_model.keras"
    network = keras.saving.load_model(model.path, safe_mode=True)
    assert network.input_shape == (None, 64, 32, 3) and network.output_shape == (None, 12)
    names = [layer.name for layer in network.layers]
    assert names[-1] == "bnneck" and not {"logits", "projection", "centers"} & set(names)
    assert model.trained_on["teacher"] == [str(folder / "wide.keras")]
    assert model.preprocessing["scale"] == 1 / 127.5 and model.embedding_dim == 12


def test_the_report_has_the_teacher_and_each_stage(distilled):
    report, _, _ = distilled
    [table] = report.tables
    assert [row[0] for row in table.rows] == ["teacher", "student, stage 1", "student, stage 2"]
    metrics = report.metrics
    assert metrics["val_mAP"] == max(metrics["stage_1_val_mAP"], metrics["stage_2_val_mAP"])
    assert 0 < metrics["teacher_val_mAP"] <= 1


def test_each_stage_logs_its_losses_and_draws_its_curves(distilled):
    _, _, target = distilled
    [first], [second] = logged(target, 1), logged(target, 2)
    assert {f"{term['name']}_loss" for term in STAGE["losses"]} < set(first)
    assert "focal_ranking_loss" in second and "cross_entropy_loss" not in second
    assert (target / "distillation/stage_2/Training_curves.png").is_file()


def test_stage_two_begins_where_stage_one_was_best(folder, tiny, tmp_path):
    still = {**HARD, "optimizer": {"SGD": {"learning_rate": 1e-12}}}
    config = validate(Config, raw_of(folder, tiny, distillation={"stages": [STAGE, still]}))
    report, model = run(config, tmp_path)
    best, last = (
        keras.saving.load_model(tmp_path / f"distilled_models/{name}_augmented_model.keras", compile=False)
        for name in ("best", "last")
    )
    for name in ("conv2", "logits"):
        kept, now = (network.get_layer("toy").get_layer(name).get_weights()[0] for network in (best, last))
        np.testing.assert_allclose(kept, now, atol=1e-6)
    assert report.metrics["val_mAP"] >= report.metrics["stage_1_val_mAP"]


def test_a_cache_has_the_mean_of_an_image_and_its_mirror_image():
    random = np.random.default_rng(0)
    images, weights = random.normal(size=(3, 4, 2, 1)), random.normal(size=(8, 5))

    def embed(batch):
        return batch.reshape(len(batch), -1) @ weights

    def unit(vectors):
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    expected = unit(unit(embed(images)) + unit(embed(images[:, :, ::-1])))
    np.testing.assert_allclose(with_mirror_image(embed)(images), expected, rtol=1e-5)
    np.testing.assert_allclose(with_mirror_image(embed)(images[:, :, ::-1]), expected, rtol=1e-5)


def test_a_cache_changes_nothing_where_nothing_is_augmented_or_mirrored(folder, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "with_mirror_image", lambda embed: embed)
    found = []
    for cached in (False, True):
        target = tmp_path / str(cached)
        target.mkdir()
        stages = {"stages": [STAGE], "cache_teacher": cached}
        run(validate(Config, raw_of(folder, tiny, distillation=stages)), target)
        found.append(logged(target, 1)[0])
    for name in ("loss", "logit_distillation_loss", "relational_distillation_loss", "val_mAP"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-3), name


def test_an_ensemble_and_a_teacher_for_other_images_teach_by_a_cache(folder, tiny, tmp_path):
    save(MODELS.get("plain_cnn")((32, 32, 3)), tmp_path / "small.keras")
    teachers = [str(folder / "narrow.keras"), str(tmp_path / "small.keras")]
    changes = {"teacher": teachers, "stages": [STAGE], "cache_teacher": True}
    report, model = run(validate(Config, raw_of(folder, tiny, distillation=changes)), tmp_path)
    assert model.trained_on["teacher"] == teachers and np.isfinite(report.metrics["val_mAP"])
    augmented = keras.saving.load_model(
        tmp_path / "distilled_models/best_augmented_model.keras", compile=False
    )
    assert augmented.output["projected"].shape == (None, 7 + 192)


def test_a_moving_average_teaches_and_there_is_no_other_teacher(folder, tiny, tmp_path):
    changes = {"teacher": None, "teacher_momentum": 0.5, "stages": [STAGE]}
    report, model = run(validate(Config, raw_of(folder, tiny, distillation=changes)), tmp_path)
    assert "teacher_val_mAP" not in report.metrics and model.trained_on["teacher"] == ["moving average"]


def test_the_easiest_images_keep_every_person(folder, tiny, tmp_path, caplog):
    caplog.set_level("INFO")
    easy = {**STAGE, "easiest_share": 0.5}
    config = validate(Config, raw_of(folder, tiny, distillation={"stages": [easy], "cache_teacher": True}))
    run(config, tmp_path)
    assert "training on the easiest 48 of 96 images" in caplog.text
    assert "48 images of 8 identities" in caplog.text


def test_an_interrupted_distillation_goes_on_in_its_stage(distilled, folder, tiny, tmp_path):
    _, _, before = distilled
    longer = {**HARD, "epochs": 2}
    changes = {
        "distillation": {"stages": [STAGE, longer], "resume_training": True},
        "model": {"model_path": str(before / "distilled_models/last_augmented_model.keras")},
    }
    report, model = run(validate(Config, raw_of(folder, tiny, **changes)), tmp_path)
    assert not (tmp_path / "distillation/stage_1").exists()
    assert [line["epoch"] for line in logged(tmp_path, 2)] == [1.0]
    assert model.path.is_file() and "stage_1_val_mAP" not in report.metrics
    short = {**changes, "distillation": {"stages": [STAGE], "resume_training": True}}
    with pytest.raises(
        ConfigError, match="is of stage 2 of a distillation, expected one of a distillation of 1"
    ):
        run(validate(Config, raw_of(folder, tiny, **short)), tmp_path)
    changes["distillation"]["teacher"] = str(folder / "narrow.keras")
    with pytest.raises(
        ConfigError, match=r"feature_distillation needs a projection to 7 dimensions, .* has 20"
    ):
        preflight(validate(Config, raw_of(folder, tiny, **changes)), tmp_path)


def _handed_to_train(monkeypatch, service, config, target):
    """What a service gives to `train`: the weights of the new network, its images, and the seed of its batches."""

    class StopError(Exception):
        pass

    handed = []

    def stop(config, data, start, preprocessing, folder, run, teacher_of=None):
        network = start.network
        deployed = keras.Model(network.input, [network.output["embedding"], network.output["logits"]])
        handed.append((deployed.get_weights(), [sample.path for sample in data.training], run.seed))
        raise StopError

    monkeypatch.setattr(service, "train", stop)
    with pytest.raises(StopError):
        service.run(config, read(config, check=False), None, Run(target, config.general.global_seed))
    return handed[0]


@pytest.mark.parametrize("seed", [0, 3])
def test_with_one_seed_a_student_starts_as_it_would_without_a_teacher(
    folder, tiny, tmp_path, monkeypatch, seed
):
    raw = {**raw_of(folder, tiny), "general": {"global_seed": seed}}
    section = raw.pop("distillation")
    alone = {name: section[name] for name in ("batch_size", "images_per_identity", "bnneck")}
    alone |= {"epochs": 1, "steps_per_epoch": 2, "optimizer": "SGD", "losses": [{"name": "cross_entropy"}]}
    trained = validate(Config, {**raw, "operation_mode": "training", "training": alone})
    distilled = validate(Config, {**raw, "distillation": section})
    one = _handed_to_train(monkeypatch, training, trained, tmp_path)
    other = _handed_to_train(monkeypatch, distillation, distilled, tmp_path)
    assert one[1:] == other[1:]
    for weights, others in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(weights, others)


def test_a_network_that_adaptation_builds_is_that_of_the_seed(folder, tiny):
    config = validate(Config, raw_of(folder, tiny))
    one, other = (adaptation._network(config, None).get_weights() for _ in range(2))
    for weights, others in zip(one, other, strict=True):
        np.testing.assert_array_equal(weights, others)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_two_stems_learn_from_one_and_from_two(folder, sysu, tmp_path, cached):
    teacher = MODELS.get("agw")((64, 32, 3), backbone="plain_cnn")
    save(branches_of(teacher), tmp_path / "agw.keras")
    easy = {**STAGE, "losses": [*STAGE["losses"], {"name": "cosine_alignment", "weight": 0.2}]}
    raw = raw_of(
        folder, sysu,
        distillation={
            "teacher": [str(tmp_path / "agw.keras"), str(folder / "wide.keras")], "cache_teacher": cached,
            "stages": [easy, HARD], "batch_size": 16,
        },
        model={"model_name": "agw", "input_shape": [64, 32, 3], "arguments": {"backbone": "plain_cnn"}},
        dataset={"dataset_name": "sysu_mm01", "root_path": str(sysu)},
    )  # fmt: skip
    report, model = run(validate(Config, raw), tmp_path)
    network = keras.saving.load_model(model.path, safe_mode=True)
    assert set(network.input) == set(network.output) == {"visible", "thermal"}
    assert {"teacher_val_thermal_to_visible_mAP", "stage_2_val_thermal_to_visible_mAP"} < set(report.metrics)
    raw["distillation"]["resume_training"] = True
    raw["model"] = {"model_path": str(tmp_path / "distilled_models/last_augmented_model.keras")}
    preflight(validate(Config, raw), tmp_path)


# --------------------------------------------------------------------------------------------------------------
# Mistakes


def refused(folder, tiny, message, **changes):
    with pytest.raises(ConfigError) as error:
        config = validate(Config, raw_of(folder, tiny, **changes))
        model = _starting_model(config)
        distillation.preflight(config, read(config, check=False), model)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, "operation_mode 'distillation' needs distillation.teacher: it does not train one"),
        ({"teacher": "t.onnx"}, "distillation.teacher takes .keras files, such as a best_model.keras, received t.onnx"),
        ({"teacher": "missing.keras"}, "distillation.teacher: there is no file missing.keras"),
        ({"student": {"model_name": "plain_cnn"}}, "has its student in the section model"),
        ({"teacher_momentum": 0.99}, "the student's moving average the teacher, and teacher stands beside it"),
        (
            {"teacher": None, "teacher_momentum": 0.99, "cache_teacher": True},
            "cache_teacher and easiest_share need a teacher that is there before the student",
        ),
        ({"batch_size": 9}, "batch_size must be a multiple of images_per_identity (P x K), received 9 and 2"),
        ({"batch_size": 32}, "stage 1 of the distillation: distillation.batch_size 32 with images_per_identity 2"),
        (
            {"stages": [{**STAGE, "losses": [{"name": "triplet"}]}]},
            "no loss of stages compares with the teacher: expected one of feature_distillation, focal_ranking, "
            "logit_distillation, relational_distillation, or operation_mode: training",
        ),
        (
            {"stages": [{**STAGE, "losses": [{"name": "logit_distillation", "temperature": 0}]}]},
            "stage 1 of the distillation: distillation.stages.0.losses: loss 'logit_distillation' cannot be computed",
        ),
        (
            {"stages": [STAGE, {**HARD, "losses": [*HARD["losses"], {"name": "cosine_alignment"}]}]},
            "stage 2 of the distillation: loss 'cosine_alignment' needs batches of visible and thermal images",
        ),
        ({"stages": [{**STAGE, "easiest_share": 0}]}, "distillation.stages.0.easiest_share: should be greater than 0"),
        (
            {"stages": [{**STAGE, "losses": [{"name": "feature_distillation", "on": "features"}]}]},
            "loss 'feature_distillation' acts on: what its arguments name, without `on`, received features",
        ),
        ({"resume_training": True}, "distillation.resume_training needs model.model_path, a last_augmented"),
        ({"stages": []}, "distillation.stages: list should have at least 1 item"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_by_its_key(folder, tiny, changes, message):
    refused(folder, tiny, message, distillation=changes)


def test_validation_people_are_neither_trained_on_nor_tested(folder, tiny):
    raw = raw_of(folder, tiny)["dataset"]
    known = {key: value for key, value in raw.items() if key != "validation_path"}
    refused(folder, tiny, "the validation images are of training people", dataset=known)
    tested = {**raw, "validation_path": raw["test_gallery_path"]}
    refused(folder, tiny, "by the validation people, of whom 6 are also tested", dataset=tested)


def test_without_a_cache_the_teacher_takes_the_student_s_images(folder, tiny, tmp_path):
    save(MODELS.get("plain_cnn")((32, 32, 3)), tmp_path / "small.keras", scale=1 / 255)
    message = "small.keras takes input_shape (32, 32, 3) in place of (64, 32, 3), scale 0.00392"
    refused(folder, tiny, message, distillation={"teacher": str(tmp_path / "small.keras")})
    inputs = {name: keras.Input((64, 32, 3), name=name) for name in ("visible", "thermal")}
    embeddings = {name: keras.layers.Flatten()(images) for name, images in inputs.items()}
    save(keras.Model(inputs, embeddings), tmp_path / "two.keras")
    message = "two.keras takes visible and thermal images, but the batches do not tell them apart"
    refused(folder, tiny, message, distillation={"teacher": str(tmp_path / "two.keras")})


def test_a_checkpoint_is_no_teacher_and_no_embedding(distilled, folder, tiny):
    _, _, target = distilled
    path = str(target / "distilled_models/best_augmented_model.keras")
    refused(folder, tiny, "is a checkpoint with the training head in it", distillation={"teacher": path})


def test_losses_that_compare_are_for_distillation(folder, tiny):
    raw = raw_of(folder, tiny, operation_mode="training")
    raw["training"] = {"batch_size": 8, "epochs": 1, "optimizer": "SGD", "losses": STAGE["losses"]}
    with pytest.raises(ConfigError) as error:
        validate(Config, raw)
    assert (
        "training.losses has logit_distillation, relational_distillation, feature_distillation, which compares with a "
        "teacher: that is for distillation.stages"
    ) in str(error.value)


def test_a_student_s_file_has_the_shape_that_is_stated(folder, tiny):
    stated = {"model_path": str(folder / "narrow.keras"), "input_shape": [32, 32, 3]}
    refused(
        folder, tiny, f"distillation.student.input_shape is (32, 32, 3), but the input of {folder / 'narrow.keras'} is "
        "(64, 32, 3): leave input_shape out",
        **CHAIN, distillation={"teacher": None, "student": stated},
    )  # fmt: skip


def test_stages_by_name_are_those_of_a_list_and_an_override_reaches_one_weight(folder, tiny, monkeypatch):
    by_name = validate(Config, raw_of(folder, tiny, distillation={"stages": {"easy": STAGE, "hard": HARD}}))
    assert by_name == validate(Config, raw_of(folder, tiny, distillation={"stages": [STAGE, HARD]}))
    refused(folder, tiny, "distillation.stages: ", distillation={"stages": {}})
    monkeypatch.setenv("MODELS_DIR", "/models")
    key = "distillation.stages.easy.losses.logit_distillation.weight"
    command = ["--config-name", "vireid/phase3_distillation_synthetic.yaml", f"{key}=1"]
    easy, hard = validate(Config, compose(command)).distillation.stages
    assert {loss.name: loss.weight for loss in easy.losses}["logit_distillation"] == 1
    assert [loss.name for loss in hard.losses][-2:] == ["relational_distillation", "feature_distillation"]


CHAIN = {"operation_mode": "chain_tke", "training": {"batch_size": 8, "epochs": 1, "optimizer": "SGD"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"teacher": None},
            "needs distillation.student, the trained model being the teacher; or distillation.teacher",
        ),
        ({"student": {"model_name": "plain_cnn"}}, "what is trained is neither teacher nor student"),
    ],
)
def test_in_a_chain_the_trained_model_has_one_part(folder, tiny, changes, message):
    refused(folder, tiny, message, **CHAIN, distillation=changes)


def test_in_a_chain_the_trained_model_is_the_teacher_or_the_student(folder, tiny):
    validate(Config, raw_of(folder, tiny, **CHAIN))
    student = {"teacher": None, "student": {"model_name": "plain_cnn"}}
    config = validate(Config, raw_of(folder, tiny, **CHAIN, distillation=student))
    section, bnneck = config.made_network
    assert (section.model_name, bnneck) == ("plain_cnn", True)
    other = {**student, "student": {"model_name": "plain_cnn", "input_shape": [32, 32, 3]}}
    refused(
        folder, tiny, "the trained model takes input_shape (64, 32, 3) in place of (32, 32, 3)",
        **CHAIN, distillation=other,
    )  # fmt: skip


@pytest.mark.slow
def test_a_chain_goes_on_with_the_student(folder, tiny, tmp_path, program):
    raw = raw_of(
        folder, tiny, operation_mode="chain_tkqe",
        distillation={"teacher": None, "stages": [STAGE, HARD], "student": {
            "model_name": "custom_model", "custom_model_file": str(folder / "toy.py"),
            "input_shape": [64, 32, 3], "arguments": {"width": 9},
        }},
        training={"batch_size": 8, "images_per_identity": 2, "epochs": 1, "steps_per_epoch": 2, "optimizer": "SGD"},
        quantization={"quantizer": "Onnx_quantizer", "max_images": 8},
        mlflow={"uri": str(tmp_path / "mlruns")},
        hydra={"run": {"dir": str(tmp_path / "out")}},
    )  # fmt: skip
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(raw))
    result = program("--config-path", str(tmp_path), "--config-name", "chain.yaml")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    metrics = json.loads((tmp_path / "out/evaluation/metrics.json").read_text())["metrics"]
    assert any(name.startswith("int8/") for name in metrics)
    manifest = json.loads((tmp_path / "out/distilled_models/best_model.json").read_text())
    assert manifest["embedding_dim"] == 9
    assert [Path(name).name for name in manifest["trained_on"]["teacher"]] == ["best_model.keras"]
    assert (tmp_path / "out/saved_models/best_model.keras").is_file()
