"""Every block of YAML on the model zoo's page about re-identification training, merged into a complete configuration.

Two blocks are mended: `triplet_loss` stands one column too deep there, and the four examples of `frozen_layers`, which
repeat their section, are four blocks here. Paths in angle brackets are filled in; so is MODELS_DIR.
"""

import copy
import json
from pathlib import Path

import h5py
import keras
import pytest
import yaml
from keras.src.legacy.saving import legacy_h5_format

from common.config import validate
from src.registries import build_schedule
from src.schema import Config

MODELS_DIR = "/models"
BASE = """
operation_mode: training
model:
   model_name: mobilenetv2_a035
   input_shape: (256, 128, 3)
dataset:
   training_path: train
   test_query_path: query
   test_gallery_path: gallery
training:
   batch_size: 64
   epochs: 150
   optimizer: Adam
mlflow:
   uri: ./experiments_outputs/mlruns
"""
BLOCKS = {
    "2.2 general": """
general:
   project_name: my_project
   logs_dir: logs
   saved_models_dir: saved_models
   deterministic_ops: True
""",
    "2.3 dataset": """
dataset:
   dataset_name: DeepSportradar
   training_path: ./datasets/DeepSportradar-ReID/reid_train
   validation_path:
   validation_split: 0.15
   test_query_path: ./datasets/DeepSportradar-ReID/reid_test/query
   test_gallery_path: ./datasets/DeepSportradar-ReID/reid_test/gallery
""",
    "2.4 preprocessing": """
preprocessing:
   rescaling: {scale: 1/127.5, offset: -1}
   resizing: {interpolation: nearest, aspect_ratio: "fit"}
   color_mode: rgb
""",
    "2.5 data_augmentation": """
data_augmentation:
  random_contrast:
    factor: 0.4
  random_brightness:
    factor: 0.2
  random_flip:
    mode: horizontal_and_vertical
  random_translation:
    width_factor: 0.2
    height_factor: 0.2
  random_rotation:
    factor: 0.15
  random_zoom:
    width_factor: 0.25
    height_factor: 0.25
""",
    "2.6 model": """
model:
   model_name: mobilenetv2_a035
   pretrained: True
   input_shape: (256, 128, 3)
""",
    "2.7 training": """
training:
   batch_size: 128
   epochs: 400
   dropout: 0.3
   optimizer:
      Adam: {learning_rate: 0.001}
   callbacks:
      ReduceLROnPlateau:
         monitor: val_accuracy
         factor: 0.5
         patience: 10
      EarlyStopping:
         monitor: val_accuracy
         patience: 60
   triplet_loss:
        margin: 0.3  # Optional between [0, 1], default is 0.3
        strategy: semi_hard   #choices=['hard', 'semi_hard', 'simple'], default is 'hard'
        distance_metric: cosine  # Optional, choices=['euclidean', 'cosine'], default is 'cosine'
""",
    "2.7 schedule": """
training:
   batch_size: 128
   epochs: 400
   optimizer: Adam
   callbacks:
      LRCosineDecay:
         initial_learning_rate: 0.01
         decay_steps: 170
         alpha: 0.001
""",
    "2.8 hydra": """
hydra:
   run:
      dir: ./tf/src/experiments_outputs/${now:%Y_%m_%d_%H_%M_%S}
""",
    "2.8 mlflow": """
mlflow:
   uri: ./tf/src/experiments_outputs/mlruns
""",
    "5.1 own model": """
general:

model:
   model_path: model.keras

operation_mode: training

dataset:
   training_path: train
   validation_split: 0.2
   test_query_path: query
   test_gallery_path: gallery

training:
   batch_size: 64
   epochs: 150
   dropout: 0.3
   frozen_layers: (0, -1)
   optimizer:
      Adam:
         learning_rate: 0.001
   callbacks:
      ReduceLROnPlateau:
         monitor: val_loss
         factor: 0.1
         patience: 10
""",
    "5.2 resume": """
operation_mode: training

model:
   model_path: last_augmented_model.keras

dataset:
   dataset_name: DeepSportradar
   training_path: train
   validation_split: 0.2
   test_query_path: query
   test_gallery_path: gallery

training:
   batch_size: 64
   epochs: 150      # The number of epochs can be changed for resuming.
   dropout: 0.3
   frozen_layers: (0:1)
   optimizer:
      Adam:
         learning_rate: 0.001
   callbacks:
      ReduceLROnPlateau:
         monitor: val_accuracy
         factor: 0.1
         patience: 10
   resume_training_from: True
""",
    "5.3.1 pretrained": """
model:
   model_name: mobilenetv2_a035
   input_shape: (256, 128, 3)
   pretrained: True
""",
    "5.3.2 all but the last": "training: {frozen_layers: (0:-1)}",
    "5.3.2 a range": "training: {frozen_layers: (10:120)}",
    "5.3.2 from one on": "training: {frozen_layers: (150:)}",
    "5.3.2 several": """
training:
   frozen_layers: (8, 110:121, -1)
""",
    "5.3.3 step 1": """
model:
   model_name: mobilenetv2_a035
   input_shape: (256, 128, 3)
   pretrained: True

training:
   frozen_layers: (0:-1)
""",
    "5.3.3 step 2": """
model:
   model_path: ${MODELS_DIR}/step_1.keras

training:
   frozen_layers: (50:)
""",
    "5.3.3 step 3": """
model:
   model_path: ${MODELS_DIR}/step_2.keras

training:
   frozen_layers: None
""",
    "5.4 custom model": """
model:
   model_name: custom_model
   input_shape: (256, 128, 3)

training:
   dropout: 0.2
""",
}
EXPECTED = {
    "2.2 general": lambda c: c.general.deterministic_ops and c.general.project_name == "my_project",
    "2.3 dataset": lambda c: c.dataset.validation_path is None and c.dataset.validation_split == 0.15,
    "2.4 preprocessing": lambda c: c.preprocessing.rescaling.scale == 1 / 127.5,
    "2.5 data_augmentation": lambda c: list(c.data_augmentation)[:3] == ["random_contrast", "random_brightness", "random_flip"],
    "2.6 model": lambda c: c.model.pretrained and c.model.input_shape == (256, 128, 3),
    "2.7 training": lambda c: c.training.triplet_loss.strategy == "semi_hard" and c.training.dropout == 0.3,
    "2.7 schedule": lambda c: build_schedule("LRCosineDecay", c.training.callbacks["LRCosineDecay"])(0) == 0.01,
    "2.8 hydra": lambda c: "run" in c.hydra,
    "2.8 mlflow": lambda c: c.mlflow.uri == "./tf/src/experiments_outputs/mlruns",
    "5.1 own model": lambda c: c.model.model_path == Path("model.keras") and c.training.frozen_layers == "(0, -1)",
    "5.2 resume": lambda c: c.training.resume_training,
    "5.3.1 pretrained": lambda c: c.model.pretrained,
    "5.3.2 all but the last": lambda c: c.training.frozen_layers == "(0:-1)",
    "5.3.2 a range": lambda c: c.training.frozen_layers == "(10:120)",
    "5.3.2 from one on": lambda c: c.training.frozen_layers == "(150:)",
    "5.3.2 several": lambda c: c.training.frozen_layers == "(8, 110:121, -1)",
    "5.3.3 step 1": lambda c: c.training.frozen_layers == "(0:-1)",
    "5.3.3 step 2": lambda c: c.model.model_path == Path("/models/step_1.keras"),
    "5.3.3 step 3": lambda c: c.training.frozen_layers is None,
    "5.4 custom model": lambda c: c.model.model_name == "custom_model" and c.training.dropout == 0.2,
}  # fmt: skip


