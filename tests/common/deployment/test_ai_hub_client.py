"""Qualcomm's own client against a stand-in of its HTTP interface.

It needs requirements-device.txt, an environment of its own that takes minutes to install: `make test-device` makes it
and runs this file. `make test` and CI skip it.
"""

import http.server
import io
import threading
import urllib.parse

import numpy as np
import pytest

pytest.importorskip("qai_hub")

from common.config import ConfigError
from common.deployment.ai_hub import DEVICE, AiHub
from common.deployment.device_profile import LayerTime

TOKEN = "secret-0123456789"


class Hub:
    """Models, jobs and data sets in memory. A job is done when it is asked for."""

    def __init__(self, api, h5py):
        self.api, self.h5py = api, h5py
        self.address = ""
        self.files, self.jobs, self.asked = {}, {}, []
        self.fail = ""

    def answer(self, method, path, body):
        """A message or the bytes of a file."""
        api = self.api
        self.asked.append((method, "/".join(path)))
        match [method, *path]:
            case ["GET", "devices"]:
                device = api.Device(name=DEVICE, os="12", attributes=["framework:qnn", "framework:onnx"])
                return api.DeviceList(devices=[device], total_query_count=1)
            case ["POST", ("models" | "datasets") as kind]:
                return api.CreateUpdateResponse(id=f"{kind[:-1]}{len(self.asked)}")
            case ["GET", "models", name, "multipart_upload"]:
                urls = [f"{self.address}/file/{name}"]
                multipart = api.FileMultipartUploadURL(upload_id="u", urls=urls, max_part_size=2**30)
                return api.FileUploadResponse(multipart_url=multipart)
            case ["GET", "datasets", name, "upload_url"]:
                url = api.FileUploadURL(url=f"{self.address}/form/{name}", file_field_name="file")
                return api.FileUploadResponse(url=url)
            case ["PUT", "file", name]:
                self.files[name] = body
                return b""
            case ["POST", "form", name]:
                # One part: its header ends at the first empty line, the boundary follows the data
                boundary = body.split(b"\r\n", 1)[0]
                part = next(part for part in body.split(boundary) if b'name="file"' in part)
                self.files[name] = part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
                return b""
            case ["POST", "models", name, "multipart_upload"] | ["PATCH", "datasets", name]:
                return api.CreateUpdateResponse(id=name)
            case ["GET", "models", name]:
                kind = api.ModelType.Value("MODEL_TYPE_QNN_DLC" if name == "target" else "MODEL_TYPE_ONNX")
                return api.Model(model_id=name, name=name, model_type=kind)
            case ["GET", "datasets", name]:
                return api.Dataset(dataset_id=name, name=name)
            case ["POST", "jobs"]:
                job = api.Job.FromString(body)
                self.jobs[f"j{len(self.jobs)}"] = job
                return api.CreateUpdateResponse(id=f"j{len(self.jobs) - 1}")
            case ["GET", "jobs", name]:
                return self.job(name)
            case ["GET", "jobs", name, "result"]:
                return self.result(self.jobs[name].inference_job)
            case ["GET", "models", "target", "download"]:
                self.files["compiled"] = b"compiled"
                url = api.FileDownloadURL(url=f"{self.address}/file/compiled", filename="job.dlc")
                return api.FileDownloadResponse(url=url)
            case ["GET", "datasets", "embedded", "download_data"]:
                url = api.FileDownloadURL(url=f"{self.address}/file/embedded", filename="embedded.h5")
                return api.FileDownloadResponse(url=url)
            case ["GET", "file", name]:
                return self.files[name]
        raise AssertionError(f"{method} {path}")

    def job(self, name):
        job = self.jobs[name]
        done = self.api.JobState.Value("JOB_STATE_FAILED" if self.fail else "JOB_STATE_DONE")
        if job.WhichOneof("job") == "compile_job":
            job.compile_job.compile_job_id = name
            job.compile_job.job_state, job.compile_job.failure_reason = done, self.fail
            job.compile_job.target_model.model_id = "target"
        else:
            job.inference_job.inference_job_id = name
            job.inference_job.job_state, job.inference_job.failure_reason = done, self.fail
        return job

    def result(self, job):
        api = self.api
        found = api.InferenceJobResult(inference_job_id=job.inference_job_id)
        if job.is_profiling_on:
            found.detail.CopyFrom(
                api.ProfileDetail(
                    major_version=1,
                    minor_version=2,
                    execution_time=902,
                    all_execution_times=[902, 1000],
                    layer_details=[
                        api.LayerDetail(
                            name="conv",
                            layer_type_name="Conv2d",
                            compute_unit=api.ComputeUnit.Value("COMPUTE_UNIT_NPU"),
                            execution_cycles=345,
                        )
                    ],
                )
            )
            found.detail.execution_memory.peak.lower = 1_000
            found.detail.execution_memory.peak.upper = 2_000
        else:
            self.files["embedded"] = self.embed(self.files[job.dataset.dataset_id])
            found.output_dataset_id = "embedded"
        return api.JobResult(inference_job_result=found)

    def embed(self, data):
        """Each image to its mean, 16 times, in the client's file format."""
        out = io.BytesIO()
        with self.h5py.File(io.BytesIO(data)) as source, self.h5py.File(out, "w") as target:
            [name] = source["data"]
            group = source["data"][name]
            assert group.attrs["name"] == "images"
            answer = target.create_group("data/0")
            answer.attrs["name"], answer.attrs["order"], answer.attrs["batch_count"] = (
                "embedding",
                0,
                len(group),
            )
            for key, batch in group.items():
                answer[key] = np.full((1, 16), np.asarray(batch).mean(), np.float32)
        return out.getvalue()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    import h5py
    from qai_hub import public_api_pb2

    service = Hub(public_api_pb2, h5py)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urllib.parse.urlsplit(self.path).path.removeprefix("/api/v1").strip("/").split("/")
            answer = service.answer(self.command, path, body)
            message = not isinstance(answer, bytes)
            if message:
                assert self.headers["Authorization"] == f"token {TOKEN}"
                answer = answer.SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", f"application/{'x-protobuf' if message else 'octet-stream'}")
            self.send_header("Content-Length", str(len(answer)))
            self.send_header("ETag", "tag")
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_PATCH = handle_any  # noqa: N815

        def log_message(self, *_):
            pass

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        service.address = f"http://127.0.0.1:{server.server_port}"
        path = tmp_path / "client.ini"
        path.write_text(
            f"[api]\napi_url={service.address}\nweb_url={service.address}\napi_token={TOKEN}\nverbose=false\n"
        )
        monkeypatch.setenv("QAIHUB_CLIENT_INI", str(path))
        yield service
        server.shutdown()


