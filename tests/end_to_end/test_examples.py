"""Every example configuration runs: at a reduced size, on synthetic people in the layout that the examples name."""

import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "config_file_examples"
SMALL = {
    "dataset": [
        "dataset.training_path={data}/reid_train",
        "dataset.test_query_path={data}/reid_test/query",
        "dataset.test_gallery_path={data}/reid_test/gallery",
    ],
    "model": ["model.model_name=mobilenetv1_a025", "model.input_shape=(64,32,3)", "model.pretrained=False"],
    "training": ["training.batch_size=16", "training.epochs=1", "training.steps_per_epoch=6"],
    # networks of a few steps round badly
    "quantization": [
        "quantization.max_images=16",
        "quantization.gate.float_gap=0.5",
        "quantization.gate.dead_dimensions=1",
    ],  # fmt: skip
    "qat": ["quantization.qat.epochs=1", "quantization.qat.max_steps=2", "quantization.qat.batch_size=16"],
    "distillation": ["distillation.batch_size=16"],
    "benchmarking": ["benchmarking.parity_images=2", "benchmarking.latency_runs=2"],
}
STAGE = "{epochs: 1, steps_per_epoch: 2, optimizer: Adam, losses: [{name: cross_entropy}, {name: relational_distillation}]}"
SCORED = "evaluation/metrics.json"
EXPECTED = {
    "training": "saved_models/best_model.keras",
    "distillation": "distillation/metrics.json",
    "evaluation": SCORED,
    "evaluation_qcs8550": SCORED,
    "prediction": "prediction/matches.csv",
    "prediction_qcs8550": "prediction/matches.csv",
    "quantization": "quantized_models/quantized_model.tflite",
    "benchmarking": "benchmarking/quantized_model_qcs8550.dlc",
    "chain_tqe": SCORED,
    "chain_tqeb": "benchmarking/metrics.json",
    "chain_tkqeb": "benchmarking/metrics.json",
    "chain_eqe": SCORED,
    "chain_eqeb": "benchmarking/metrics.json",
    "chain_qb": "benchmarking/metrics.json",
    "deployment": "deployment/package.zip",
    "chain_qd": "deployment/package.zip",
    "multi_step/step_1": "saved_models/best_model.keras",
    "multi_step/step_2": "saved_models/best_model.keras",
    "multi_step/step_3": SCORED,
}
# Those of two modalities have tests of their own: test_cross_modal_training.py, test_cross_modal_chain.py.
OF_TWO_MODALITIES = ("vireid", "chain_taqeb_config", "chain_tkaqeb_config")


def test_every_example_is_run():
    names = {
        str(path.relative_to(EXAMPLES)).removesuffix("_config.yaml")
        for path in EXAMPLES.rglob("*.yaml")
        if not {path.parent.name, path.stem} & set(OF_TWO_MODALITIES)
    }
    assert names == set(EXPECTED)


@pytest.fixture(scope="module")
def run(program, tiny_in, tmp_path_factory):
    """Runs an example by name at a reduced size and returns its folder; MODELS_DIR holds a trained, quantized model."""
    folder, data = tmp_path_factory.mktemp("examples"), tiny_in("deepsportradar")
    models = folder / "models"
    models.mkdir()

    def run(name: str) -> Path:
        text = (EXAMPLES / f"{name}_config.yaml").read_text()
        out = folder / name
        sections = [section for section in SMALL if f"\n{section}:\n" in text]
        overrides = [line.format(data=data) for section in sections for line in SMALL[section]]
        if "model_path:" in text:
            overrides = [line for line in overrides if not line.startswith("model.")]
        if "dataset_name: synthetic" in text:
            overrides.append("dataset.dataset_name=deepsportradar")
        if "quantization:\n" in text:
            overrides.append(f"dataset.quantization_path={data}/reid_train")
            overrides += SMALL["qat"] if "tfmot_qat" in text else []
        if "\ndistillation:\n" in text:
            overrides += [
                "~distillation.stages",
                f"distillation.stages=[{STAGE}]",
                "++dataset.validation_split_by=identity",
            ]
            overrides += [f"distillation.teacher={models}/best_model.keras"] if "\n  teacher:" in text else []
            overrides += ["distillation.student.input_shape=(64,32,3)"] if "\n  student:" in text else []
        if "prediction_query_path" in text:
            overrides += [
                f"dataset.prediction_query_path={data}/reid_test/query",
                f"dataset.prediction_gallery_path={data}/reid_test/gallery",
            ]
        if not name.startswith("multi_step"):
            overrides.append(f"hydra.run.dir={out}")
        done = program(
            "--config-name",
            f"{name}_config.yaml",
            *overrides,
            f"mlflow.uri={folder}/mlruns",
            MODELS_DIR=str(models),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return models / Path(name).name if name.startswith("multi_step") else out

    first = run("chain_tqeb")
    for path in [*first.glob("saved_models/best_model.*"), *first.glob("quantized_models/quantized_model.*")]:
        shutil.copy(path, models)
    # Where the manifests of the INT8 files look for the float model, which says how far rounding may go
    shutil.copytree(first / "saved_models", models.parent / "saved_models")
    run.first = first
    return run


def test_the_demo(run):
    metrics = json.loads((run.first / SCORED).read_text())["metrics"]
    assert {"float32/keras/mAP", "int8/onnxruntime_cpu/mAP", "int8/tflite/mAP"} <= set(metrics)
    assert (run.first / EXPECTED["chain_tqeb"]).stat().st_size > 0


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "chain_tqeb" and "/" not in name])
def test_an_example_leaves_its_result(run, name):
    assert (run(name) / EXPECTED[name]).stat().st_size > 0


def test_three_steps_in_a_row(run):
    for number in (1, 2, 3):
        name = f"multi_step/step_{number}"
        assert (run(name) / EXPECTED[name]).stat().st_size > 0