def merged(*names: str) -> dict:
    """The blocks on top of the base: a section's keys are set one by one, but the model is replaced."""
    raw = yaml.safe_load(BASE)
    for name in names:
        for section, value in yaml.safe_load(BLOCKS[name].replace("${MODELS_DIR}", MODELS_DIR)).items():
            if isinstance(value, dict) and section != "model":
                raw[section] = {**raw.get(section, {}), **copy.deepcopy(value)}
            else:
                raw[section] = value
    return raw


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_means_what_it_says(name):
    assert EXPECTED[name](validate(Config, merged(name)))


@pytest.fixture(scope="module")
def page(tmp_path_factory, tiny_in, program):
    """Runs blocks as a user would, at a size that takes seconds; ImageNet weights are stood in for by random ones."""
    folder, data = tmp_path_factory.mktemp("page"), tiny_in("deepsportradar")
    (folder / "keras/models").mkdir(parents=True)
    weights = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
    with h5py.File(folder / "keras/models" / weights, "w") as file:
        network = keras.applications.MobileNetV2((224, 224, 3), alpha=0.35, include_top=False, weights=None)
        legacy_h5_format.save_weights_to_hdf5_group(file, network)

    def run(out: str, *names: str, model: Path | None = None, epochs: int = 1) -> str:
        raw = merged(*names)
        if model is None:
            raw["model"]["input_shape"] = "(64, 32, 3)"
        else:
            raw["model"]["model_path"] = str(model)
        paths = {
            "training_path": "reid_train",
            "test_query_path": "reid_test/query",
            "test_gallery_path": "reid_test/gallery",
        }
        raw["dataset"] |= {key: str(data / path) for key, path in paths.items()}
        raw["training"] |= {"batch_size": 16, "epochs": epochs}
        raw["hydra"] = {"run": {"dir": str(folder / out)}}
        (folder / "page.yaml").write_text(yaml.safe_dump(raw))
        result = program(
            "--config-dir", str(folder), "--config-name", "page", cwd=folder, KERAS_HOME=str(folder / "keras")
        )
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout + result.stderr

    run.folder = folder
    run(
        "first", *[name for name in BLOCKS if name.startswith("2.") and name not in ("2.7 schedule", "2.8 hydra")],
        epochs=2,
    )  # fmt: skip
    return run


