"""Purity by round: what is counted, what is drawn, and what a user is told."""

import csv

import pytest

from src.tools import cluster_purity as tool

PEOPLE = ["ann", "ann", "ann", "bob", "bob", "eve"]
CAMERAS = [1, 1, 2, 1, 2, 1]
ROUNDS = {1: ["0", "0", "0", "0", "1", ""], 2: ["0", "0", "0", "1", "1", "2"], 10: [""] * 6}


@pytest.fixture
def folder(tmp_path):
    """Three rounds of an adaptation to six visible and six thermal images."""
    written = tmp_path / "run/adaptation/pseudo_labels"
    written.mkdir(parents=True)
    for number, labels in ROUNDS.items():
        with (written / f"round_{number}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("file", "modality", "camera", "label", "label_across"))
            for modality, other in (("visible", "thermal"), ("thermal", "visible")):
                for place, label in enumerate(labels):
                    image = tmp_path / f"{modality}{place}.jpg"
                    named = [label and f"{name}-{label}" for name in (modality, other)]
                    writer.writerow((image, modality, CAMERAS[place], *named))
    return written.parent


def _labels(path, images):
    path.write_text("\n".join(["file,label", *(f"{image},{name}" for image, name in images)]))
    return path


@pytest.fixture
def labels(tmp_path):
    images = [
        (tmp_path / f"{m}{n}.jpg", name) for m in ("visible", "thermal") for n, name in enumerate(PEOPLE)
    ]
    return _labels(tmp_path / "labels.csv", [*images[:-1], (images[-1][0], "")])


def test_purity_of_each_round_is_printed_and_drawn(folder, labels, capsys):
    assert tool.main([str(folder), str(labels)]) == 0
    lines = capsys.readouterr().out.splitlines()
    columns = ["round", "modality", "images", "clusters", "identities", "noise, %", "purity, %"]
    assert lines[0] == f"| {' | '.join([*columns, 'adjusted_rand', 'joined, %', 'matched, %'])} |"
    assert lines[2] == "| 1 | visible | 6 | 2 | 3 | 16.7 | 80.0 | 0.23 | 50.0 | 80.0 |", (
        "ann is joined, bob is not"
    )
    assert lines[3] == "| 1 | thermal | 5 | 2 | 2 | 0.0 | 80.0 | 0.23 | 50.0 | 80.0 |", (
        "who has no label is not counted"
    )
    assert lines[4] == "| 2 | visible | 6 | 3 | 3 | 0.0 | 100.0 | 1.00 | 100.0 | 100.0 |"
    assert lines[6] == "| 10 | visible | 6 | 0 | 3 | 100.0 | - | - | 0.0 | - |"
    assert (folder / "purity.png").is_file()


def test_purity_goes_into_the_history_of_runs(folder, labels, tmp_path):
    from mlflow.tracking import MlflowClient

    assert tool.main([str(folder), str(labels), "--mlflow", str(tmp_path / "mlruns")]) == 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns/mlflow.db'}")
    [run] = client.search_runs([client.get_experiment_by_name("cluster_purity").experiment_id])
    assert run.info.run_name == "run"
    history = client.get_metric_history(run.info.run_id, "visible/purity")
    assert [(point.step, point.value) for point in history] == [(1, pytest.approx(0.8)), (2, 1.0)]


def test_what_is_missing_is_said(folder, labels, tmp_path, capsys):
    strangers = _labels(tmp_path / "strangers.csv", [("other.jpg", "ann")])
    (tmp_path / "columns.csv").write_text("image,label\na.jpg,ann\n")
    for arguments, message in (
        ((tmp_path, labels), "has no pseudo_labels/round_<number>.csv: give the folder adaptation of a run"),
        ((folder, strangers), "round_1.csv: none of its images has a label"),
        (
            (folder, tmp_path / "columns.csv"),
            "has no column file: expected file, label, separated by commas; its first line is 'image,label'",
        ),
        ((folder, tmp_path / "none.csv"), "none.csv cannot be read as CSV"),
    ):
        assert tool.main([str(argument) for argument in arguments]) == 2
        assert message in capsys.readouterr().err
