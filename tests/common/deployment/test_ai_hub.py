"""Against a stand-in of the package with its documented signatures (qai-hub 0.56), and the package itself if there."""

import http.server
import importlib.util
import socket
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

from common.config import ConfigError, ToolError
from common.deployment import ai_hub
from common.deployment.ai_hub import DEVICE, AiHub
from common.deployment.device_profile import DeviceProfile, LayerTime
from common.deployment.host_latency import percentiles

TOKEN = "secret-0123456789"


@pytest.fixture
def server():
    """An HTTP server that refuses every token, and remembers what it was asked."""
    asked = []

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


@pytest.fixture
def credentials(tmp_path, monkeypatch, server):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "client.ini"
    path.write_text(f"[api]\napi_url = {server[0]}\nweb_url = {server[0]}\napi_token = {TOKEN}\n")
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(path))
    return path


class Status:
    def __init__(self, success=True, message=None):
        self.success, self.message, self.code = success, message, "SUCCESS" if success else "FAILED"


class Job:
    url = "https://workbench.aihub.qualcomm.com/jobs/jabc"
    status: Status | BaseException = Status()
    profile: dict = {}
    output: dict | None = None
    lost = False

    def wait(self, timeout=None):
        assert timeout > 0
        if isinstance(self.status, BaseException):
            raise self.status
        return self.status

    def download_target_model(self, filename):
        if self.lost:
            return None
        Path(filename).write_bytes(b"compiled")
        return filename

    def download_profile(self, filename=None):
        return self.profile

    def download_output_data(self, filename=None):
        return self.output


class Client:
    devices = (DEVICE,)
    failure: Exception | None = None

    def __init__(self, config=None, profile=None):
        self.calls, self.job = [], Job()

    def get_devices(self, name="", os="", attributes=None):
        if self.failure:
            raise self.failure
        return [device for device in self.devices if device == name]

    def submit_compile_job(
        self, model, device, name=None, input_specs=None, options="", single_compile=True,
        calibration_data=None, retry=True, project=None,
    ):  # fmt: skip
        self.calls.append(("compile", model, device.name, options))
        return self.job

    def submit_inference_job(
        self, model, device, inputs=None, name=None, options="", retry=True, profile=True, project=None
    ):
        assert profile or inputs is not None
        self.calls.append(("inference", model, device.name, inputs, options, profile))
        return self.job

    def submit_profile_job(self, *_, **__):
        raise AssertionError("deprecated since 0.56")


@pytest.fixture
def package(monkeypatch):
    module = types.ModuleType("qai_hub")
    module.__spec__ = importlib.util.spec_from_loader("qai_hub", None)
    module.Client = type("Client", (Client,), {})
    module.Device = lambda name: types.SimpleNamespace(name=name)
    monkeypatch.setitem(sys.modules, "qai_hub", module)
    return module


@pytest.fixture
def hub(package, credentials):
    return AiHub()


@pytest.mark.skipif(importlib.util.find_spec("qai_hub") is not None, reason="the package is installed")
def test_the_package_is_asked_for_first():
    with pytest.raises(ConfigError, match=r"pip install -r requirements-device.txt"):
        AiHub()


def test_missing_credentials_are_named(package, monkeypatch, tmp_path):
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(tmp_path / "none.ini"))
    with pytest.raises(ConfigError, match="none.ini do not exist.*qai-hub configure --api_token TOKEN"):
        AiHub()


def test_the_default_place_of_the_credentials_is_the_clients(monkeypatch, tmp_path):
    monkeypatch.delenv("QAIHUB_CLIENT_INI", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ai_hub._credentials_path() == tmp_path / ".qai_hub" / "client.ini"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"[api]\napi_token = {TOKEN}\n", "lacks api_url, web_url in its section"),
        ("[api]\napi_url = https://x\nweb_url = https://x\napi_token =\n", "lacks api_token in"),
        (f"[other]\napi_token = {TOKEN}\n", "lacks api_url, web_url, api_token"),
        (f"api_token {TOKEN}\n", "is no INI file"),
        (f"[api]\napi_url = ftp://x\nweb_url = x\napi_token = {TOKEN}\n", "received 'ftp://x'"),
    ],
)
def test_incomplete_credentials_are_named_without_the_token(package, credentials, content, expected):
    credentials.write_text(content)
    with pytest.raises(ConfigError) as error:
        AiHub()
    assert expected in str(error.value)
    assert TOKEN not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_no_network_is_told_at_once(package, credentials):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    credentials.write_text(f"[api]\napi_url=http://127.0.0.1:{port}\nweb_url=x\napi_token={TOKEN}\n")
    with pytest.raises(ConfigError, match=f"no connection to 127.0.0.1:{port}.*HTTPS_PROXY"):
        AiHub()