@pytest.mark.slow
def test_a_training_ends_with_an_evaluation_on_the_test_set(page):
    metrics = json.loads((page.folder / "first/evaluation/metrics.json").read_text())["metrics"]
    assert 0 <= metrics["float32/keras/rank1"] <= 1
    assert (page.folder / "tf/src/experiments_outputs/mlruns/mlflow.db").is_file()


@pytest.mark.slow
def test_an_interrupted_training_is_resumed_with_its_own_settings(page):
    printed = page(
        "resumed", "5.2 resume", model=page.folder / "first/saved_models/last_augmented_model.keras", epochs=3
    )
    assert "resuming in epoch 3 of 3" in printed
    assert "training.frozen_layers cannot change when a training is resumed" in printed


@pytest.mark.slow
def test_a_model_file_is_trained_and_its_layers_are_frozen(page):
    best = page.folder / "first/saved_models/best_model.keras"
    assert "frozen layers" in page("own", "5.1 own model", model=best)
    page("step_2", "5.3.3 step 2", model=best)
    assert "frozen layers" not in page(
        "step_3", "5.3.3 step 3", model=page.folder / "step_2/saved_models/best_model.keras"
    )


@pytest.mark.slow
def test_a_custom_model_is_trained_with_dropout_and_a_schedule(page):
    page("custom", "5.4 custom model", "2.7 schedule")
    rows = (page.folder / "custom/logs/metrics/train_metrics.csv").read_text().splitlines()
    rates = dict(zip(rows[0].split(","), rows[1].split(","), strict=True))
    assert float(rates["learning_rate"]) == pytest.approx(0.01)
