"""Every service end to end at tiny size, started as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest

pytestmark = pytest.mark.slow

CONFIG = """
operation_mode: chain_tqeb
general: {{project_name: end_to_end}}
model:
  model_name: mobilenetv1_a025
  input_shape: (64, 32, 3)
dataset:
  dataset_name: synthetic
  training_path: {data}/bounding_box_train
  validation_path: {data}/bounding_box_val
  test_query_path: {data}/query
  test_gallery_path: {data}/bounding_box_test
data_augmentation:
  random_flip: {{mode: horizontal}}
training:
  batch_size: 16
  epochs: 2
  optimizer: {{Adam: {{learning_rate: 0.001}}}}
  triplet_loss: {{strategy: semi_hard}}
  callbacks:
    LRCosineDecay: {{initial_lr: 0.001, hold_steps: 1, decay_steps: 1, end_lr: 0.0001}}
quantization:  # a network of six steps rounds badly
  quantizer: tfmot_qat
  max_images: 32
  qat: {{epochs: 1, max_steps: 3, batch_size: 16}}
  gate: {{float_gap: 0.5, dead_dimensions: 1}}
evaluation: {{baselines: [mean_colour], random_network: True}}
benchmarking: {{parity_images: 2, latency_runs: 5}}
mlflow: {{uri: {folder}/mlruns}}
hydra: {{run: {{dir: "{folder}/out"}}}}
"""


@pytest.fixture(scope="module")
def chain(tiny, program, tmp_path_factory):
    """A finished `chain_tqeb`: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "tiny.yaml").write_text(CONFIG.format(data=tiny, folder=folder))
    result = program("--config-dir", str(folder), "--config-name", "tiny", cwd=folder)
    assert result.returncode == 0, result.stderr[-4000:]
    return folder, result.stdout + result.stderr


def _again(chain, program, *overrides) -> tuple[Path, str]:
    """Run the same configuration with overrides; returns the new output folder and what was printed."""
    folder, _ = chain
    before = set(folder.glob("out*"))
    result = program("--config-dir", str(folder), "--config-name", "tiny", *overrides, cwd=folder)
    assert result.returncode == 0, result.stderr[-4000:]
    [out] = set(folder.glob("out*")) - before
    return out, result.stdout + result.stderr


@pytest.mark.parametrize(
    "path",
    [
        "Training_curves.png",
        "Training_scores.png",
        "logs/metrics/train_metrics.csv",
        "saved_models/best_augmented_model.keras",
        "saved_models/last_augmented_model.keras",
        "saved_models/best_model.keras",
        "saved_models/best_model.json",
        "quantized_models/quantized_model.onnx",
        "quantized_models/quantized_model.tflite",
        "evaluation/metrics.json",
        "evaluation/cmc.png",
        "evaluation/best_model_keras_distance_histogram.png",
        "benchmarking/metrics.json",
        "benchmarking/placement.json",
        "benchmarking/quantized_model_qcs8550.dlc",
        "benchmarking/quantized_model_qcs8550_qnn.bin",
        "benchmarking/encodings_legacy.json",
        "report.html",
        "stm32ai_main.log",
        ".hydra/config.yaml",
    ],
)
def test_the_chain_leaves_its_results(chain, path):
    assert (chain[0] / "out" / path).stat().st_size > 0


def test_nothing_temporary_is_left(chain):
    assert not [p for p in (chain[0] / "out").rglob("*") if ".tmp" in p.name]


def test_float_and_int8_are_scored_side_by_side(chain):
    report = json.loads((chain[0] / "out/evaluation/metrics.json").read_text())
    for row in ("float32/keras", "int8/onnxruntime_cpu", "int8/tflite", "baseline/mean_colour"):
        assert 0 <= report["metrics"][f"{row}/mAP"] <= 1
    assert "protocol market1501" in report["notes"][0]
    assert any(
        "quantized_model.onnx - best_model.keras" in str(row[0]) for row in report["tables"][0]["rows"]
    )


