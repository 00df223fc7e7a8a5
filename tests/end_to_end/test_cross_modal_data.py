"""Training and evaluation from a data set's own lists, with its own protocol, as a user starts them."""

import json

import pytest

pytestmark = pytest.mark.slow

CONFIG = """
operation_mode: training
model: {{model_name: mobilenetv1_a025, input_shape: "(64, 32, 3)"}}
dataset: {{dataset_name: {layout}, root_path: {root}}}
training: {{batch_size: 16, epochs: 1, optimizer: Adam}}
evaluation:
  protocol:
    {protocol}
hydra: {{run: {{dir: {folder}/run}}}}
mlflow: {{uri: {folder}/mlruns}}
"""


@pytest.mark.parametrize(
    ("layout", "protocol", "sentence"),
    [
        (
            "sysu_mm01",
            "sysu_mm01: {mode: indoor}",
            "indoor-search, single-shot, galleries drawn by random.seed(0) to 9",
        ),
        ("regdb", "regdb: {direction: thermal_to_visible}", "query and gallery are of different modalities"),
    ],
)
def test_a_data_set_is_trained_on_and_tested_by_its_lists(
    program, tiny_in, tmp_path, layout, protocol, sentence
):
    text = CONFIG.format(layout=layout, root=tiny_in(layout), protocol=protocol, folder=tmp_path)
    (tmp_path / "run.yaml").write_text(text)
    result = program("--config-dir", str(tmp_path), "--config-name", "run.yaml")
    assert result.returncode == 0, result.stderr
    assert f"synthetic people in the layout of {layout}" in result.stdout + result.stderr
    assert sentence in result.stdout + result.stderr
    manifest = json.loads((tmp_path / "run/saved_models/best_model.json").read_text())
    assert manifest["trained_on"]["dataset_name"] == f"synthetic people in the layout of {layout}"
