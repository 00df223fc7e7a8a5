"""Measure on Qualcomm AI Hub's devices, through its own client: the only file that imports ``qai_hub``."""

from __future__ import annotations

import configparser
import importlib
import importlib.util
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.config import ConfigError, ToolError
from common.deployment.device_profile import DeviceProfile, LayerTime
from common.runtime.onnx_file import load_graph, require_single

DEVICE = "QCS8550 (Proxy)"
"""The device that AI Hub offers in place of a QCS8550; figures are to be quoted with the word proxy."""

_KEYS = ("api_url", "web_url", "api_token")
_RUNS = 100  # inferences to time at most
_NPU_ONLY = "--compute_unit npu"  # the default takes GPU and CPU as well
_JOB_SECONDS = 3 * 3600  # devices are shared: a job may wait in a queue

T = TypeVar("T")


class AiHub:
    """An account at Qualcomm AI Hub and one of its devices.

    What is given to ``compile`` is uploaded to Qualcomm.
    """

    def __init__(self, device: str = DEVICE) -> None:
        """Check everything that a job needs: package, credentials, network, account and device.

        Args:
            device: Exact name of a device, as ``qai-hub list-devices`` prints it.

        Raises:
            ConfigError: What is missing and how to get it. The token appears in no message.
        """
        self.device = device
        if importlib.util.find_spec("qai_hub") is None:
            raise ConfigError(
                "Qualcomm AI Hub: the package qai-hub is not installed. It needs an older protobuf than the rest, "
                "so give it an environment of its own: `pip install -r requirements-device.txt`."
            )
        self._token, api_url = _read_credentials(_credentials_path())
        _require_network(api_url)
        self._hub = importlib.import_module("qai_hub")
        self._client = self._hub.Client()
        # Before anything has worked, token, proxy and address are to be checked
        found = self._call("listing devices", lambda: self._client.get_devices(name=device), ConfigError)
        if not found:
            raise ConfigError(
                f"Qualcomm AI Hub has no device '{device}'. `qai-hub list-devices` prints those that it has."
            )

    def compile(self, onnx_path: Path, out_path: Path) -> Path:
        """Compile an ONNX graph, QDQ or float, for the device.

        Args:
            onnx_path: Graph with static shapes and one file.
            out_path: The ``.dlc`` to write; images and embedding are float32 on the device.

        Returns:
            ``out_path``.

        Raises:
            ConfigError: Another suffix, an unreadable graph, or AI Hub refuses the request.
            ToolError: The connection was lost, or the job failed; the message has its address and AI Hub's reason.
        """
        if out_path.suffix != ".dlc":
            raise ConfigError(f"{out_path}: expected a name that ends with .dlc.")
        outputs = ",".join(output.name for output in load_graph(onnx_path).graph.output)
        job = self._call(
            "compiling",
            lambda: self._client.submit_compile_job(
                model=str(onnx_path),
                device=self._hub.Device(self.device),
                name=onnx_path.stem,
                options=f"--target_runtime qnn_dlc --output_names {outputs} {_NPU_ONLY}",
            ),
        )
        self._wait("compiling", job)
        temporary = out_path.with_name(f"{out_path.stem}.tmp.dlc")
        downloaded = self._call("downloading", lambda: job.download_target_model(str(temporary)))
        if downloaded is None:
            raise ToolError(f"Qualcomm AI Hub: the job gave no compiled model. See {job.url}.")
        Path(downloaded).replace(out_path)
        return out_path

    def profile(self, compiled: Path) -> DeviceProfile:
        """Time a compiled graph on the device, on random images.

        Args:
            compiled: What ``compile`` wrote.

        Raises:
            ConfigError: AI Hub refuses the request.
            ToolError: The connection was lost, or the job failed or ended without times.
        """
        options = f"--max_profiler_iterations {_RUNS} {_NPU_ONLY}"
        job = self._submit("profiling", compiled, options=options, profile=True)
        profile = self._call("downloading", job.download_profile)
        if not profile.get("execution_summary", {}).get("estimated_inference_time"):
            raise ToolError(f"Qualcomm AI Hub: the profile of {job.url} holds no times.")
        return _read_profile(profile, self.device, job.url)

    def embed(self, compiled: Path, onnx_path: Path, images: np.ndarray) -> np.ndarray:
        """Embed images on the device.

        Args:
            compiled: What ``compile`` made of ``onnx_path``, with float images and embedding.
            onnx_path: The graph, for its names and layout.
            images: Rescaled float32 images (N, H, W, C), N >= 1.

        Returns:
            float32 (N, D), exactly what the graph puts out.

        Raises:
            ConfigError: The graph takes batches, or AI Hub refuses the request.
            ValueError: The images have another shape or type.
            ToolError: The connection was lost, the job failed, or the answer has another shape.
        """
        graph = require_single(onnx_path)
        if images.shape[1:] != graph.input_shape or images.dtype != np.float32 or not len(images):
            raise ValueError(
                f"{onnx_path} expects float32 images (N, {graph.input_shape}); received {images.dtype} {images.shape}."
            )
        arranged = images.transpose(0, 3, 1, 2) if graph.channels_first else images
        inputs = {graph.input_name: [np.ascontiguousarray(image[None]) for image in arranged]}
        job = self._submit("inference", compiled, inputs=inputs, options=_NPU_ONLY, profile=False)
        answers = self._call("downloading", job.download_output_data) or {}
        rows = answers.get(graph.output_name, [])
        if len(rows) != len(images) or any(np.size(row) != graph.embedding_dim for row in rows):
            shapes = {name: [np.shape(value) for value in values[:1]] for name, values in answers.items()}
            raise ToolError(
                f"Qualcomm AI Hub: expected {len(images)} embeddings '{graph.output_name}' of length "
                f"{graph.embedding_dim}; received {shapes}. See {job.url}."
            )
        return np.stack([np.asarray(row, np.float32).reshape(-1) for row in rows])

    def _submit(self, doing: str, compiled: Path, **arguments: Any) -> Any:
        # submit_profile_job is deprecated since 0.56
        job = self._call(
            doing,
            lambda: self._client.submit_inference_job(
                model=str(compiled), device=self._hub.Device(self.device), name=compiled.stem, **arguments
            ),
        )
        self._wait(doing, job)
        return job

    def _wait(self, doing: str, job: Any) -> None:
        status = self._call(doing, lambda: job.wait(_JOB_SECONDS))
        if not status.success:
            reason = self._redact(status.message or status.code)
            raise ToolError(f"Qualcomm AI Hub: {doing} failed on {self.device}: {reason}. See {job.url}.")

    def _call(self, doing: str, function: Callable[[], T], failure: type[Exception] = ToolError) -> T:
        try:
            return function()
        except TimeoutError as error:
            raise ToolError(f"Qualcomm AI Hub: {doing} did not end: {self._redact(error)}") from None
        except Exception as error:  # noqa: BLE001 - the client raises its own and its libraries' types
            kind = ConfigError if type(error).__name__ == "UserError" else failure
            # Not chained: a request in the cause's text or frames carries the token
            raise kind(
                f"Qualcomm AI Hub: {doing} failed ({type(error).__name__}): {self._redact(error)}"
            ) from None

    def _redact(self, words: object) -> str:
        lines = (line.strip(" |-+") for line in str(words).replace(self._token, "***").splitlines())
        return " ".join(line for line in lines if line)