def test_the_chain_says_what_each_service_made_of_the_model(chain):
    metrics = json.loads((chain[0] / "out/evaluation/metrics.json").read_text())["metrics"]
    for service, row in (("training", "float32/keras"), ("quantization", "int8/onnxruntime_cpu")):
        assert metrics[f"after_{service}/mAP"] == metrics[f"{row}/mAP"]
    assert "Progression\nafter" in chain[1]


def test_everything_runs_on_the_npu_in_integers(chain):
    metrics = json.loads((chain[0] / "out/benchmarking/metrics.json").read_text())["metrics"]
    assert metrics["npu/integer_convolutions"] == metrics["npu/convolutions"] >= 27
    assert metrics["npu/refused_operators"] == 0
    # A network of six steps amplifies single rounding steps; the demo's trained network reaches 0.99.
    assert metrics["qnn_htp_emulator/parity_cosine_mean"] > 0.7
    assert not [name for name in metrics if "emulator" in name and "ms" in name.split("/")[-1].split("_")]


def test_mlflow_shows_one_run_with_a_nested_run_per_service(chain):
    from mlflow.tracking import MlflowClient

    folder, printed = chain
    uri = f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}"
    assert f"mlflow ui --backend-store-uri {uri}" in printed
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("end_to_end").experiment_id])
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    nested = {run.info.run_name: run for run in runs if run is not parent}
    assert set(nested) == {"training", "quantization", "evaluation", "benchmarking"}
    assert parent.data.params["training.epochs"] == "2"
    assert len(parent.data.tags["git_commit"]) >= 7
    assert parent.data.tags["version.keras"]
    assert len(client.get_metric_history(nested["training"].info.run_id, "loss")) == 2
    assert "int8/tflite/rank1" in nested["evaluation"].data.metrics
    saved = {item.path for item in client.list_artifacts(nested["training"].info.run_id, "model")}
    assert {"model/best_model.keras", "model/best_model.json"} <= saved
    assert Path(parent.info.artifact_uri.removeprefix("file://")).is_relative_to(
        folder / "mlruns" / "artifacts"
    )


@pytest.mark.parametrize(
    "file", ["quantized_models/quantized_model.tflite", "quantized_models/quantized_model.onnx"]
)
def test_a_quantized_file_is_evaluated_on_its_own(chain, program, file):
    path = chain[0] / "out" / file
    out, _ = _again(
        chain,
        program,
        "operation_mode=evaluation",
        "model.model_name=null",
        f"model.model_path={path}",
        "evaluation.baselines=[]",
    )
    first = json.loads((chain[0] / "out/evaluation/metrics.json").read_text())["metrics"]
    second = json.loads((out / "evaluation/metrics.json").read_text())["metrics"]
    row = "int8/tflite" if path.suffix == ".tflite" else "int8/onnxruntime_cpu"
    assert second[f"{row}/mAP"] == pytest.approx(first[f"{row}/mAP"], abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "quantization", "file"),
    [
        ("chain_eqe", "{quantizer: TFlite_converter, granularity: per_tensor, quantization_input_type: uint8, gate: {float_gap: 0.5, dead_dimensions: 1}}", "tflite"),
        ("chain_qb", "{quantizer: Onnx_quantizer, max_images: 32, gate: {float_gap: 0.5, dead_dimensions: 1}}", "onnx"),
    ],
)  # fmt: skip
def test_post_training_quantization_in_chains(chain, program, mode, quantization, file):
    best = chain[0] / "out/saved_models/best_model.keras"
    out, _ = _again(
        chain, program,
        f"operation_mode={mode}", "model.model_name=null", f"model.model_path={best}", "~quantization", f"++quantization={quantization}",
    )  # fmt: skip
    assert (out / f"quantized_models/quantized_model.{file}").stat().st_size > 0


