"""The quantization experiment: what is run, what is repeated, the table and the verdicts, and the page."""

import json

import pytest

from common.config import ConfigError
from src.tools import quantization_experiment as tool
from src.tools._planned import END, put_between_markers, time_verdict

PLAN = """
overrides: [general.project_name=test]
emulation: [+evaluation.target=qnn_htp_emulator, +evaluation.emulated_identities=9]
wide: [+quantization.activation_bits=16]
networks:
  small: {seeds: [0, 1], emulate: True, training: [training.epochs=3]}
  large: {seeds: [0], quantization: [quantization.qat.max_steps=7]}
"""
GOOD = {
    "float/rank1": 0.5, "ptq/rank1": 0.48, "qat/rank1": 0.499, "float/mAP": 0.4, "ptq/mAP": 0.38, "qat/mAP": 0.395,
    "qat/cosine_mean": 0.9971, "qat/cosine_1_percent": 0.99, "qat/dead_dimensions": 2, "float/megabytes": 94.0,
    "qat/megabytes": 24.0, "file_gap": 1e-4, "htp/cosine": 0.9995, "integer": 1.0,
    "wide/to_float": 0.998, "wide/htp": 0.99999, "package_megabytes": 24.5,
}  # fmt: skip
EMULATED = {"htp/rank1": 0.501, "htp/mAP": 0.394}


@pytest.fixture
def runs(monkeypatch):
    """The runs that were asked for, each answered with reports instead of a training."""
    asked = []

    def run_step(config, overrides, target, models, threads):
        if target.is_dir():
            return
        asked.append((target, overrides, models))
        if target.name == "step_1":
            (target / "evaluation").mkdir(parents=True)
            (target / "evaluation/best_model_keras_queries.csv").write_text("query\na\nb\nc\n")
            return
        scores = {
            f"{prefix}/{key}": 0.25
            for prefix in tool._SCORES.values()
            for key in ("rank1", "mAP", "cosine_mean", "cosine_1_percent", "dead_dimensions", "megabytes")
        }
        is_wide = target.name == "step_3"
        gate = {
            "gate/quantized_model.onnx/mean_gap": 0.0002, "gate/quantized_model.onnx/float_gap": 0.003,
            "qat/images_per_second": 55.0,
        }  # fmt: skip
        reports = {
            "quantization": scores | gate,
            "benchmarking": {
                "qnn_htp_emulator/parity_cosine_mean": 0.9999 if is_wide else 0.9991,
                "npu/convolutions": 8, "npu/integer_convolutions": 6, "npu/context_bytes": 26e6, "npu/dlc_bytes": 27e6,
            },
        }  # fmt: skip
        if "+evaluation.target=qnn_htp_emulator" in overrides:
            reports["evaluation"] = {f"int8/qnn_htp_emulator/{key}": 0.5 for key in ("rank1", "mAP")}
        for service, metrics in reports.items():
            (target / service).mkdir(parents=True)
            (target / service / "metrics.json").write_text(json.dumps({"metrics": metrics}))

    monkeypatch.setattr(tool, "run_step", run_step)
    return asked


