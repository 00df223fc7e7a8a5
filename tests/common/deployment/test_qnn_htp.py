import dataclasses
import importlib.util
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from common.config import ConfigError, ToolError
from common.deployment import qnn_htp
from common.deployment.placement_table import placement_table
from common.deployment.qnn_htp import Placement, compile_htp
from common.runtime import open_model, qnn_session
from common.runtime.htp_emulator import HtpEmulator
from common.socs import SOCS


@pytest.fixture(scope="module")
def compiled(qdq_onnx, tmp_path_factory):
    return compile_htp(qdq_onnx, tmp_path_factory.mktemp("htp"))


@pytest.mark.qnn
def test_a_qdq_graph_is_integer_on_the_npu_in_one_partition(compiled):
    assert (compiled.soc, compiled.soc_model, compiled.hexagon) == ("QCS8550", 66, "v73")
    assert compiled.complete
    assert compiled.error is None
    assert compiled.require_complete().require_integer() is compiled
    counts = compiled.counts
    assert (counts.convolutions, counts.integer_convolutions) == (3, 3)
    assert (counts.partitions, counts.refused, counts.floating, counts.conversions) == (1, 0, 0, 2)
    assert counts.operators == counts.integer + counts.conversions == len(compiled.placement)
    rows = {row.name: row for row in compiled.placement}
    assert rows["depthwise"] == Placement(
        "depthwise", "DepthWiseConv2d", "NPU", ("ufixed8",), ("sfixed8", "sfixed32"), ("ufixed8",)
    )
    kinds = [row.kind for row in compiled.placement]
    assert (kinds[0], set(kinds[1:-1]), kinds[-1]) == ("conversion", {"integer"}, "conversion")


@pytest.mark.qnn
def test_the_table_counts_operators_that_are_alike(compiled):
    table = placement_table(
        [*compiled.placement, Placement("last", "Erf", "refused", reason="no such operator")]
    )
    assert sum(row[table.columns.index("count")] for row in table.rows) == len(compiled.placement) + 1
    row = ("Conv2d", 2, "NPU", "integer", "ufixed8", "sfixed8,sfixed32", "ufixed8", "")
    assert row in table.rows
    assert ("Erf", 1, "refused", "refused", "", "", "", "no such operator") in table.rows


@pytest.mark.qnn
def test_the_files_are_what_they_say(compiled):
    assert compiled.context_binary.stat().st_size == compiled.context_bytes > 10_000
    assert compiled.dlc.stat().st_size == compiled.dlc_bytes > 1_000
    assert "model.params.bin" in zipfile.ZipFile(compiled.dlc).namelist()
    assert json.loads(compiled.graph_json.read_text())["graph"]["nodes"]
    assert json.loads(compiled.trace_json.read_text())["summary"]["unsupported_nodes"] == 0
    expected = {
        compiled.context,
        compiled.context_binary,
        compiled.dlc,
        compiled.graph_json,
        compiled.trace_json,
    }
    assert set(compiled.context.parent.iterdir()) == expected
    assert compiled.prepare_seconds > 0
    json.dumps(dataclasses.asdict(compiled), default=str)


@pytest.mark.qnn
def test_the_context_runs_like_the_graph_it_was_made_from(compiled, qdq_onnx, images):
    with open_model(compiled.context, threads=1) as context, HtpEmulator(qdq_onnx, threads=1) as graph:
        assert (context.name, context.precision) == ("qnn_htp_emulator", "int8")
        np.testing.assert_array_equal(context.embed(images[:3]), graph.embed(images[:3]))
    with open_model(compiled.context.parent, threads=1) as folder:
        assert folder.embedding_dim == 16


@pytest.mark.qnn
def test_a_float_graph_is_reported_as_float(float_onnx, tmp_path):
    compilation = compile_htp(float_onnx, tmp_path, "sm8650")
    assert (compilation.soc, compilation.soc_model) == ("SM8650", 57)
    assert compilation.complete
    with pytest.raises(
        ConfigError, match="(?s)3 of 3 .* in float on the HTP of SM8650, expected none: Conv2d 'stem'"
    ):
        compilation.require_integer()
    counts = compilation.counts
    assert (counts.convolutions, counts.integer_convolutions) == (3, 0)
    assert counts.floating == counts.operators > 0
    with open_model(compilation.context, threads=1) as model:
        assert model.precision == "float16"
        assert model.soc.name == "SM8650"


FIRST, *OTHERS = sorted({chip.hexagon: name for name, chip in SOCS.items()}.values())


