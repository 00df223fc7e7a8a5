"""A checkpoint that was trained elsewhere, from import to scores."""

from pathlib import Path

import pytest

from src.tools.import_checkpoint import main

pytestmark = pytest.mark.slow

WEIGHTS = Path(__file__).parents[1] / "data" / "osnet_x0_25_weights.npz"


def test_an_imported_model_is_evaluated_in_its_own_preprocessing(tiny, program, tmp_path):
    model = tmp_path / "osnet.keras"
    arguments = ["--from", "torchreid", "--input", str(WEIGHTS), "--model-name", "osnet_a025"]
    assert main([*arguments, "--input-shape", "64", "32", "3", "--output", str(model)]) == 0
    result = program(
        "--config-name", "evaluation_config.yaml", f"model.model_path={model}", "dataset.dataset_name=synthetic",
        f"dataset.test_query_path={tiny}/query", f"dataset.test_gallery_path={tiny}/bounding_box_test",
        "evaluation.baselines=[]", "evaluation.random_network=False", f"mlflow.uri={tmp_path}/mlruns",
        f"hydra.run.dir={tmp_path}/out", MODELS_DIR="unused",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]
    assert (tmp_path / "out/evaluation/metrics.json").is_file()
    assert "no manifest" not in result.stdout and "differs from what" not in result.stdout
