"""The distillation experiment: what is run, what is counted, the tables, the verdicts and the page."""

import csv
import json
import re

import numpy as np
import onnx
import pytest
import yaml

from common.config import ConfigError, compose, validate
from common.deployment.latency_model import LatencyEstimate
from common.deployment.macs import count_macs
from src.registries import build_schedule
from src.schema import Config, ModelSection
from src.tools import _sizes, cross_modal_experiment, experiment
from src.tools import distillation_experiment as tool

PLAN = """
question: Does a teacher help?
seeds: [0, 1, 2]
preset: tiny
shared:
  - {config: start.yaml}
  - {config: teacher.yaml, overrides: ["model.model_path={previous}"]}
teacher: teacher
arms:
  teacher: [{config: quantization.yaml, overrides: ["model.model_path={shared}"]}]
  other: [{config: other.yaml, overrides: ["model.model_path={shared_1}"]}]
  alone: [{config: alone.yaml}]
  longer: [{config: alone.yaml, overrides: ["training.steps_per_epoch=40"]}]
  distilled: [{config: distillation.yaml, overrides: ["distillation.teacher={shared}"]}]
parts:
  - {part: same images, arm: distilled, without: alone, same: images}
  - {part: same time, arm: distilled, without: longer, same: time}
  - {part: another, arm: other, without: teacher, same: images}
published:
  a small network: {model_name: plain_cnn, input_shape: [64, 32, 3]}
"""
MAP = {
    "shared": (0.50, 0.52, 0.51), "teacher": (0.50, 0.52, 0.51), "other": (0.50, 0.52, 0.51),
    "alone": (0.30, 0.32, 0.31), "longer": (0.32, 0.35, 0.36), "distilled": (0.36, 0.37, 0.38),
}  # fmt: skip


@pytest.fixture
def runs(monkeypatch):
    """The runs that were asked for, each answered with reports instead of a training."""
    asked = []

    def run_step(config, overrides, target, models, threads):
        if target.is_dir():
            return
        asked.append((target, config, overrides))
        assert all(path.is_file() for path in models.values()), "a step starts from what is there"
        arm, seed = target.parents[1].name, int(target.parent.name.removeprefix("seed_"))
        (target / ".hydra").mkdir(parents=True)
        if arm != "shared":
            _scored(target, arm, seed)
        if "quantization" in config:
            (target / ".hydra/config.yaml").write_text("quantization: {}")
            return
        if arm == "distilled":
            stages = {"easy": {"steps_per_epoch": 20}, "hard": {"steps_per_epoch": 10}}
            raw = {"distillation": {"batch_size": 8, "stages": stages}}
            _log(target / "distillation/stage_1/logs", 1, 2.0, MAP[arm][seed] - 0.1)
            _log(target / "distillation/stage_2/logs", 2, 1.0, MAP[arm][seed])
            _report(target, "distillation", {"teacher_processor_seconds": 0.5})
        else:
            steps = 40 if arm == "longer" else 20
            raw = {"training": {"batch_size": 8, "steps_per_epoch": steps}}
            _log(target / "logs", 2, 0.08 * steps, MAP[arm][seed])
        (target / ".hydra/config.yaml").write_text(yaml.safe_dump(raw))
        made = target / ("distilled_models" if arm == "distilled" else "saved_models") / "best_model.keras"
        made.parent.mkdir()
        made.write_bytes(bytes(2_000_000))

    monkeypatch.setattr(experiment, "run_step", run_step)
    monkeypatch.setattr(cross_modal_experiment, "check_plan", lambda *given: None)  # its recipes are made up
    return asked


def _scored(target, arm, seed):
    """What a quantization leaves: two graphs, the scores of both precisions, and the queries."""
    (target / "quantized_models").mkdir()
    for modality in ("thermal", "visible"):
        _graph(target / f"quantized_models/quantized_model_{modality}.onnx")
    scores = {
        "rank1": 0.4, "mAP": MAP[arm][seed], "visible_to_thermal_rank1": 0.25,
        "visible_to_visible_rank1": 0.8, "thermal_to_thermal_rank1": 0.9,
    }  # fmt: skip
    metrics = {f"float32/keras/{key}": value for key, value in scores.items()}
    lost = 0.02 if arm == "longer" else 0.001
    _report(target, "evaluation", {**metrics, "int8/onnxruntime_cpu/mAP": MAP[arm][seed] - lost})
    prefix = "distillation_" if arm == "distilled" else ""
    with (target / f"evaluation/{prefix}best_model_keras_queries.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "identity", "average_precision_in_trials", "rank1_in_trials"))
        for number in range(12):
            writer.writerow((f"{number}.jpg", number // 3, MAP[arm][seed] + 0.01 * number, 0.4))


def _graph(path):
    """A convolution of 3 to 4 channels with kernels of 3x3 on 8x8 pixels: 108 weights, 6,912 MACs."""
    weights = onnx.numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
    given, made = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, channels, 8, 8))
        for name, channels in (("x", 3), ("y", 4))
    )
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [given], [made], [weights])), path)


