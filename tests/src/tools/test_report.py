"""The report of an experiment: a history as the program writes it, arms, intervals, verdicts, and what it refuses."""

import csv

import numpy as np
import pytest

from common import tracking
from common.config import ConfigError
from src.tools import report as tool
from src.tools._intervals import bootstrap, paired_t
from src.tools._queries import queries_of

MAP, RANK1 = "float32/keras/mAP", "float32/keras/rank1"
ARMS = {"a.yaml\nx=1": 0.40, "a.yaml\nx=2": 0.50, "a.yaml\nx=3": 0.41}
NOISE = (0.00, 0.01, -0.01)
SEEDS = (0, 1, 2)


def log(
    store, folder, arm, seed, value, trials=True, experiment="X", sweep=None, name="best_model", source=None,
    **parameters,
):  # fmt: skip
    parameters |= {"operation_mode": "training", "general": {"global_seed": seed}}
    run = tracking.pipeline_run(store, experiment, f"run_{seed}", parameters, {tracking.ARM: arm}, sweep)
    with run, tracking.stage_run("evaluation"):
        tracking.log_metrics({MAP: value, RANK1: value / 2, "baseline/random/mAP": 0.1, "loss": 1.0})
        path = folder / f"{name}_keras_queries.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            more = ["average_precision_in_trials", "rank1_in_trials"] if trials else []
            writer.writerow(["identity", "average_precision", "rank_of_first_match", *more])
            for number in range(12):
                own = value + 0.02 * np.sin(number)
                writer.writerow(
                    [number // 3, own, 1 if number % 2 else 3, *([own, own / 2] if trials else [])]
                )
            writer.writerow([9, "", "", *(["", ""] if trials else [])])
        files = [path]
        if source is not None:
            files += [folder / f"{source}_keras_queries.csv"]
            files[-1].write_text("identity,average_precision,rank_of_first_match\n0,0.1,1\n")
        tracking.log_files(files, "evaluation")


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    folder = tmp_path_factory.mktemp("history")
    store = tracking.store_of(str(folder / "mlruns"))
    sweep = folder / "sweep"
    log(store, folder, "a.yaml\nx=1", 0, 0.99, sweep=sweep)  # repeated below: the last counts
    for number, (arm, value) in enumerate(ARMS.items()):
        for seed in SEEDS:
            log(store, folder, arm, seed, value + NOISE[(seed + number) % 3], sweep=sweep)
    with (
        pytest.raises(ZeroDivisionError),
        tracking.pipeline_run(store, "X", "broken", {"operation_mode": "t"}),
    ):
        raise ZeroDivisionError
    for seed in (0, 1):
        log(store, folder, f"b.yaml\ny={seed}", seed, 0.3, trials=False, experiment="one seed each")
    for trial in (1, 2):
        log(
            store, folder, f"c.yaml\ndataset.arguments.trial={trial}", 0, 0.3 + 0.1 * trial,
            experiment="trials", dataset={"arguments": {"trial": trial}},
        )  # fmt: skip
    return folder


def test_the_runs_of_a_sweep_have_one_parent(history):
    store = tracking.store_of(str(history / "mlruns"))
    runs = tracking.pipeline_runs(store, "X")
    parents = {run.tags.get("mlflow.parentRunId") for run in runs if run.finished}
    assert len(runs) == 11 and len(parents) == 1 and None not in parents
    assert [run.name for run in runs if not run.finished] == ["broken"]
    assert runs[1].parameters["general.global_seed"] == "0" and runs[1].metrics[MAP] == pytest.approx(0.40)


def test_the_report_says_what_is_resolved(history, tmp_path, capsys):
    arguments = ["--experiment", "X", "--uri", str(history / "mlruns"), "--output", str(tmp_path / "out")]
    assert tool.main(arguments) == 0
    text = (tmp_path / "out/report.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "Arms are compared with 'x=1', seed by seed." in text
    assert "Not finished, and left out: broken." in text
    tables = dict(part.split("\n", 1) for part in text.split("## ")[1:])
    assert set(tables) == {MAP, RANK1}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables[MAP].strip().splitlines()[2:]]
    assert [row[0] for row in rows] == ["x=1", "x=2", "x=3"]
    assert [row[-1] for row in rows] == ["", "better", "unresolved"]
    assert rows[0][1:3] == ["0, 1, 2", "40.0 ± 1.0"]
    found = np.array([0.51, 0.49, 0.50]) - np.array([0.40, 0.41, 0.39])
    low, high = paired_t(found)
    assert rows[1][3:5] == ["+10.0 ± 1.7", f"[{100 * low:+.1f}, {100 * high:+.1f}]"]
    people = np.repeat(range(4), 3)
    low, high = bootstrap([np.full(12, value) for value in found], people)
    assert rows[1][5] == f"[{100 * low:+.1f}, {100 * high:+.1f}]"
    page = (tmp_path / "out/report.html").read_text()
    assert "Experiment X" in page and "better" in page

    assert tool.main([*arguments, "--baseline", "x=2", "--metric", MAP]) == 0
    text = (tmp_path / "out/report.md").read_text()
    assert text.count("worse") == 2 and text.index("| x=2 |") < text.index("| x=1 |") and RANK1 not in text


def test_overrides_are_the_same_in_any_order(tmp_path):
    store = tracking.store_of(str(tmp_path / "mlruns"))
    for seed, arm in enumerate(("a.yaml\nx=1\ny=2", "a.yaml\ny=2\nx=1", "a.yaml\nx=2\ny=2")):
        log(store, tmp_path, arm, seed, 0.4)
    arms = tool.arms_of(tracking.pipeline_runs(store, "X"))
    assert {name: sorted(by_seed) for name, by_seed in arms.items()} == {"x=1": [0, 1], "x=2": [2]}


def test_one_seed_resolves_nothing(history, tmp_path):
    arguments = ["--experiment", "one seed each", "--uri", str(history / "mlruns"), "--output", str(tmp_path)]
    assert tool.main(arguments) == 0
    text = (tmp_path / "report.md").read_text()
    assert "| b.yaml y=0 |" not in text and "| y=0 | 0 | 30.0 |" in text
    assert "| y=1 | 1 | 30.0 | no seed in common |  |  | unresolved |" in text


def test_trials_of_a_data_set_are_averaged_as_seeds_are(history, tmp_path):
    arguments = ["--experiment", "trials", "--uri", str(history / "mlruns"), "--output", str(tmp_path)]
    assert tool.main([*arguments, "--over", "dataset.arguments.trial"]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "| c.yaml | 1, 2 | 45.0 ± 7.1 |" in text
    assert "What is called a seed is a value of dataset.arguments.trial." in text


def test_queries_of_one_gallery_count_as_those_of_drawn_ones(history):
    store = tracking.store_of(str(history / "mlruns"))
    run = tracking.pipeline_runs(store, "one seed each")[0]
    of_map, of_rank1 = (tool._queries(store, run, metric) for metric in (MAP, RANK1))
    assert of_map.identities.tolist()[:4] == ["0", "0", "0", "1"] and np.isnan(of_map.values[-1])
    assert of_rank1.values.tolist()[:4] == [0.0, 1.0, 0.0, 1.0] and np.isnan(of_rank1.values[-1])
    assert tool._queries(store, run, "int8/tflite/mAP") is None


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["best_model"], "best_model"),
        (["distillation_best_model", "training_best_model"], "distillation_best_model"),
        (["teacher", "best_model"], "best_model"),
        (["adapted_model", "best_model"], "adapted_model"),
        (["training_best_model", "distillation_best_model", "adapted_model"], "adapted_model"),
        (["mine"], "mine"),
        (["mine", "theirs"], None),
        ([], None),
    ],
)
def test_the_queries_are_those_of_the_model_that_the_run_made(tmp_path, names, chosen):
    files = {f"{name}_keras_queries.csv": tmp_path / name for name in names}
    for name, path in zip(names, files.values(), strict=True):
        path.write_text(f"identity\n{name}\n")
    files["quantized_model_onnx_queries.csv"] = tmp_path / "none"
    found = queries_of(files)
    assert found == (None if chosen is None else [{"identity": chosen}])