def test_the_way_of_a_model_through_the_service(hub, qdq_onnx, images, tmp_path, capfd, caplog):
    caplog.set_level("DEBUG")
    client = AiHub()
    compiled = client.compile(qdq_onnx, tmp_path / "net.dlc")
    assert compiled.read_bytes() == b"compiled"
    assert qdq_onnx.read_bytes() in hub.files.values()
    job = hub.jobs["j0"].compile_job
    assert job.options == "--target_runtime qnn_dlc --output_names embedding --compute_unit npu"
    assert [device.name for device in job.devices.devices] == [DEVICE]

    profile = client.profile(compiled)
    options = "--max_profiler_iterations 100 --compute_unit npu"
    assert hub.jobs["j1"].inference_job.options == options
    assert profile.inference_ms == (0.902, 1.0)
    assert profile.peak_memory_bytes == (1_000, 2_000)
    assert profile.layers == (LayerTime("conv", "Conv2d", "NPU", None, 345),)

    embeddings = client.embed(compiled, qdq_onnx, images[:3])
    means = images[:3].reshape(3, -1).mean(axis=1)
    assert embeddings == pytest.approx(np.repeat(means[:, None], 16, axis=1), abs=1e-6)
    assert TOKEN not in caplog.text + "".join(capfd.readouterr())
    assert "/api/v1/jobs" in caplog.text


def test_a_job_that_fails(hub, qdq_onnx, tmp_path):
    client = AiHub()
    hub.fail = "no kernel for Erf"
    with pytest.raises(RuntimeError, match=r"compiling failed .*: no kernel for Erf. See http.*j0"):
        client.compile(qdq_onnx, tmp_path / "net.dlc")


def test_what_the_client_refuses_is_told(hub, tmp_path):
    torch = tmp_path / "net.pt2"
    torch.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"profiling failed \(UserError\): .*has been compiled"):
        AiHub().profile(torch)


def test_an_unknown_device(hub, monkeypatch):
    empty = hub.api.DeviceList()
    monkeypatch.setattr(hub, "answer", lambda *_: empty)
    with pytest.raises(ConfigError, match="no device 'QCS9999'"):
        AiHub("QCS9999")
