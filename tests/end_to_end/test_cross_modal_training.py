"""Phase 1 on visible images, AGW from it on both modalities, and its evaluation: from the recipes, at a tiny size."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import common.layers  # noqa: F401  registers GeM
import src.models._head  # noqa: F401  registers the layers of training networks

pytestmark = pytest.mark.slow

SMALL = [
    "training.epochs=1",
    "training.steps_per_epoch=3",
    "training.callbacks={}",
    "dataset.cache=none",
    "general.deterministic_ops=True",
]


OF_ONE_CHANNEL = "model.arguments={backbone: plain_cnn, thermal_channels: 1, neck: per_modality}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vireid")


@pytest.fixture(scope="module")
def start(program, folder, tiny_in):
    """Runs a synthetic recipe with overrides; returns its output folder and what it printed."""
    data = tiny_in("sysu_mm01")

    def start(recipe, *overrides, name=None):
        result = program(
            "--config-name",
            f"vireid/{recipe}_synthetic.yaml",
            f"dataset.root_path={data}",
            *SMALL,
            *overrides,
            f"mlflow.uri={folder}/mlruns",
            *([f"hydra.run.dir={folder}/{name}"] if name else []),
            MODELS_DIR=str(folder),
        )
        assert result.returncode == 0, result.stderr[-3000:]
        return folder / (name or f"{recipe}_synthetic"), result.stdout + result.stderr

    return start


@pytest.fixture(scope="module")
def phase1(start):
    return start("phase1", "model.input_shape=(64,32,3)", "training.batch_size=16")


@pytest.fixture(scope="module")
def phase2(start, phase1):
    return start("phase2_agw", "training.batch_size=16", "training.epochs=2", OF_ONE_CHANNEL)


def metrics(folder):
    return json.loads((folder / "evaluation/metrics.json").read_text())["metrics"]


def weights(folder):
    return keras.saving.load_model(
        folder / "saved_models/last_augmented_model.keras", compile=False
    ).get_weights()


def test_phase_1_sees_visible_images_only_and_is_tested_on_both(phase1):
    folder, printed = phase1
    assert "training plain_cnn on 64 images of 8 identities" in printed  # two of three cameras are visible
    rows = (folder / "logs/metrics/train_metrics.csv").read_text().splitlines()
    logged = set(rows[0].split(","))
    assert {"cross_entropy_loss", "triplet_loss", "center_loss", "val_mAP"} <= logged
    assert metrics(folder)


def test_phase_2_starts_from_it_and_is_tested_across_modalities(phase2):
    folder, printed = phase2
    assert "of each modality: conv1 ... bnneck" in printed and "of the trunk: conv2 ... conv6_bn" in printed
    assert {"weighted_regularized_triplet_loss"} <= set(
        (folder / "logs/metrics/train_metrics.csv").read_text().splitlines()[0].split(",")
    )
    model = keras.saving.load_model(folder / "saved_models/best_model.keras", compile=False)
    assert set(model.input) == set(model.output) == {"visible", "thermal"}
    assert any(name.startswith("float32/keras") for name in metrics(folder))


def test_a_resumed_training_of_two_modalities_is_the_same_bit_for_bit(start, phase2):
    before, _ = start("phase2_agw", "training.batch_size=16", OF_ONE_CHANNEL, name="first_half")
    after, printed = start(
        "phase2_agw",
        f"model.model_path={before}/saved_models/last_augmented_model.keras",
        "training.resume_training=True",
        "training.batch_size=16",
        "training.epochs=2",
        name="second_half",
    )
    assert "resuming in epoch 2 of 2" in printed
    for whole, halves in zip(weights(phase2[0]), weights(after), strict=True):
        np.testing.assert_array_equal(whole, halves)


def test_channel_augmentation_shows_visible_images_twice_and_known_people_validate(start, phase1):
    folder, printed = start("phase2_agw_caj", "training.batch_size=24", "dataset.arguments={train_val: True}")
    logged = (folder / "logs/metrics/train_metrics.csv").read_text().splitlines()[0]
    assert {"channel_augmented_joint_loss", "val_accuracy", "val_loss"} <= set(logged.split(","))
    assert "of the same identities" in printed
    assert (folder / "saved_models/best_model.keras").stat().st_size > 0


def test_one_stem_is_trained_on_both_modalities(start, phase1):
    folder, printed = start("phase2_single_stem", "training.batch_size=16", "training.frozen_layers=(0:2)")
    assert "96 images of 8 identities" in printed
    assert metrics(folder)


IDKL = (
    *("~training.batch_size", "~training.images_per_identity", "training.p_size=4", "training.k_size=2"),
    *("training.loss_weighting=uncertainty", "model.arguments.attention_heads=4"),
)


@pytest.fixture(scope="module")
def idkl(start, phase1):
    return start("idkl", *IDKL, "training.epochs=2")


def test_idkl_starts_both_branches_from_it_and_leaves_one_behind(idkl):
    folder, printed = idkl
    assert "training idkl on" in printed and "new: " in printed
    logged = set((folder / "logs/metrics/train_metrics.csv").read_text().splitlines()[0].split(","))
    assert {
        "modality_structure_loss",
        "branch_semantics_loss",
        "purification_loss",
        "modality_confusion_loss",
    } <= logged
    model = keras.saving.load_model(folder / "saved_models/best_model.keras", compile=False)
    plain = keras.saving.load_model(
        folder.parent / "phase1_synthetic/saved_models/best_model.keras", compile=False
    )
    # The layers of phase 1 with another pooling, which has no weight.
    assert [layer.name for layer in model.layers] == [layer.name for layer in plain.layers]
    assert model.count_params() == plain.count_params()
    assert any(name.startswith("float32/keras") for name in metrics(folder))


def test_a_resumed_idkl_with_learned_weights_is_the_same_bit_for_bit(start, idkl):
    before, _ = start("idkl", *IDKL, name="idkl_first_half")
    after, printed = start(
        "idkl",
        f"model.model_path={before}/saved_models/last_augmented_model.keras",
        "training.resume_training=True",
        *IDKL,
        "training.epochs=2",
        name="idkl_second_half",
    )
    assert "resuming in epoch 2 of 2" in printed
    for whole, halves in zip(weights(idkl[0]), weights(after), strict=True):
        np.testing.assert_array_equal(whole, halves)


def test_runs_of_a_sweep_are_compared(folder, start, program, tiny_in, tmp_path):
    data = tiny_in("sysu_mm01")
    result = program(
        "--config-name", "vireid/phase1_synthetic.yaml", "--multirun",
        f"dataset.root_path={data}", *SMALL, "model.input_shape=[64,32,3]", "training.batch_size=16",
        f"mlflow.uri={tmp_path}/mlruns", "general.project_name=sweep", f"hydra.sweep.dir={tmp_path}/sweep",
        "general.global_seed=0,1", "training.losses.0.label_smoothing=0.1,0.3",
        MODELS_DIR=str(folder),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert all((tmp_path / f"sweep/{number}/saved_models/best_model.keras").is_file() for number in range(4))
    alone, _ = start(
        "phase1", "model.input_shape=[64,32,3]", "training.batch_size=16", "general.global_seed=1",
        "training.losses.0.label_smoothing=0.3", name="alone",
    )  # fmt: skip
    for one, last_of_sweep in zip(weights(alone), weights(tmp_path / "sweep/3"), strict=True):
        np.testing.assert_array_equal(one, last_of_sweep)
    report = subprocess.run(
        [sys.executable, "-m", "src.tools.report", "--experiment", "sweep", "--uri", f"{tmp_path}/mlruns", "--output", tmp_path],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert report.returncode == 0, report.stderr
    assert "| training.losses.0.label_smoothing=0.1 | 0, 1 |" in report.stdout
    assert "| training.losses.0.label_smoothing=0.3 | 0, 1 |" in report.stdout
    assert (tmp_path / "report.html").is_file()