def test_arms_whose_source_is_scored_beside_them_have_both_intervals(tmp_path):
    store = tracking.store_of(str(tmp_path / "mlruns"))
    made = {"x=1": "best_model", "x=2": "distillation_best_model", "x=3": "adapted_model"}
    for arm, name in made.items():
        for seed in SEEDS:
            source = None if arm == "x=1" else "training_best_model"
            log(
                store, tmp_path, arm, seed, 0.4 + 0.01 * seed + (arm != "x=1") * 0.1, name=name, source=source
            )
    arms = tool.arms_of(tracking.pipeline_runs(store, "X"))
    for name in ("x=2", "x=3"):
        found = tool.compare(store, MAP, arms[name], arms["x=1"])
        assert found.by_seeds_and_people == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--experiment", "Y"], "unknown experiment 'Y'"),
        (["--experiment", "X", "--baseline", "x=4"], "--baseline: unknown arm 'x=4', did you mean"),
        (["--experiment", "X", "--metric", "float32/keras/map"], "has no 'float32/keras/map', did you mean"),
        (["--experiment", "X", "--over", "a.trial"], "whole number in every run, 'run_0' has a.trial=''"),
        (["--experiment", "X", "--uri", "nowhere"], "there is no history of runs in"),
    ],
)  # fmt: skip
def test_mistakes_are_named(history, more, message, capsys, tmp_path):
    uri = [] if "--uri" in more else ["--uri", str(history / "mlruns")]
    assert tool.main([*more, *uri, "--output", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_nothing_to_compare_is_said():
    with pytest.raises(ConfigError, match="the experiment has no finished run"):
        tool._chosen({}, None)
    with pytest.raises(ConfigError, match="the runs have no Rank-1 or mAP in common: name one with --metric"):
        tool._check({}, [])
