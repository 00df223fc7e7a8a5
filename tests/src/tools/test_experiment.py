"""Comparing ways of training: what is run, what is repeated, and how the table is made."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.config import ConfigError, plain_overrides
from src.tools import experiment
from src.tools._planned import read_plan
from src.tools.experiment import Experiment, main, run_experiment, table

TEXT = """
question: Is it better?
seeds: [0, 1]
metrics: {Rank-1: float32/keras/rank1}
overrides: [general.project_name=test]
shared:
  - config: start.yaml
arms:
  one step:
    - {config: a.yaml, overrides: ["model.model_path={shared}"]}
  two steps:
    - {config: b.yaml, overrides: ["model.model_path={shared}"]}
    - {config: c.yaml, overrides: ["model.model_path={previous}"]}
"""
SCORES = {("one_step", 0): 0.5, ("one_step", 1): 0.7, ("two_steps", 0): 0.6, ("two_steps", 1): 0.9}


@pytest.fixture
def runs(monkeypatch):
    """The runs that were asked for, each answered with a score instead of a training."""
    asked = []

    def run(config, overrides, target, models, threads):
        asked.append((config, overrides, target, models))
        seed = int(target.parent.name.removeprefix("seed_"))
        target.joinpath("evaluation").mkdir(parents=True)
        score = SCORES.get((target.parents[1].name, seed), 0.0)
        metrics = {"metrics": {"float32/keras/rank1": score}}
        (target / "evaluation/metrics.json").write_text(json.dumps(metrics))

    monkeypatch.setattr(experiment, "run_step", run)
    return asked


def _file(tmp_path: Path, text: str = TEXT) -> Path:
    path = tmp_path / "test.yaml"
    path.write_text(text)
    return path


def test_every_arm_has_every_seed_and_starts_from_the_shared_model(tmp_path, runs):
    results = run_experiment(read_plan(Experiment, _file(tmp_path)), tmp_path / "out", jobs=2)
    assert results == {"one step": {"Rank-1": [0.5, 0.7]}, "two steps": {"Rank-1": [0.6, 0.9]}}
    assert len(runs) == 2 * (1 + 1 + 2)
    for config, overrides, target, models in runs:
        seed = target.parent.name.removeprefix("seed_")
        assert overrides[0] == "general.project_name=test" and overrides[-1] == f"general.global_seed={seed}"
        start = tmp_path / f"out/shared/seed_{seed}/step_1/saved_models/best_model.keras"
        before = tmp_path / f"out/two_steps/seed_{seed}/step_1/saved_models/best_model.keras"
        expected = {"start.yaml": None, "a.yaml": start, "b.yaml": start, "c.yaml": before}
        assert models.get("previous") == expected[config]
        assert models.get("shared") == models.get("shared_1") == (None if config == "start.yaml" else start)


BRANCHED = {
    "question": "?",
    "seeds": [0, 1],
    "metrics": {},
    "shared": [
        {"config": "a.yaml"},
        {"config": "b.yaml", "overrides": ["model.model_path={previous}"]},
        {"config": "c.yaml"},
    ],
    "arms": {
        "first": [{"config": "d.yaml", "overrides": ["model.model_path={shared_1}"]}],
        "second": [
            {"config": "d.yaml", "overrides": ["training.epochs=1", "model.model_path={shared_2}"]},
            {"config": "e.yaml", "overrides": ["model.model_path={previous}"]},
        ],
        "third": [{"config": "d.yaml", "overrides": ["model.model_path={previous}"]}],
        "alone": [{"config": "d.yaml", "overrides": ["distillation.teacher={shared_2}"]}],
    },
}


def test_the_runs_of_an_arm_are_those_that_its_network_comes_from():
    plan = Experiment.model_validate(BRANCHED)
    found = {arm: experiment.runs_of(plan, Path(), arm, 1) for arm in plan.arms}
    assert {arm: [run.as_posix() for run in runs] for arm, runs in found.items()} == {
        "first": ["shared/seed_1/step_1", "first/seed_1/step_1"],
        "second": [
            "shared/seed_1/step_1",
            "shared/seed_1/step_2",
            "second/seed_1/step_1",
            "second/seed_1/step_2",
        ],
        "third": ["shared/seed_1/step_3", "third/seed_1/step_1"],
        "alone": ["alone/seed_1/step_1"],
    }


def _run_with(folder: Path, config: str, *logs: str) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/config.yaml").write_text(config)
    for number, log in enumerate(logs):
        (folder / log / "metrics").mkdir(parents=True)
        (folder / log / "metrics/train_metrics.csv").write_text(f"epoch,loss\n0,{number}\n1,0.5\n")
    return folder


STAGES = "distillation: {batch_size: 8, stages: %s}"


@pytest.mark.parametrize(
    "stages",
    ["{a: {steps_per_epoch: 3}, b: {steps_per_epoch: 2}}", "[{steps_per_epoch: 3}, {steps_per_epoch: 2}]"],
)
def test_the_stages_of_a_distillation_are_trainings(tmp_path, stages):
    run = _run_with(tmp_path, STAGES % stages, "distillation/stage_1/logs", "distillation/stage_2/logs")
    found = experiment.trainings_of(run)
    assert [(part.batch, part.images, part.rows[0]["loss"]) for part in found] == [(8, 24, "0"), (8, 16, "1")]


def test_a_run_may_train_or_not(tmp_path):
    text = "training: {batch_size: 8, steps_per_epoch: 5}"
    [found] = experiment.trainings_of(_run_with(tmp_path / "a", text, "logs"))
    assert (found.images, len(found.rows)) == (40, 2)
    assert experiment.trainings_of(_run_with(tmp_path / "b", text)) == []


@pytest.mark.parametrize(
    ("config", "log"),
    [
        ("training: {batch_size: 8, steps_per_epoch: null}", "logs"),
        (STAGES % "[{epochs: 2}]", "distillation/stage_1/logs"),
    ],
)
def test_images_that_cannot_be_counted_are_refused(tmp_path, config, log):
    with pytest.raises(ConfigError, match="steps_per_epoch must be set"):
        experiment.trainings_of(_run_with(tmp_path, config, log))


def test_the_model_of_a_run_is_what_it_made_last(tmp_path):
    for name in ("saved_models/best_model", "distilled_models/best_model", "saved_models/adapted_model"):
        made = tmp_path / f"{name}.keras"
        made.parent.mkdir(exist_ok=True)
        made.touch()
        assert experiment.model_of(tmp_path) == made


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no model \{shared_2\}, there are shared_1"):
        experiment.run_step(
            "a.yaml", ["model.model_path={shared_2}"], tmp_path / "a", {"shared_1": tmp_path}, 1
        )


def _stand_in(monkeypatch, *codes):
    """A program that ends with these codes and leaves what Hydra records of a run."""
    left = iter(codes)

    def run(command, **_):
        _, _, _, config, *overrides, folder = command
        records = Path(folder.removeprefix("hydra.run.dir=")) / ".hydra"
        records.mkdir(parents=True)
        (records / "hydra.yaml").write_text(json.dumps({"hydra": {"job": {"config_name": config}}}))
        (records / "overrides.yaml").write_text(json.dumps(plain_overrides(overrides)))
        return SimpleNamespace(returncode=next(left))

    monkeypatch.setattr(experiment.subprocess, "run", run)


PLANNED = ["training.epochs=3", "~training.callbacks", "model.model_path={previous}", "general.num_threads=2"]


@pytest.mark.parametrize(
    ("config", "overrides", "model", "said"),
    [
        ("a.yaml", [*PLANNED[:3], "++general.num_threads=1"], "before.keras", None),
        (
            "a.yaml",
            ["training.epochs=4", *PLANNED[1:]],
            "before.keras",
            "training.epochs: 3, now 4. Remove",
        ),
        (
            "a.yaml",
            PLANNED[:1] + PLANNED[2:],
            "before.keras",
            "~training.callbacks: given, now nothing. Remove",
        ),
        ("a.yaml", [*PLANNED, "training.seed=1"], "before.keras", "training.seed: nothing, now 1. Remove"),
        ("a.yaml", PLANNED, "other.keras", r"model.model_path: .*before.keras, now .*other.keras. Remove"),
        ("b.yaml", PLANNED, "before.keras", "--config-name: a.yaml, now b.yaml. Remove"),
    ],
)
def test_a_finished_run_of_another_plan_is_refused(tmp_path, monkeypatch, config, overrides, model, said):
    _stand_in(monkeypatch, 0)
    target = tmp_path / "step_1"
    experiment.run_step("a.yaml", PLANNED, target, {"previous": tmp_path / "before.keras"}, 2)
    again = (config, overrides, target, {"previous": tmp_path / model}, 1)
    if said is None:
        experiment.run_step(*again)
    else:
        with pytest.raises(ConfigError, match=f"step_1 holds the run of another plan: {said} the folder"):
            experiment.run_step(*again)


def test_a_folder_that_no_run_made_is_refused(tmp_path):
    (tmp_path / "step_1").mkdir()
    with pytest.raises(
        ConfigError, match="step_1: expected a finished run: .*No such file.*Remove the folder"
    ):
        experiment.run_step("a.yaml", [], tmp_path / "step_1", {}, 1)


def test_a_run_has_its_name_only_once_it_has_finished(tmp_path, monkeypatch):
    _stand_in(monkeypatch, 1, 1, 0)
    target = tmp_path / "step_1"
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a run failed with exit code 1; its log is .*step_1.log"):
            experiment.run_step("a.yaml", [], target, {}, 1)
    for _ in range(2):  # what has finished is not run again
        experiment.run_step("a.yaml", [], target, {}, 1)
    kept = {".step_1.broken0", ".step_1.broken1"}
    assert {path.name for path in tmp_path.iterdir()} == {"step_1", "step_1.log", *kept}


def test_runs_that_were_interrupted_are_summed(tmp_path, monkeypatch):
    clock = iter([0, 100, 7300, 8000, 8000])  # the run that fails ends nowhere
    monkeypatch.setattr(experiment, "perf_counter", lambda: next(clock))
    _stand_in(monkeypatch, 1, 0, 0)
    first, second = (tmp_path / f"arm/seed_0/step_{number}" for number in (1, 2))
    assert experiment.summed_time_verdict(tmp_path, 2, 60) == [], "nothing was run"
    with pytest.raises(RuntimeError, match="exit code 1"):
        experiment.run_step("a.yaml", [], first, {}, 1)
    experiment.run_step("a.yaml", [], first, {}, 1)
    experiment.run_step("a.yaml", [], first, {}, 1)
    experiment.run_step("a.yaml", [], second, {}, 1)
    [told] = experiment.summed_time_verdict(tmp_path, 2, 60)
    assert told.startswith("- yes: at most 60 minutes on ")
    assert told.endswith("summed over runs, 2 side by side, not in one go: 60")
    assert experiment.summed_time_verdict(tmp_path, 2, 59)[0].startswith("- **no**: at most 59 minutes")
    (second / "seconds.txt").unlink()
    assert experiment.summed_time_verdict(tmp_path, 2, 60) == [], "a run does not say how long it took"


def test_the_table_has_mean_deviation_and_paired_difference(tmp_path, runs):
    plan = read_plan(Experiment, _file(tmp_path))
    rows = table(plan, run_experiment(plan, tmp_path / "out", jobs=1)).splitlines()
    assert rows[-2] == "| one step | 60.0 ± 14.1 |  |"
    assert rows[-1] == "| two steps | 75.0 ± 21.2 | +15.0 ± 7.1 |"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [", "cannot be read"),
        ("[1, 2]", "expected keys and values, received list"),
        (TEXT.replace("[0, 1]", "[0]"), "seeds: list should have at least 2 items"),
        (TEXT.replace("question:", "quesion:"), "did you mean 'question'"),
    ],
)
def test_an_experiment_that_cannot_be_meant_is_refused(tmp_path, text, message, capsys):
    assert main([str(_file(tmp_path, text)), "--folder", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def _plan(**changes):
    step = {"config": "evaluation_config.yaml", "overrides": ["model.model_path={shared}"]}
    raw = {
        "question": "?", "seeds": [0, 1], "metrics": {}, "shared": [{"config": "training_config.yaml"}],
        "arms": {"first": [step], "second": [step]},
    }  # fmt: skip
    return Experiment.model_validate({**raw, **changes})


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("training_config.yaml training.epoch=8", r"'last', step 1: [\s\S]*training.epoch: unknown key"),
        ("evaluation_config.yaml model.model_path={shared_3}", r"no model \{shared_3\}"),
        ("gone.yaml", "'last', step 1: .*gone.yaml"),
        (
            "evaluation_config.yaml model.model_path={shared} operation_mode=prediction",
            "'last', step 1: expected a last step that evaluates",
        ),
    ],
)
def test_a_mistake_in_the_last_step_is_told_before_the_first_is_run(last, message, tmp_path, monkeypatch):
    monkeypatch.delenv("MODELS_DIR", raising=False)
    experiment.check_plan(_plan(), tmp_path)
    config, *overrides = last.split()
    [plan, other] = _plan(), _plan(arms={"last": [{"config": config, "overrides": overrides}]})
    plan = plan.model_copy(update={"arms": {**plan.arms, **other.arms}})
    with pytest.raises(ConfigError, match=message):
        experiment.check_plan(plan, tmp_path)


@pytest.mark.parametrize("names", [("AGW", "AGW+"), ("shared", "other")])
def test_arms_whose_runs_would_share_a_folder_are_refused(names):
    with pytest.raises(ValueError, match="expected names that make folders of their own"):
        _plan(arms=dict.fromkeys(names, [{"config": "a.yaml"}]))


def test_a_second_process_is_kept_out_of_the_folder_of_an_experiment(tmp_path, runs):
    plan = read_plan(Experiment, _file(tmp_path))
    with (
        experiment.alone_in(tmp_path / "out"),
        pytest.raises(ConfigError, match="an experiment is running in .*out"),
    ):
        run_experiment(plan, tmp_path / "out", jobs=1)
    assert not runs
    run_experiment(plan, tmp_path / "out", jobs=1)


def test_a_metric_that_is_not_there_is_named(tmp_path, runs):
    plan = read_plan(Experiment, _file(tmp_path, TEXT.replace("keras/rank1", "keras/rank2")))
    with pytest.raises(ConfigError, match=r"has no 'float32/keras/rank2', it has float32/keras/rank1"):
        run_experiment(plan, tmp_path / "out", jobs=1)


@pytest.mark.slow
def test_two_real_runs_side_by_side_share_one_history_and_are_not_repeated(tiny, tmp_path, capsys):
    (tmp_path / "test.yaml").write_text(f"""
question: Does it run?
seeds: [0, 1]
metrics: {{mAP: float32/keras/mAP}}
overrides:
  - dataset.dataset_name=synthetic
  - dataset.training_path={tiny}/bounding_box_train
  - dataset.test_query_path={tiny}/query
  - dataset.test_gallery_path={tiny}/bounding_box_test
  - model.input_shape=(64,32,3)
  - training.batch_size=16
  - training.epochs=1
  - mlflow.uri={tmp_path}/mlruns
arms:
  custom:
    - config: training_config.yaml
      overrides: [model.model_name=custom_model, "model.arguments={{width: 8, depth: 2}}"]
""")
    command = [str(tmp_path / "test.yaml"), "--folder", str(tmp_path / "out")]
    assert main(command) == 0
    assert "| custom |" in capsys.readouterr().out
    finished = tmp_path / "out/custom/seed_0/step_1/evaluation/metrics.json"
    before = finished.stat().st_mtime_ns
    assert main(command) == 0
    assert finished.stat().st_mtime_ns == before
    assert (tmp_path / "out/results.md").read_text() and (tmp_path / "out/mAP.png").stat().st_size > 0
