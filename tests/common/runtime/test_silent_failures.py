"""What ONNX Runtime answers with the CPU and without a word is an error here."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.runtime import qnn_session

pytestmark = pytest.mark.qnn
ROOT = Path(__file__).parents[3]

CARELESS = """
def open_session(path, options):
    import onnxruntime, onnxruntime_qnn
    onnxruntime.register_execution_provider_library("QNNExecutionProvider", onnxruntime_qnn.get_library_path())
    devices = [d for d in onnxruntime.get_ep_devices() if d.ep_name == "QNNExecutionProvider"]
    session_options = onnxruntime.SessionOptions()
    session_options.add_provider_for_devices(devices, {"backend_type": "htp", **options})
    return onnxruntime.InferenceSession(path, session_options)
"""
OURS = """
def open_session(path, options):
    from common.runtime.qnn_session import open_qnn_session
    return open_qnn_session(pathlib.Path(path), int(options.pop("soc_model")), options)
"""
RUN = """
import json, pathlib, sys
import numpy as np
try:
    session = open_session(sys.argv[1], json.loads(sys.argv[2]))
    embeddings = session.run(None, {"images": np.ones((1, 3, 32, 16), np.float32)})[0]
    answer = {"embeddings": list(embeddings.shape)}
except Exception as error:
    answer = {"error": str(error)}
pathlib.Path("answer.json").write_text(json.dumps(answer))
"""


@pytest.fixture
def incomplete_package(tmp_path):
    """The folder of an onnxruntime-qnn that lacks the library of the HTP."""
    origin = Path(importlib.util.find_spec("onnxruntime_qnn").origin).parent
    package = tmp_path / "site" / "onnxruntime_qnn"
    package.mkdir(parents=True)
    for path in origin.iterdir():
        if path.name != "libQnnHtp.so":
            (package / path.name).symlink_to(path)
    return package.parent


@pytest.fixture
def answer(tmp_path):
    """What a session answers in a process of its own."""

    def ask(open_session, path, options, packages=()):
        folder = tmp_path / "work"
        folder.mkdir(exist_ok=True)
        subprocess.run(
            [sys.executable, "-c", open_session + RUN, str(path), json.dumps(options)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*packages, ROOT]))},
            capture_output=True,
            check=True,
        )
        return json.loads((folder / "answer.json").read_text())

    return ask


CASES = {
    "a chip that QNN does not know": ("qdq_onnx", {"soc_model": "9999"}, "fallback"),
    "a free batch": ("free_batch_onnx", {"soc_model": "66"}, "fallback"),
    "a provider that cannot start": ("qdq_onnx", {"soc_model": "66", "backend_path": "x.so"}, "backend"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cpu_never_takes_over(case, answer, request):
    name, options, message = CASES[case]
    path = request.getfixturevalue(name)
    assert answer(CARELESS, path, options) == {"embeddings": [1, 16]}
    assert message in answer(OURS, path, options)["error"]


def test_a_library_that_is_missing_is_an_error(answer, qdq_onnx, incomplete_package):
    options = {"soc_model": "66"}
    assert answer(CARELESS, qdq_onnx, options, [incomplete_package]) == {"embeddings": [1, 16]}
    assert "fallback" in answer(OURS, qdq_onnx, options, [incomplete_package])["error"]


def test_the_options_are_those_of_the_provider():
    [library] = Path(importlib.util.find_spec("onnxruntime_qnn").origin).parent.glob("*providers_qnn.so")
    content = library.read_bytes()
    assert [name for name in qnn_session._OPTIONS if name.encode() not in content] == []


def test_an_option_that_is_misspelt_is_refused(answer, qdq_onnx):
    """The provider ignores it."""
    options = {"soc_model": "66", "vtmc_mb": "4"}
    assert answer(CARELESS, qdq_onnx, options) == {"embeddings": [1, 16]}
    said = answer(OURS, qdq_onnx, options)["error"]
    assert said == "onnxruntime-qnn: unknown option 'vtmc_mb', did you mean 'vtcm_mb'?"
