"""Everything with a network for visible and thermal images, as a user starts it: trained, quantized, scored, packed."""

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.qnn]

CONFIG = """
operation_mode: chain_tqebd
model:
  model_name: agw
  input_shape: (64, 32, 3)
  arguments: {{backbone: plain_cnn, thermal_channels: 1}}
dataset: {{dataset_name: sysu_mm01, root_path: {root}}}
training: {{batch_size: 16, images_per_identity: 2, epochs: 1, steps_per_epoch: 4, optimizer: Adam}}
quantization: {{quantizer: Onnx_quantizer, max_images: 32, encodings: [], gate: {{float_gap: 0.5, dead_dimensions: 1}}}}
benchmarking: {{parity_images: 2, latency_runs: 3}}
hydra: {{run: {{dir: {folder}/run}}}}
mlflow: {{uri: {folder}/mlruns}}
"""


def test_a_chain_goes_on_with_both_modalities(program, tiny_in, tmp_path):
    (tmp_path / "run.yaml").write_text(CONFIG.format(root=tiny_in("sysu_mm01"), folder=tmp_path))
    result = program("--config-dir", str(tmp_path), "--config-name", "run.yaml")
    assert result.returncode == 0, result.stderr[-3000:]
    run = tmp_path / "run"

    def metrics(service):
        return json.loads((run / service / "metrics.json").read_text())["metrics"]

    for key in ("float32/keras", "int8/onnxruntime_cpu"):
        for direction in ("thermal_to_visible", "visible_to_thermal", "visible_to_visible"):
            assert f"{key}/{direction}_mAP" in metrics("evaluation")
    for modality in ("visible", "thermal"):
        found = metrics("benchmarking")
        assert found[f"{modality}/npu/integer_convolutions"] == found[f"{modality}/npu/convolutions"] > 0
        assert (run / f"deployment/package_{modality}/quantized_model_{modality}.onnx").is_file()
