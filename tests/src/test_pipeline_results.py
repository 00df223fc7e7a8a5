"""What the pipeline does with what a service gives: a model flows on, a report is shown and saved, a pair does both."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.artifacts import Model, Report, ReportFailedError, Table
from common.run import Run
from src import pipeline
from src.data.selection import Data


@pytest.fixture(autouse=True)
def no_tracker(monkeypatch):
    """Without a store, MLflow would make one in the working folder."""
    monkeypatch.setattr(pipeline.tracking, "stage_run", lambda name: nullcontext())


def _model(folder: Path, name: str) -> Model:
    (folder / f"{name}.onnx").write_bytes(b"onnx")
    return Model({"onnx": folder / f"{name}.onnx"}, "int8", (32, 32, 3), 8)


def _run(folder: Path, result) -> tuple[Model | None, Report | None]:
    service = SimpleNamespace(run=lambda *_: result)
    stage = pipeline._Stage("quantization", "quantization", None, Data(), Run(folder, 0))
    return pipeline._run_service(stage, service, _model(folder, "old"))


@pytest.mark.parametrize("kind", ["model", "report", "pair"])
def test_results_of_services(tmp_path, caplog, kind):
    report = Report("quantization", {"gate/mean_gap": 0.25}, (Table("Scores", ("a",), ((1,),)),))
    new = _model(tmp_path, "new")
    caplog.set_level("INFO")
    flows, measured = _run(tmp_path, {"model": new, "report": report, "pair": (report, new)}[kind])
    assert measured is (None if kind == "model" else report)
    assert flows.name == ("old" if kind == "report" else "new")
    assert (tmp_path / "new.json").is_file() == (kind != "report")
    saved = tmp_path / "quantization/metrics.json"
    assert saved.is_file() == ("Scores" in caplog.text) == (kind != "model")
    if saved.is_file():
        assert json.loads(saved.read_text())["metrics"] == {"gate/mean_gap": 0.25}


def test_a_report_that_failed_is_saved_and_its_model_flows_nowhere(tmp_path):
    new = _model(tmp_path, "new")
    with pytest.raises(ReportFailedError, match="new.onnx is off"):
        _run(tmp_path, (Report("quantization", {}, failure="new.onnx is off"), new))
    assert (tmp_path / "quantization/metrics.json").is_file() and not (tmp_path / "new.json").exists()