def test_a_proxy_is_left_to_the_client(package, credentials, monkeypatch):
    credentials.write_text(f"[api]\napi_url=http://nowhere.invalid\nweb_url=x\napi_token={TOKEN}\n")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    AiHub()


def test_an_unknown_device_is_named(package, credentials):
    with pytest.raises(ConfigError, match="no device 'QCS9999'.*list-devices"):
        AiHub("QCS9999")


def test_the_clients_errors_come_without_the_token(package, credentials):
    package.Client.failure = ConnectionError(f"+---+\n| header token {TOKEN} |\n+---+")
    with pytest.raises(ConfigError) as error:
        AiHub()
    assert str(error.value) == ("Qualcomm AI Hub: listing devices failed (ConnectionError): header token ***")
    assert error.value.__suppress_context__


def test_compile_uploads_the_graph_and_writes_the_result(hub, qdq_onnx, tmp_path):
    assert hub.compile(qdq_onnx, tmp_path / "m.dlc") == tmp_path / "m.dlc"
    assert (tmp_path / "m.dlc").read_bytes() == b"compiled"
    options = "--target_runtime qnn_dlc --output_names embedding --compute_unit npu"
    assert hub._client.calls == [("compile", str(qdq_onnx), DEVICE, options)]
    assert {path.name for path in tmp_path.iterdir()} == {"m.dlc", "client.ini"}


def test_compile_refuses_other_suffixes(hub, qdq_onnx, tmp_path):
    with pytest.raises(ConfigError, match=r"m.so: expected a name that ends with .dlc"):
        hub.compile(qdq_onnx, tmp_path / "m.so")


def test_a_failed_job_is_an_error_with_reason_and_address(hub, qdq_onnx, tmp_path):
    hub._client.job.status = Status(False, f"no kernel for Erf ({TOKEN})")
    with pytest.raises(
        RuntimeError, match=r"compiling failed on QCS8550 \(Proxy\): no kernel for Erf .*jobs/jabc"
    ):
        hub.compile(qdq_onnx, tmp_path / "m.dlc")
    assert not (tmp_path / "m.dlc").exists()
    hub._client.job.status = TimeoutError("timed out after 3 seconds")
    with pytest.raises(RuntimeError, match="compiling did not end: timed out"):
        hub.compile(qdq_onnx, tmp_path / "m.dlc")


def test_a_lost_connection_is_the_services_failure_and_a_refusal_the_users_mistake(hub, qdq_onnx, tmp_path):
    hub._client.job.status = ConnectionError(f"lost, header token {TOKEN}")
    with pytest.raises(ToolError, match=r"compiling failed \(ConnectionError\): lost, header token \*\*\*"):
        hub.compile(qdq_onnx, tmp_path / "m.dlc")
    hub._client.job.status = type("UserError", (Exception,), {})("no such model")
    with pytest.raises(ConfigError, match=r"compiling failed \(UserError\): no such model"):
        hub.compile(qdq_onnx, tmp_path / "m.dlc")


def test_a_job_without_a_model_is_an_error(hub, qdq_onnx, tmp_path):
    hub._client.job.lost = True
    with pytest.raises(RuntimeError, match="no compiled model.*jobs/jabc"):
        hub.compile(qdq_onnx, tmp_path / "m.dlc")