def _log(folder, epochs, seconds, best):
    (folder / "metrics").mkdir(parents=True)
    rows = [f"{epoch},{seconds},{best - 0.01 * (epochs - 1 - epoch)}" for epoch in range(epochs)]
    text = "\n".join(["epoch,processor_seconds,val_mAP", *rows])
    (folder / "metrics/train_metrics.csv").write_text(text)


def _report(target, service, metrics):
    (target / service).mkdir(exist_ok=True)
    (target / service / "metrics.json").write_text(json.dumps({"metrics": metrics}))


def _main(tmp_path, monkeypatch, *options):
    (tmp_path / "plan.yaml").write_text(PLAN)
    page = tmp_path / "page.md"
    if not page.exists():
        page.write_text(f"before\n{tool._BEGIN}\nold\n<!-- end of the table -->\nafter\n")
    monkeypatch.setattr(tool, "_PAGE", page)
    monkeypatch.setattr(tool, "_PROJECT", tmp_path)
    monkeypatch.setattr(
        _sizes, "_export", lambda section, path: (path.parent.mkdir(parents=True), _graph(path))
    )
    command = [str(tmp_path / "plan.yaml"), "--folder", str(tmp_path / "out"), "--jobs", "1", *options]
    return tool.main(command), page.read_text()


def test_tables_and_verdicts_go_into_the_page(tmp_path, runs, monkeypatch):
    code, page = _main(tmp_path, monkeypatch)
    assert code == 0 and len(runs) == 3 * (2 + 5)
    assert page.startswith("before\n") and page.endswith("after\n") and "old" not in page
    # 2 epochs of 20 steps of 80 ms; 20 and 2 x 10 steps of 100 ms and half a second of cache
    assert "| alone | 0 k | 3 | 80 | 31.0 ± 1.0 | 40.0 ± 0.0 | 31.0 ± 1.0 |" in page
    assert "| distilled | 0 k | 4 | 100 | 37.0 ± 1.0 |" in page
    # Both shared trainings made the teacher; the other network began with the first of them and had one of its own
    assert "| teacher | 1 k | 6 | 80 | 51.0 ± 1.0 |" in page and "| other | 1 k | 6 | 80 |" in page
    assert page.count("beats") == 1
    assert "- yes: teacher beats alone on validation people: +20.0 mAP" in page
    assert "- yes: distilled and alone saw the same number of images: 320 and 320." in page
    assert "- yes: other and teacher saw the same number of images: 640 and 640." in page
    assert "- yes: longer trained at least as long as distilled: 6 s of processor time against 4 s" in page
    assert page.count("a step of") == 1
    assert "- yes: a step of distilled costs at most 1.5 steps of alone: 1.25." in page
    none = "none: macs is 6.912 k, known are 34.98 M to 16.41 G"
    assert f"| alone | 0 | 0.0 | 2.00 | 0.00 (2) | {none} | 31.0 ± 1.0 | 30.9 ± 1.0 | +0.10 ± 0.00 |" in page
    assert f"| a small network | 0 | 0.0 | 0.00 | 0.00 (1) | {none} |" in page
    assert (
        "- **no**: INT8 loses at most 1 mAP, measured on these rows alone (teacher; other; alone; longer; "
        "distilled): +2.00 in the mean, longer." in page
    )
    # Differences of 6, 5, 7 and of 4, 2, 2 points; 4.303 / sqrt(3) deviations to either side
    assert (
        "- yes: distilled minus alone: at least +2 mAP across modalities, with the intervals above 0: +6.0, "
        "[+3.5, +8.5] over the seeds and [+5.0, +7.0] over the seeds and people." in page
    )
    assert "- **no**: distilled minus longer: at least +2 mAP" in page and "+2.7, [-0.2, +5.5] over" in page
    assert "| same images | distilled - alone |" in page
    assert "- yes: at most 150 minutes on" in page
    code, page = _main(tmp_path, monkeypatch)
    assert code == 0 and len(runs) == 21, "what is finished is not repeated"
    assert "minutes" not in page, "only some runs were timed"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("teacher: teacher", "teacher: teaher", "teacher: there is no arm 'teaher', did you mean 'teacher'?"),
        ("without: longer", "without: shorter", "same time: without: there is no arm 'shorter'"),
        ("arm: other", "arm: untrained", "arm: there is no arm 'untrained'"),
    ],
)
def test_a_row_that_is_not_there_is_named_before_anything_runs(
    tmp_path, runs, monkeypatch, capsys, old, new, message
):
    assert old in PLAN
    monkeypatch.setitem(globals(), "PLAN", PLAN.replace(old, new, 1))
    code, _ = _main(tmp_path, monkeypatch)
    assert code == 2 and not runs and message in capsys.readouterr().err


