"""Several replicas do what one does: two devices of a process, and two processes on loopback."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from common.config import ConfigError, validate
from src.data.pipeline import training_batches
from src.data.preprocessing import Preprocessing
from src.data.readers.market1501 import market1501
from src.data.selection import read
from src.schema import Config
from src.training import check_training
from src.training.checkpoint import read_checkpoint
from src.training.distribution import Distribution, distribution_of, mean_over_replicas, whole_batch

ROOT = Path(__file__).parents[3]
MAIN = ROOT / "stm32ai_main.py"
CONFIG = """
operation_mode: training
model: {{model_name: custom_model, custom_model_file: {folder}/model.py, input_shape: "(32, 32, 3)"}}
dataset:
  dataset_name: synthetic
  training_path: {data}/bounding_box_train
  validation_path: {data}/bounding_box_val
  test_query_path: {data}/query
  test_gallery_path: {data}/bounding_box_test
training:
  batch_size: 16
  epochs: 2
  steps_per_epoch: 3
  bnneck: True
  optimizer: {{SGD: {{learning_rate: 0.01, momentum: 0.9}}}}
  triplet_loss: {{strategy: hard, distance_metric: euclidean}}
mlflow: {{uri: {folder}/mlruns}}
"""
MODEL = """
import keras


def custom_model(input_shape):
    images = keras.Input(input_shape)
    x = images
    for filters in (8, 16):
        x = keras.layers.Conv2D(filters, 3, strides=2, use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
"""


def test_one_device_sees_its_own_tensors():
    outputs, labels = {"features": np.ones((2, 3)), "logits": np.ones((2, 4))}, np.arange(2)
    collected, all_labels = whole_batch(outputs, labels)
    assert all(collected[name] is outputs[name] for name in outputs) and all_labels is labels
    assert mean_over_replicas([labels, None]) == [labels, None]
    one = distribution_of("none")
    assert (one.replicas, one.workers, one.is_chief, one.is_distributed) == (1, 1, True, False)
    assert one.average({"loss": 0.1}) == {"loss": 0.1}
    assert (one.any_worker(True), one.any_worker(False)) == (True, False)


def test_mirrored_on_one_device_warns_that_nothing_is_gained(caplog):
    alone = distribution_of.__wrapped__("mirrored")
    assert (alone.replicas, alone.is_chief, alone.is_distributed) == (1, True, True)
    assert "gains nothing here, there is only one device" in caplog.text


def test_several_machines_need_a_description_of_the_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="TF_CONFIG is not set"):
        distribution_of("multi_worker")


def test_the_parts_of_a_batch_are_the_batch(tiny):
    samples = market1501(tiny / "bounding_box_train")
    labels = np.unique([sample.identity for sample in samples], return_inverse=True)[1]
    arguments = (samples, labels, Preprocessing((32, 16, 3), scale=1.0, offset=0.0), 4, 2, 7)

    def stream(**part):
        return list(training_batches(*arguments, **part).take(3).as_numpy_iterator())

    for whole, *parts in zip(stream(), *(stream(part=i, parts=2) for i in range(2)), strict=True):
        for name in ("images", "labels"):
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])
        assert [len(part["labels"]) for part in parts] == [4, 4]
        for part in parts:
            np.testing.assert_array_equal(part["index"], whole["index"])
        assert not set(parts[0]["labels"]) & set(parts[1]["labels"]), "an identity is in one part"
    with pytest.raises(ValueError, match="P must be a multiple of parts, got 4 and 3"):
        stream(parts=3)


def test_identities_that_cannot_be_shared_evenly_are_a_mistake(tiny, tmp_path, monkeypatch):
    (tmp_path / "model.py").write_text(MODEL)
    config = validate(Config, yaml.safe_load(CONFIG.format(folder=tmp_path, data=tiny)))
    three = Distribution()
    three.replicas = 3
    monkeypatch.setattr(check_training, "distribution_of", lambda kind: three)
    with pytest.raises(ConfigError, match=r"4 identities, which 3 replicas .* multiple of 12"):
        check_training.check_training(config, read(config), None)


class _SecondOfTwo(Distribution):
    """A worker whose chief has another value of what is compared."""

    def __init__(self, differs):
        super().__init__()
        self.worker, self.workers, self._differs = 1, 2, differs

    def from_chief(self, values):
        return [value + 1 if self._differs else value for value in values]

    def any_worker(self, condition):
        return condition


def test_workers_with_other_settings_do_not_start():
    _SecondOfTwo(differs=False).require_same("settings", "a")
    with pytest.raises(ConfigError, match="the 2 workers of the training differ in settings: start all of"):
        _SecondOfTwo(differs=True).require_same("settings", "a")


def test_a_missing_cluster_ends_the_program_before_tensorflow_is_loaded(tiny, program, tmp_path):
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(folder=tmp_path, data=tiny))
    (tmp_path / "model.py").write_text(MODEL)
    result = program(
        "--config-dir", str(tmp_path), "--config-name", "tiny", f"hydra.run.dir={tmp_path}/out",
        "training.distribution=multi_worker", TF_CONFIG="",
    )  # fmt: skip
    assert result.returncode == 2
    assert 'error: the environment variable TF_CONFIG is not set; expected {"cluster"' in result.stderr


@pytest.mark.slow
def test_two_devices_train_as_one():
    script = Path(__file__).with_name("two_replicas.py")
    result = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    differences = json.loads(result.stdout)
    assert set(differences) == {"sgd", "clipped", "adam", "scaled"}
    for name, found in differences.items():
        assert found["scalars"] < 1e-5, name
        assert found["weights"] < 1e-5, name
        assert found["moved"] > 1e-2, name


@pytest.fixture(scope="module")
def folder(tiny, program, tmp_path_factory):
    """A folder with the configuration, and `one`: the training in one process."""
    folder = tmp_path_factory.mktemp("distribution")
    (folder / "tiny.yaml").write_text(CONFIG.format(folder=folder, data=tiny))
    (folder / "model.py").write_text(MODEL)
    result = program(*_arguments(folder, "one"))
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def _arguments(folder, name, *overrides):
    return (
        "--config-dir", str(folder), "--config-name", "tiny", f"hydra.run.dir={folder}/{name}", *overrides
    )  # fmt: skip


def _start_two(folder, name, *overrides) -> list[tuple[subprocess.Popen, Path]]:
    """Two workers that write to one `hydra.run.dir`, and their logs."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("localhost", 0))
        cluster = {"worker": [f"localhost:{each.getsockname()[1]}" for each in (first, second)]}
    workers = []
    for index in range(2):
        log = folder / f"{name}_{index}.log"
        task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        arguments = _arguments(folder, name, "training.distribution=multi_worker", *overrides)
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, str(MAIN), *arguments],
                env={**os.environ, "TF_CONFIG": json.dumps(task)}, stdout=output, stderr=output,
            )  # fmt: skip
        workers.append((process, log))
    return workers