def test_a_profile_is_read_in_its_units(hub, tmp_path):
    # Keys and units of qai-hub 0.56's download_profile: microseconds and bytes
    hub._client.job.profile = {
        "execution_summary": {
            "estimated_inference_time": 902,
            "all_inference_times": [902, 950, 1000, 1100],
            "inference_memory_peak_range": (1_000, 183_000_000),
        },
        "execution_detail": [
            {"name": "conv", "type": "Conv2d", "compute_unit": "NPU", "execution_time": 12},
            {"name": "softmax", "type": "Softmax", "compute_unit": "CPU", "execution_cycles": 345},
        ],
    }
    found = hub.profile(tmp_path / "m.dlc")
    options = "--max_profiler_iterations 100 --compute_unit npu"
    assert hub._client.calls == [("inference", str(tmp_path / "m.dlc"), DEVICE, None, options, True)]
    assert found == DeviceProfile(
        DEVICE,
        Job.url,
        (0.902, 0.95, 1.0, 1.1),
        (1_000, 183_000_000),
        (LayerTime("conv", "Conv2d", "NPU", 12, None), LayerTime("softmax", "Softmax", "CPU", None, 345)),
    )
    assert percentiles(found.inference_ms) == pytest.approx(
        {
            "p50_ms": 0.975,
            "p90_ms": np.percentile([0.902, 0.95, 1.0, 1.1], 90),
            "p99_ms": np.percentile([0.902, 0.95, 1.0, 1.1], 99),
            "mean_ms": 0.988,
            "runs": 4,
        }
    )
    assert found.units() == {"NPU": 1, "CPU": 1}


def test_an_older_profile_has_one_time_and_no_memory(hub, tmp_path):
    hub._client.job.profile = {
        "execution_summary": {"estimated_inference_time": 902, "inference_memory_peak_range": None}
    }
    found = hub.profile(tmp_path / "m.dlc")
    assert (found.inference_ms, found.peak_memory_bytes, found.layers) == ((0.902,), None, ())


def test_a_profile_without_times_is_no_profile(hub, tmp_path):
    with pytest.raises(RuntimeError, match="holds no times"):
        hub.profile(tmp_path / "m.dlc")


def test_images_are_sent_one_by_one_in_the_graphs_layout(hub, qdq_onnx, images, tmp_path):
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(3, 16)).astype(np.float32)
    hub._client.job.output = {"embedding": [row[None] for row in expected]}
    found = hub.embed(tmp_path / "m.dlc", qdq_onnx, images[:3])
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)
    _, _, _, inputs, options, profiled = hub._client.calls[0]
    assert (options, profiled) == ("--compute_unit npu", False)
    assert list(inputs) == ["images"]
    for sent, image in zip(inputs["images"], images[:3], strict=True):
        assert sent.shape == (1, 3, 32, 16)
        assert sent.flags["C_CONTIGUOUS"]
        assert np.array_equal(sent[0].transpose(1, 2, 0), image)


@pytest.mark.parametrize("output", [None, {"other": [np.zeros((1, 16))]}, {"embedding": [np.zeros((1, 8))]}])
def test_an_answer_of_another_shape_is_an_error(hub, qdq_onnx, images, tmp_path, output):
    hub._client.job.output = output
    with pytest.raises(RuntimeError, match="expected 1 embeddings 'embedding' of length 16"):
        hub.embed(tmp_path / "m.dlc", qdq_onnx, images[:1])


def test_wrong_images_and_batches_are_refused(hub, qdq_onnx, batch_of_four_onnx, images, tmp_path):
    with pytest.raises(ValueError, match="expects float32 images"):
        hub.embed(tmp_path / "m.dlc", qdq_onnx, images.astype(np.float64))
    with pytest.raises(ConfigError, match="expected batch 1, found 4"):
        hub.embed(tmp_path / "m.dlc", batch_of_four_onnx, images)
    assert hub._client.calls == []


@pytest.mark.skipif(importlib.util.find_spec("qai_hub") is None, reason="needs requirements-device.txt")
def test_the_package_itself_is_refused_without_the_token_in_the_message(credentials, server):
    with pytest.raises(ConfigError) as error:
        AiHub()
    assert "listing devices failed (UserError): Failed to authenticate." in str(error.value)
    assert TOKEN not in str(error.value)
    assert server[1]
    assert {authorization for _, authorization in server[1]} == {f"token {TOKEN}"}