def _credentials_path() -> Path:
    return Path(os.environ.get("QAIHUB_CLIENT_INI", "~/.qai_hub/client.ini")).expanduser()


def _read_credentials(path: Path) -> tuple[str, str]:
    """Token and address from the client's own file."""
    how = (
        "Sign in at https://workbench.aihub.qualcomm.com, copy the token of your account and run "
        "`qai-hub configure --api_token TOKEN`."
    )
    if not path.is_file():
        raise ConfigError(f"Qualcomm AI Hub: the credentials {path} do not exist. {how}")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (configparser.Error, UnicodeDecodeError):
        # The parser's message quotes the line, which may be the token
        raise ConfigError(f"Qualcomm AI Hub: {path} is no INI file. {how}") from None
    missing = [key for key in _KEYS if not parser.get("api", key, fallback="").strip()]
    if missing:
        raise ConfigError(f"Qualcomm AI Hub: {path} lacks {', '.join(missing)} in its section [api]. {how}")
    return parser["api"]["api_token"].strip(), parser["api"]["api_url"].strip()


def _require_network(api_url: str) -> None:
    """The client itself tries for half a minute before it gives up."""
    address = urllib.parse.urlsplit(api_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ConfigError(f"Qualcomm AI Hub: expected api_url to be an http address; received '{api_url}'.")
    if address.scheme in urllib.request.getproxies():
        return  # the proxy resolves and connects
    port = address.port or {"http": 80, "https": 443}[address.scheme]
    try:
        socket.create_connection((address.hostname, port), timeout=10).close()
    except OSError as error:
        raise ConfigError(
            f"Qualcomm AI Hub: no connection to {address.hostname}:{port} ({error}). Check the network, "
            "or set HTTPS_PROXY."
        ) from error


def _read_profile(profile: dict[str, Any], device: str, source: str) -> DeviceProfile:
    """From the client's dictionary: times in microseconds, memory in bytes."""
    summary = profile["execution_summary"]
    times = summary.get("all_inference_times") or [summary["estimated_inference_time"]]
    memory = summary.get("inference_memory_peak_range")
    known = isinstance(memory, tuple | list) and len(memory) == 2
    return DeviceProfile(
        device=device,
        source=source,
        inference_ms=tuple(microseconds / 1e3 for microseconds in times),
        peak_memory_bytes=(int(memory[0]), int(memory[1])) if known else None,
        layers=tuple(
            LayerTime(
                name=layer["name"],
                type=layer["type"],
                unit=layer["compute_unit"],
                microseconds=layer.get("execution_time"),
                cycles=layer.get("execution_cycles"),
            )
            for layer in profile.get("execution_detail", ())
        ),
    )
