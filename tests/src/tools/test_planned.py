"""What the planned experiments have in common: a plan that cannot be read is answered, and nothing is written."""

import pytest

from src.tools import (
    adaptation_experiment,
    cross_modal_experiment,
    distillation_experiment,
    quantization_experiment,
)


@pytest.mark.parametrize(
    "tool",
    [adaptation_experiment, cross_modal_experiment, distillation_experiment, quantization_experiment],
    ids=lambda tool: tool.__name__.rpartition(".")[2],
)
@pytest.mark.parametrize(
    ("text", "message"),
    [("seeds: [0, 1", "cannot be read"), ("- seeds", "expected keys and values, received list")],
)
def test_a_plan_that_cannot_be_read_is_refused(tool, text, message, tmp_path, monkeypatch, capsys):
    plan, page = tmp_path / "plan.yaml", tmp_path / "page.md"
    plan.write_text(text)
    monkeypatch.setattr(tool, "_PAGE", page)
    assert tool.main([str(plan), "--folder", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(plan) in error and message in error
    assert not page.exists() and not (tmp_path / "out").exists()