def _main(tmp_path, monkeypatch, *options):
    (tmp_path / "plan.yaml").write_text(PLAN)
    page = tmp_path / "page.md"
    if not page.exists():
        page.write_text(f"before\n{tool._BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr(tool, "_PAGE", page)
    command = [str(tmp_path / "plan.yaml"), "--folder", str(tmp_path / "out"), "--jobs", "1", *options]
    return tool.main(command), page.read_text()


def test_every_network_and_seed_is_trained_once_and_quantized_twice(tmp_path, runs, monkeypatch):
    code, page = _main(tmp_path, monkeypatch)
    assert code == 0 and len(runs) == 3 * 3
    assert page.startswith("before\n") and page.endswith("after\n") and "old" not in page
    assert "| small | 2 | 25.0 ± 0.0 / 25.0 ± 0.0 |" in page and "| large | 1 | 25.0 / 25.0 |" in page
    by_target = {str(target.relative_to(tmp_path / "out")): (o, m) for target, o, m in runs}
    training, _ = by_target["small/seed_1/step_1"]
    assert {"operation_mode=training", "model.model_name=small", "training.epochs=3"} < set(training)
    overrides, models = by_target["small/seed_1/step_2"]
    assert {"operation_mode=chain_qeb", "+evaluation.target=qnn_htp_emulator"} < set(overrides)
    assert models["previous"] == tmp_path / "out/small/seed_1/step_1/saved_models/best_model.keras"
    large, _ = by_target["large/seed_0/step_2"]
    assert {"operation_mode=chain_qb", "quantization.qat.max_steps=7"} < set(large)
    wide, models = by_target["large/seed_0/step_3"]
    assert {"operation_mode=chain_qb", "+quantization.activation_bits=16"} < set(wide)
    assert models["previous"] == tmp_path / "out/large/seed_0/step_1/saved_models/best_model.keras"
    assert "0.9970 / 0.99990" in page
    assert _main(tmp_path, monkeypatch)[0] == 0 and len(runs) == 9


def test_what_is_measured(tmp_path, runs, monkeypatch):
    _main(tmp_path, monkeypatch)
    values = tool.measured(tmp_path / "out/small/seed_0")
    assert values["integer"] == 0.75 and values["htp/rank1"] == 0.5 and values["file_gap"] == 0.0002
    assert values["htp/cosine"] == 0.9991 and values["wide/htp"] == 0.9999
    assert values["wide/to_float"] == pytest.approx(0.997)
    assert values["package_megabytes"] == 27.0 and values["queries"] == 3
    assert "htp/rank1" not in tool.measured(tmp_path / "out/large/seed_0")


def test_runs_of_an_older_version_are_read(tmp_path, runs, monkeypatch):
    _main(tmp_path, monkeypatch)
    folder = tmp_path / "out/large/seed_0"
    report = folder / "step_2/benchmarking/metrics.json"
    metrics = json.loads(report.read_text())["metrics"]
    report.write_text(json.dumps({"metrics": {k: v for k, v in metrics.items() if "_bytes" not in k}}))
    (folder / "step_1/evaluation/best_model_keras_queries.csv").unlink()
    values = tool.measured(folder)
    assert values["package_megabytes"] == 0.25 and "queries" not in values


def test_a_smoke_run_leaves_the_page(tmp_path, runs, monkeypatch):
    code, page = _main(tmp_path, monkeypatch, "--smoke")
    assert code == 0 and "old" in page
    assert all("dataset.synthetic_preset=tiny" in overrides for _, overrides, _ in runs)


def test_verdicts_are_those_of_the_requirements():
    results = {"a": [GOOD | EMULATED, GOOD | EMULATED], "b": [GOOD]}
    assert all(line.startswith("- yes") for line in tool.verdicts(results))


@pytest.mark.parametrize(
    ("change", "requirement"),
    [
        ({"qat/rank1": 0.494}, "0.5 points of Rank-1: +0.60"),
        ({"qat/mAP": 0.389}, "1.0 points of mAP: +1.10"),
        ({"ptq/mAP": 0.397}, "a: Rank-1 -1.90 (noise 0.00), mAP +0.20 (noise 0.00)"),
        ({"ptq/rank1": 0.5}, "a: Rank-1 +0.10 (noise 0.00), mAP -1.50 (noise 0.00)"),
        ({"qat/cosine_mean": 0.994}, "to float >= 0.995: 0.9940"),
        ({"file_gap": 6e-4}, ">= 0.9995: 0.99940"),
        ({"htp/cosine": 0.998}, ">= 0.999: 0.99800"),
        ({"wide/htp": 0.998}, "16 bits between operators >= 0.999: 0.99800"),
        ({"htp/rank1": 0.493}, "within 0.5 points of ONNX Runtime's: 0.60"),
        ({"integer": 0.98}, "integer on the HTP: 98 %"),
        ({"package_megabytes": 26.5}, "26 MB: 26.50"),
    ],
)
def test_what_falls_short_is_said(change, requirement):
    values = GOOD | EMULATED | change
    failed = [line for line in tool.verdicts({"a": [values, values]}) if line.startswith("- **no**")]
    assert len(failed) >= 1 and any(requirement in line for line in failed)


def test_the_noise_of_one_seed_is_that_of_its_queries():
    worse = {"ptq/rank1": 0.5, "qat/rank1": 0.47, "queries": 600}  # 600 queries: +- 4.0 points
    lines = tool.verdicts(
        {"a": [GOOD | EMULATED] * 2, "one": [GOOD | worse], "many": [GOOD | worse | {"queries": 6000}]}
    )
    assert any(line.startswith("- yes") and "one: Rank-1 +3.00 (noise 4.00)" in line for line in lines)
    assert any(line.startswith("- **no**") and "many: Rank-1 +3.00 (noise 1.27)" in line for line in lines)


def test_what_nobody_emulated_has_no_verdict():
    lines = [line for line in tool.verdicts({"a": [GOOD, GOOD]}) if "the emulator within" in line]
    assert len(lines) == 1 and lines[0].startswith("- not measured")


def test_a_new_run_is_timed(tmp_path, runs, monkeypatch):
    assert "90 minutes" in _main(tmp_path, monkeypatch)[1]
    assert "90 minutes" not in _main(tmp_path, monkeypatch)[1]
    assert time_verdict(91, 90, False).startswith("- **no**")
    assert "rendered before" in time_verdict(89, 90, True)


def test_a_page_without_markers_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(ConfigError, match="between which the table goes"):
        put_between_markers(tmp_path / "page.md", "text", "<!-- table -->")


def test_the_plan_of_the_project_is_valid():
    import yaml

    from common.config import validate

    plan = validate(tool.Plan, yaml.safe_load(tool._PLAN.read_text(encoding="utf-8")))
    assert [name for name, network in plan.networks.items() if len(network.seeds) == 3] == [
        "osnet_a025", "mobilenetv2_a035",
    ]  # fmt: skip
    assert set(plan.networks) == {
        "osnet_a025",
        "mobilenetv2_a035",
        "osnet_a100",
        "mobilenetv2_a100",
        "resnet50v2",
    }
    assert "~quantization.qat" in plan.wide  # its base has the section, which the quantizer would not read
    assert tool._BEGIN in tool._PAGE.read_text(encoding="utf-8")