def test_a_smoke_run_is_tiny_and_leaves_the_page(tmp_path, runs, monkeypatch):
    code, page = _main(tmp_path, monkeypatch, "--smoke")
    assert code == 0 and "old" in page and len(runs) == 2 * (2 + 5)
    for _, config, overrides in runs:
        assert any(text.startswith("distillation.stages=") for text in overrides) == ("distil" in config)
        assert "++quantization.max_images=16" in overrides
        assert ("~training.callbacks" in overrides) != ("distil" in config or "quantization" in config)
        assert "training.steps_per_epoch=40" not in overrides


def test_the_plan_of_the_project_is_valid_and_compares_what_it_says(monkeypatch):
    monkeypatch.setenv("MODELS_DIR", "/models")
    plan = validate(tool.DistillationPlan, yaml.safe_load(tool._PLAN.read_text(encoding="utf-8")))
    assert plan.seeds == [0, 1, 2, 3, 4] and plan.preset == "bench"
    assert tool._BEGIN in tool._PAGE.read_text(encoding="utf-8")
    configs = {}
    for name in ("shared", *plan.arms):
        for tiny in (True, False):
            chosen = tool.for_smoke(plan, tool._SMOKE) if tiny else plan
            for step in chosen.shared if name == "shared" else chosen.arms[name]:
                overrides = [
                    re.sub(r"\{\w+\}", "/t.keras", text) for text in (*plan.overrides, *step.overrides)
                ]
                config = validate(Config, compose(["--config-name", step.config, *overrides]))
                if "caj" in step.config:
                    caj = config
        configs[name] = config
        assert name == "shared" or config.operation_mode in ("chain_qe", "chain_tqe", "chain_kqe")
    assert {name for part in plan.parts for name in (part.arm, part.without)} == {*plan.arms} - {plan.teacher}
    student, _, idkl, agw, agw_longer, alone, longer, distilled = configs.values()
    assert student.model.arguments == {"width": 0.5}
    own = ("batch_size", "images_per_identity", "epochs", "optimizer", "callbacks")
    for one, other, longest in ((idkl, agw, agw_longer), (alone, alone, longer)):
        for key in own:
            assert len({str(getattr(config.training, key)) for config in (one, other, longest)}) == 1
        assert (
            one.training.steps_per_epoch == other.training.steps_per_epoch < longest.training.steps_per_epoch
        )
    assert agw.training.losses == agw_longer.training.losses and agw.model == agw_longer.model
    views = ("data_augmentation", "data_augmentation_second_view", "data_augmentation_thermal")
    assert all(getattr(distilled, key) == getattr(alone, key) == getattr(caj, key) for key in views)
    section = distilled.distillation
    assert alone.model == distilled.model
    for stage in section.stages:
        assert alone.training.losses == [loss for loss in stage.losses if not loss.needs_teacher]
        assert (
            stage.optimizer == alone.training.optimizer
            and stage.steps_per_epoch == alone.training.steps_per_epoch
        )
    rates = [rate for stage in section.stages for rate in _rates(stage)]
    assert rates == pytest.approx(_rates(alone.training)) and len(set(rates)) == 3
    assert sum(stage.epochs * stage.steps_per_epoch for stage in section.stages) == (
        alone.training.epochs * alone.training.steps_per_epoch
    )
    for key in ("batch_size", "images_per_identity", "bnneck", "sampler"):
        assert getattr(section, key) == getattr(alone.training, key) == getattr(longer.training, key)


def _rates(section):
    """Learning rate of each epoch."""
    [(name, arguments)] = section.callbacks.items()
    return [build_schedule(name, arguments)(epoch) for epoch in range(section.epochs)]


def test_a_network_without_scores_is_measured_by_its_float_graph(tmp_path):
    section = validate(
        ModelSection,
        {"model_name": "agw", "input_shape": [64, 32, 3], "arguments": {"backbone": "plain_cnn"}},
    )
    [(name, size)] = _sizes.published_sizes({"AGW, small": section}, tmp_path).items()
    graph = tmp_path / "AGW_small.onnx"
    assert name == "AGW, small" and size.graphs == 1 and size.macs > 0
    assert size.parameters == count_macs(graph)["parameters"]
    assert (
        size.float_megabytes == pytest.approx(graph.stat().st_size / 1e6, rel=0.05) == 4 * size.int8_megabytes
    )
    written = graph.stat().st_mtime_ns
    _sizes.published_sizes({"AGW, small": section}, tmp_path)
    assert graph.stat().st_mtime_ns == written, "what is finished is not repeated"


def test_a_latency_is_estimated_or_the_reason_is_given(tmp_path, monkeypatch):
    estimate = LatencyEstimate(0.5, 0.4, 0.6, 0.9)
    monkeypatch.setattr(_sizes, "estimate_latency", lambda _: estimate)
    assert _sizes._latency(tmp_path) == "0.50"

    def unreadable(path):
        raise ConfigError("the file is unreadable")

    monkeypatch.setattr(_sizes, "estimate_latency", unreadable)
    with pytest.raises(ConfigError, match="unreadable"):
        _sizes._latency(tmp_path)