@pytest.mark.qnn
@pytest.mark.parametrize("soc", [FIRST, *(pytest.param(soc, marks=pytest.mark.slow) for soc in OTHERS)])
def test_each_generation_of_the_npu_takes_int8(soc, qdq_onnx, tmp_path):
    compilation = compile_htp(qdq_onnx, tmp_path, soc).require_complete().require_integer()
    assert (compilation.soc, compilation.soc_model) == (soc, SOCS[soc].soc_model)
    assert compilation.context.name == f"qdq_{soc.lower()}.onnx"
    assert compilation.context_bytes > 10_000


@pytest.mark.qnn
def test_what_the_npu_refuses_is_reported_with_the_reason(refused_onnx, tmp_path):
    stale = tmp_path / "refused_qcs8550.onnx"
    stale.write_text("the context of an earlier run")
    compilation = compile_htp(refused_onnx, tmp_path)
    assert not compilation.complete
    assert (compilation.context, compilation.context_binary, compilation.dlc) == (None, None, None)
    refused = compilation.placement[-1]
    assert (refused.name, refused.type, refused.placed_on, refused.kind) == (
        "middle",
        "Erf",
        "refused",
        "refused",
    )
    assert refused.reason == "Operators of type `Erf` are not supported by QNN EP."
    counts = compilation.counts
    assert (counts.refused, counts.partitions, counts.convolutions) == (1, 2, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["refused_qcs8550_trace.json"]
    with pytest.raises(ConfigError, match="1 operators refused, 2 partitions.*\n  Erf 'middle': "):
        compilation.require_complete()


@pytest.mark.qnn
def test_compiling_again_replaces_the_files_and_leaves_the_working_folder_alone(
    compiled, qdq_onnx, tmp_path, monkeypatch
):
    shutil.copytree(compiled.context.parent, tmp_path / "out")
    (tmp_path / "out" / compiled.context_binary.name).write_bytes(b"of an earlier run")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    again = compile_htp(qdq_onnx, Path("../out"), graph_optimization=3)
    assert again.context_binary.read_bytes() == compiled.context_binary.read_bytes()
    assert list(work.iterdir()) == []


@pytest.mark.qnn
@pytest.mark.parametrize("option", [{"graph_optimization": 0}, {"vtcm_mb": 4}])
def test_the_provider_knows_the_options_for_it_would_ignore_them(compiled, qdq_onnx, tmp_path, option):
    other = compile_htp(qdq_onnx, tmp_path, **option)
    assert other.context_binary.read_bytes() != compiled.context_binary.read_bytes()


@pytest.mark.qnn
def test_a_number_that_qnn_does_not_know_is_an_error(qdq_onnx, tmp_path, monkeypatch):
    monkeypatch.setattr(qnn_htp, "soc_named", lambda name: qnn_htp.Soc("SM0000", 9999, "v0"))
    with pytest.raises(RuntimeError, match="(?s)HTP compiler failed on .*QNN_DEVICE_ERROR_INVALID_CONFIG"):
        compile_htp(qdq_onnx, tmp_path)


@pytest.mark.qnn
def test_a_compiler_that_does_not_end_is_an_error(qdq_onnx, tmp_path, monkeypatch):
    def hang(command, **arguments):
        raise qnn_session.subprocess.TimeoutExpired(command, arguments["timeout"])

    monkeypatch.setattr(qnn_session.subprocess, "run", hang)
    with pytest.raises(ToolError, match="The HTP compiler did not end within 1800 s"):
        compile_htp(qdq_onnx, tmp_path)


@pytest.mark.qnn
def test_a_crash_of_the_compiler_is_an_error_with_its_last_words(qdq_onnx, tmp_path, monkeypatch):
    script = "import os, sys; sys.stderr.write('last words'); sys.stderr.flush(); os.abort()"
    real = qnn_session.subprocess.run

    def crash(command, **arguments):
        return real([command[0], "-c", script], **arguments)

    monkeypatch.setattr(qnn_session.subprocess, "run", crash)
    with pytest.raises(RuntimeError, match="(?s)ended with code -6.*last words"):
        compile_htp(qdq_onnx, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_free_batch_is_refused_before_anything_runs(free_batch_onnx, tmp_path):
    with pytest.raises(ConfigError, match=r"'images' has the free dimensions \['N', 3, 32, 16\].*batch 1"):
        compile_htp(free_batch_onnx, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_arguments_are_named(qdq_onnx, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="unknown SoC 'QCS8555', did you mean 'QCS8550'"):
        compile_htp(qdq_onnx, tmp_path, soc="QCS8555")
    with pytest.raises(ConfigError, match="ONNX file not found"):
        compile_htp(tmp_path / "none.onnx", tmp_path)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"Cannot read .*bad\.onnx as ONNX"):
        compile_htp(tmp_path / "bad.onnx", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="onnxruntime-qnn.*not installed"):
        compile_htp(qdq_onnx, tmp_path)