def test_a_trained_model_is_trained_further_and_the_same_seed_gives_the_same_losses(chain, program):
    best = chain[0] / "out/saved_models/best_model.keras"
    overrides = (
        "operation_mode=training", "model.model_name=null", f"model.model_path={best}", "training.epochs=1",
        "general.deterministic_ops=True", "dataset.cache=memory", "training.frozen_layers=(0:-1)",
    )  # fmt: skip
    logs = [
        (_again(chain, program, *overrides)[0] / "logs/metrics/train_metrics.csv").read_text().splitlines()
        for _ in range(2)
    ]
    speed = ("images_per_second", "processor_seconds")
    columns = [i for i, name in enumerate(logs[0][0].split(",")) if name not in speed]
    first, second = ([row.split(",")[i] for i in columns] for row in (logs[0][1], logs[1][1]))
    assert first == second


def test_a_compiled_context_is_evaluated_on_the_emulator(chain, program):
    context = chain[0] / "out/benchmarking/quantized_model_qcs8550.onnx"
    out, _ = _again(
        chain, program, "operation_mode=evaluation", "model.model_name=null", f"model.model_path={context}",
        "evaluation.baselines=[]", "evaluation.random_network=False",
    )  # fmt: skip
    metrics = json.loads((out / "evaluation/metrics.json").read_text())["metrics"]
    assert {"float32/keras/mAP", "int8/onnxruntime_cpu/mAP", "int8/qnn_htp_emulator/mAP"} <= set(metrics)


def test_the_emulator_scores_the_int8_graph_beside_the_host(chain, program):
    onnx = chain[0] / "out/quantized_models/quantized_model.onnx"
    out, printed = _again(
        chain, program, "operation_mode=evaluation", "model.model_name=null", f"model.model_path={onnx}",
        "evaluation.baselines=[]", "evaluation.random_network=False", "evaluation.target=qnn_htp_emulator",
    )  # fmt: skip
    first = json.loads((chain[0] / "out/evaluation/metrics.json").read_text())["metrics"]
    metrics = json.loads((out / "evaluation/metrics.json").read_text())["metrics"]
    assert {name: metrics[name] for name in metrics if "emulator" not in name} == pytest.approx(
        {name: value for name, value in first.items() if not name.startswith("baseline")}, abs=1e-6
    )
    assert metrics["int8/qnn_htp_emulator/mAP"] == pytest.approx(metrics["int8/onnxruntime_cpu/mAP"], abs=0.1)
    assert "emulating 36 images takes about" in printed
    assert (out / "evaluation/quantized_model_onnx_emulator_distance_histogram.png").is_file()


def test_the_emulator_scores_some_people_beside_the_host(chain, program):
    onnx = chain[0] / "out/quantized_models/quantized_model.onnx"
    out, printed = _again(
        chain, program, "operation_mode=evaluation", "model.model_name=null", f"model.model_path={onnx}",
        "evaluation.baselines=[]", "evaluation.random_network=False", "evaluation.target=qnn_htp_emulator",
        "+evaluation.emulated_identities=4",
    )  # fmt: skip
    metrics = json.loads((out / "evaluation/metrics.json").read_text())["metrics"]
    assert metrics["int8/qnn_htp_emulator/4_people/mAP"] == pytest.approx(
        metrics["int8/onnxruntime_cpu/4_people/mAP"], abs=0.1
    )
    assert metrics["int8/onnxruntime_cpu/4_people/mAP"] >= metrics["int8/onnxruntime_cpu/mAP"]
    assert "int8/qnn_htp_emulator/mAP" not in metrics
    assert "qnn_htp_emulator - onnxruntime_cpu, 4 people" in printed
    assert "emulating 24 images takes about" in printed
    assert "Rows of 4 people are of their images alone" in printed


