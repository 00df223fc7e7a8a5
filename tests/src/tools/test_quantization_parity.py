"""Export parity: networks of both kinds all the way, what the page gets, and what is said of a failure."""

import dataclasses
import json

import pytest

from common.artifacts import tool_versions
from src.models._places import PLACES
from src.registries import MODELS
from src.tools import quantization_parity as tool

OPERATORS = [
    ["operator", "count", "placed on", "kind", "input", "weights", "output", "reason"],
    ["Conv2d", 5, "NPU", "integer", "ufixed8", "sfixed8,sfixed32", "ufixed8", ""],
    ["ElementWisePower", 2, "NPU", "float", "float32", "", "float32", ""],
]
GOOD = tool.Graph(
    "custom_model", "", 1e-5, 0.999, 1.0, 0.9999, 5, 5, OPERATORS, "QCS8550, Hexagon v73, QNN 2.51", 0.42
)


def test_the_whole_zoo_is_measured():
    names = set(tool.names())
    assert names == set(MODELS) - {"agw"} | {f"agw {backbone}" for backbone in PLACES}
    assert tool._SHOWN in names


@pytest.mark.slow
@pytest.mark.qnn
def test_the_way_from_keras_to_the_chip(tmp_path):
    graphs = [graph for name in ("custom_model", "agw custom_model") for graph in tool.parity(name, tmp_path)]
    assert [(g.network, g.modality) for g in graphs] == [
        ("custom_model", ""), ("agw custom_model", "thermal"), ("agw custom_model", "visible"),
    ]  # fmt: skip
    for graph in graphs:
        assert graph.rebuilt < 1e-4
        assert 0.98 < graph.to_float < 0.99999  # it is quantized
        assert graph.to_quantized > 0.999 and graph.to_onnx > 0.998
        assert graph.integer_convolutions == graph.convolutions >= 5
    assert graphs[0].floating == ""
    assert "2 ElementWisePower" in graphs[1].floating  # GeM


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with both markers, and a zoo of two networks that are measured without work."""
    path = tmp_path / "page.md"
    markers = [f"{marker}\nold\n<!-- end of the table -->" for marker in (tool._PARITY, tool._PLACEMENT)]
    path.write_text("\n".join(["before", *markers, "after"]))
    monkeypatch.setattr(tool, "_PAGE", path)
    monkeypatch.setattr(tool, "_SHOWN", "custom_model")
    monkeypatch.setattr(tool, "names", lambda: ["custom_model", "agw custom_model"])
    monkeypatch.setattr(tool, "parity", lambda name, folder: [dataclasses.replace(GOOD, network=name)])
    return path


def run(tmp_path, *networks):
    return tool.main([*networks, "--folder", str(tmp_path / "results")])


def test_the_page_gets_both_tables_when_all_is_measured(page, tmp_path, capsys):
    assert run(tmp_path, "agw custom_model") == 0
    assert "old" in page.read_text()
    assert run(tmp_path) == 0
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after") and "old" not in text
    row = (
        "| `agw custom_model` |  | 1e-05 | 0.99900 | 1.00000 | 0.99990 | 5 of 5 | 2 ElementWisePower | 0.42 |"
    )
    assert row in text and row in capsys.readouterr().out
    assert "all convolutions integer on the HTP: in 2 of 2 graphs" in text
    assert "`custom_model` on QCS8550, Hexagon v73, QNN 2.51:" in text
    assert "| Conv2d | 5 | NPU | integer | ufixed8 | sfixed8,sfixed32 | ufixed8 |\n" in text


def test_what_is_finished_is_not_repeated_and_a_failure_leaves_the_page(page, tmp_path, monkeypatch, capsys):
    assert run(tmp_path, "custom_model") == 0
    before = page.read_text()

    def fail(name, folder):
        raise ValueError("no twin")

    monkeypatch.setattr(tool, "parity", fail)
    assert run(tmp_path) == 1
    printed = capsys.readouterr()
    assert "| `custom_model` | " in printed.out and "error: agw custom_model: no twin" in printed.err
    assert page.read_text() == before


def test_what_other_versions_measured_is_refused(page, tmp_path, monkeypatch, capsys):
    assert run(tmp_path) == 0
    before = page.read_text()
    monkeypatch.setattr(tool, "tool_versions", lambda: {**tool_versions(), "onnx": "0.0.1"})
    assert run(tmp_path) == 1
    said = capsys.readouterr().err
    assert f"settings: onnx: {tool_versions()['onnx']}, now 0.0.1. Remove it" in said
    assert page.read_text() == before
    kept = tmp_path / "results/custom_model.json"
    kept.write_text(json.dumps({"graphs": json.loads(kept.read_text())["graphs"]}))
    assert run(tmp_path, "custom_model") == 1
    assert (
        "custom_model.json was measured with other versions or settings: calibration: nothing"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rebuilt": 2e-4}, "differ by at most 1e-4: 2e-04 (`agw osnet thermal`)"),
        ({"to_quantized": 0.9994}, ">= 0.9995: 0.99940 (`agw osnet thermal`)"),
        ({"to_onnx": 0.998}, ">= 0.999: 0.99800 (`agw osnet thermal`)"),
        ({"integer_convolutions": 4}, "in 1 of 2 graphs"),
    ],
)
def test_what_falls_short_is_said(change, said):
    assert all(line.startswith("- yes") for line in tool.verdicts([GOOD]))
    bad = dataclasses.replace(GOOD, network="agw osnet", modality="thermal", **change)
    [line] = [line for line in tool.verdicts([GOOD, bad]) if line.startswith("- **no**")]
    assert said in line


def test_an_unknown_network_is_answered_by_the_nearest(capsys):
    assert tool.main(["osnet_a25"]) == 2
    assert "unknown network 'osnet_a25', did you mean 'osnet_a025'?" in capsys.readouterr().err