def _wait(workers, seconds=120):
    """Exit codes of all workers, none of which is left behind."""
    deadline = time.monotonic() + seconds
    try:
        return [process.wait(max(0.0, deadline - time.monotonic())) for process, _ in workers]
    finally:
        for process, _ in workers:
            process.kill()
            process.wait()


def _weights(path):
    """Weights of the network and state of the optimizer, by name."""
    found = {}
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    return found


@pytest.mark.slow
def test_two_workers_train_as_one_process_and_the_chief_writes_the_results(folder):
    workers = _start_two(folder, "two")
    assert _wait(workers) == [0, 0], [log.read_text()[-3000:] for _, log in workers]
    one, two = (
        _weights(folder / name / "saved_models/last_augmented_model.keras") for name in ("one", "two")
    )
    assert set(one) == set(two) and any(name.startswith("optimizer") for name in one)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=1e-5, err_msg=name)
    rows = [
        [line.split(",") for line in (folder / name / "logs/metrics/train_metrics.csv").read_text().split()]
        for name in ("one", "two", "two_worker_1")
    ]
    for header, *epochs in rows[1:]:
        for epoch, reference in zip(epochs, rows[0][1:], strict=True):
            mine, other = dict(zip(header, epoch, strict=True)), dict(zip(rows[0][0], reference, strict=True))
            for name in ("loss", "triplet_loss", "cross_entropy_loss", "val_mAP"):
                assert float(mine[name]) == pytest.approx(float(other[name]), abs=1e-4)
    assert (folder / "two/evaluation/metrics.json").is_file(), "the chief goes on with the other services"
    assert not list((folder / "two_worker_1").rglob("*.keras"))
    assert not list((folder / "two_worker_1").rglob("metrics.json"))
    assert not (folder / "two_1").exists()


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run_with_a_checkpoint_that_one_process_resumes(folder, program):
    workers = _start_two(folder, "killed", "training.epochs=100000")
    (chief, log), (other, _) = workers
    deadline = time.monotonic() + 120
    while "epoch 1 " not in log.read_text() and chief.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    other.send_signal(signal.SIGKILL)
    assert _wait(workers, 60) == [1, -signal.SIGKILL], log.read_text()[-3000:]
    assert "WorkerLostError: worker 0 of 2 cannot go on: another worker has ended" in log.read_text()
    path = folder / "killed/saved_models/last_augmented_model.keras"
    done, _ = read_checkpoint(path)
    assert done.epoch >= 1 and done.step == 0
    resumed = program(
        *_arguments(
            folder, "resumed", "model.model_name=null", "model.custom_model_file=null", f"model.model_path={path}",
            "training.resume_training=True", f"training.epochs={done.epoch + 1}",
        )
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    after, _ = read_checkpoint(folder / "resumed/saved_models/last_augmented_model.keras")
    assert after.epoch == done.epoch + 1
    assert after.history["loss"][:-1] == done.history["loss"]
    assert (folder / "resumed/saved_models/best_model.keras").is_file()
