import importlib.util
import io
import subprocess
import sys

import numpy as np
import pytest

from common.config import ConfigError
from common.runtime import open_model
from common.runtime._htp_worker import from_bytes, read_message, to_bytes, write_message
from common.runtime.htp_emulator import HtpEmulator
from common.socs import SOCS, soc_named


@pytest.mark.qnn
def test_agrees_with_onnx_runtime_to_one_step_and_keeps_the_order(qdq_onnx, images):
    with open_model(qdq_onnx) as cpu, HtpEmulator(qdq_onnx, threads=2) as emulator:
        assert (emulator.name, emulator.precision, emulator.threads) == ("qnn_htp_emulator", "int8", 2)
        expected = cpu.embed(images)
        embeddings = emulator.embed(images)
    values = np.unique(expected)
    step = np.diff(values).min()
    assert np.abs(embeddings - expected).max() <= 1.01 * step
    assert np.abs(expected[0] - expected[1]).max() > 5 * step  # so that another order would be seen


@pytest.mark.qnn
def test_a_dead_worker_is_an_error_and_not_the_end(qdq_onnx, images):
    with HtpEmulator(qdq_onnx, threads=1) as emulator:
        emulator._workers[0].kill()
        with pytest.raises(RuntimeError, match="HTP emulator ended with code -9"):
            emulator.embed(images[:1])


@pytest.mark.qnn
def test_close_ends_the_workers_and_leaves_nothing_in_the_working_folder(
    qdq_onnx, images, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    emulator = HtpEmulator(qdq_onnx, threads=1)
    worker = emulator._workers[0]
    emulator.embed(images[:1])
    emulator.close()
    emulator.close()
    assert worker.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.qnn
def test_an_operator_that_the_htp_lacks_is_an_error(refused_onnx):
    with pytest.raises(ConfigError, match="does not run on the HTP of QCS8550"):
        HtpEmulator(refused_onnx, threads=1)


@pytest.mark.qnn
def test_a_free_batch_is_refused(free_batch_onnx):
    with pytest.raises(ConfigError, match="static shapes"):
        HtpEmulator(free_batch_onnx)


def test_the_missing_package_is_named(qdq_onnx, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="onnxruntime-qnn.*Linux x86-64"):
        HtpEmulator(qdq_onnx)


def test_messages_survive_the_pipe_and_a_cut_one_is_seen():
    stream = io.BytesIO()
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_message(stream, to_bytes(array))
    write_message(stream, b"")
    stream.seek(0)
    np.testing.assert_array_equal(from_bytes(read_message(stream) or b""), array)
    assert read_message(stream) == b""
    assert read_message(stream) is None
    assert read_message(io.BytesIO(stream.getvalue()[:20])) is None


def test_socs_have_distinct_numbers_and_a_wrong_name_lists_them():
    assert len({soc.soc_model for soc in SOCS.values()}) == len(SOCS)
    assert (soc_named("qcs8550").soc_model, soc_named("SM8550").soc_model) == (66, 43)
    with pytest.raises(ConfigError, match=r"unknown SoC 'QCS8500', did you mean 'QCS8550'\?"):
        soc_named("QCS8500")
    with pytest.raises(ConfigError, match="unknown SoC 'x', expected one of: QCM6490, "):
        soc_named("x")


def test_importing_the_runtimes_loads_no_framework():
    code = (
        "import sys, common.runtime.htp_emulator, common.deployment.qnn_htp, common.deployment.macs;"
        "print({'tensorflow', 'keras', 'onnxruntime', 'onnx'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