@pytest.mark.parametrize(
    ("file", "target", "row"),
    [
        ("saved_models/best_model.keras", "host", "float32/keras"),
        ("quantized_models/quantized_model.tflite", "host", "int8/tflite"),
        ("quantized_models/quantized_model.onnx", "host", "int8/onnxruntime_cpu"),
        ("quantized_models/quantized_model.onnx", "qnn_htp_emulator", "int8/qnn_htp_emulator"),
        ("benchmarking/quantized_model_qcs8550.onnx", "host", "int8/qnn_htp_emulator"),
    ],
)
def test_any_model_file_predicts_on_the_test_set(chain, program, file, target, row):
    out, _ = _again(
        chain, program, "operation_mode=prediction", "model.model_name=null", f"model.model_path={chain[0] / 'out' / file}",
        f"prediction.target={target}", "prediction.top_k=3", "prediction.sheets=2",
    )  # fmt: skip
    metrics = json.loads((out / "prediction/metrics.json").read_text())["metrics"]
    assert (metrics["queries"], metrics["gallery_images"]) == (18, 36)
    assert 0 <= metrics[f"{row}/first_match_correct"] <= 1
    assert ("qnn_htp_emulator" in row) != any(name.endswith("/images_per_second") for name in metrics)
    matches = json.loads((out / "prediction/matches.json").read_text())["queries"]
    assert {len(query["matches"]) for query in matches} == {3}
    assert {match["similarity"] <= 1.0001 for query in matches for match in query["matches"]} == {True}
    assert len(list((out / "prediction").glob("*.png"))) == 2


def test_a_chain_predicts_on_images_without_names_with_its_int8_model(chain, program, tiny, tmp_path):
    for number, image in enumerate(sorted((tiny / "query").iterdir())[:6]):
        (tmp_path / f"{number}.JPG").write_bytes(image.read_bytes())
    best = chain[0] / "out/saved_models/best_model.keras"
    out, printed = _again(
        chain, program, "operation_mode=chain_qp", "model.model_name=null", f"model.model_path={best}",
        "~quantization", "++quantization={quantizer: Onnx_quantizer, max_images: 16, gate: {float_gap: 0.5, dead_dimensions: 1}}",
        f"dataset.prediction_query_path={tmp_path}", f"dataset.prediction_gallery_path={tmp_path}",
    )  # fmt: skip
    content = json.loads((out / "prediction/matches.json").read_text())
    assert (content["measured_on"], content["model"]) == (
        "onnxruntime_cpu", str(out / "quantized_models/quantized_model.onnx"),
    )  # fmt: skip
    assert [len(query["matches"]) for query in content["queries"]] == [5] * 6
    assert "the 6 images in" in printed and "are read without identities" in printed


def test_a_killed_training_resumes_to_the_same_weights_bit_for_bit(tiny, program, tmp_path):
    """Two epochs, SIGKILL in the middle of the third, resume: equal to four epochs without a stop."""
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(data=tiny, folder=tmp_path))
    common = [
        "--config-dir", str(tmp_path), "--config-name", "tiny", "operation_mode=training", "training.epochs=4",
        "general.deterministic_ops=True", "training.dropout=0.2", "training.steps_per_epoch=12",
        "evaluation.baselines=[]", "evaluation.random_network=False",
    ]  # fmt: skip
    whole = program(*common, f"hydra.run.dir={tmp_path}/whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr[-3000:]
    log = tmp_path / "killed.log"
    main = Path(__file__).parents[2] / "stm32ai_main.py"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(main), *common, f"hydra.run.dir={tmp_path}/killed"],
            stdout=output, stderr=output, cwd=tmp_path, env={**os.environ},
        )  # fmt: skip
        events = tmp_path / "killed/saved_models/last_augmented_model.keras"
        deadline = time.monotonic() + 300
        saved: set[int] = set()
        while process.poll() is None and time.monotonic() < deadline and len(saved) < 2:
            time.sleep(0.01)
            saved |= {events.stat().st_mtime_ns} if events.is_file() else set()
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, log.read_text()[-3000:]
    resumed = program(
        *common, f"hydra.run.dir={tmp_path}/resumed", "model.model_name=null", f"model.model_path={events}",
        "training.resume_training=True", cwd=tmp_path,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "resuming in epoch 3 of 4" in resumed.stdout + resumed.stderr
    first, second = (
        keras.saving.load_model(tmp_path / run / "saved_models/last_augmented_model.keras")
        for run in ("whole", "resumed")
    )
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        assert (a == b).all()
    for a, b in zip(first.optimizer.variables, second.optimizer.variables, strict=True):
        assert (keras.ops.convert_to_numpy(a) == keras.ops.convert_to_numpy(b)).all()
