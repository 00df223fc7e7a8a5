"""Convert and run with a local Qualcomm AI Runtime SDK and a device over adb: its own tools, without a shell.

Flags as in Qualcomm's "Tools" (80-63442-2) and the converter pages of QAIRT 2.39. What the tools write goes to a
folder of its own first, so that a failure leaves no half file behind.
"""

from __future__ import annotations

import csv
import json
import os
import re
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common.config import ConfigError, ToolError
from common.deployment.device_profile import DeviceProfile, LayerTime
from common.runtime.onnx_file import OnnxFile, require_single
from common.runtime.qnn_session import last_words, run_logged
from common.socs import soc_named

_HOST = "x86_64-linux-clang"
_ANDROID, _LINUX = "aarch64-android", "aarch64-oe-linux-gcc*"
_HOST_FILES = (
    f"bin/{_HOST}/qairt-converter",
    f"bin/{_HOST}/qairt-quantizer",
    f"bin/{_HOST}/qnn-context-binary-generator",
    f"bin/{_HOST}/qnn-profile-viewer",
    f"lib/{_HOST}/libQnnHtp.so",
    f"lib/{_HOST}/libQnnModelDlc.so",
    f"lib/{_HOST}/libQnnHtpNetRunExtensions.so",
)
_VTCM_MB = {"v73": 8}  # all that this Hexagon has; of the others it is not known here
_DEVICE_FOLDER = "/data/local/tmp"
_TOOL_SECONDS = 1800
_ADB_SECONDS = 60
_START_SECONDS = 120


class QairtSdk:
    """The SDK's tools for one chip."""

    def __init__(
        self, soc: str = "QCS8550", root: Path | None = None, performance_mode: str = "burst"
    ) -> None:
        """Check that the SDK and its host tools are there.

        Args:
            soc: A name in ``common.socs.SOCS``.
            root: The SDK's folder; the environment variable QAIRT_SDK_ROOT when absent.
            performance_mode: Clocks of the NPU while it runs, as ``qnn-net-run --perf_profile`` names them.

        Raises:
            ConfigError: Unknown chip, or everything that is missing.
        """
        self.soc = soc_named(soc)
        self.performance_mode = performance_mode
        found = root or os.environ.get("QAIRT_SDK_ROOT")
        if not found:
            raise ConfigError(
                "QAIRT SDK: QAIRT_SDK_ROOT is not set. Install the Qualcomm AI Runtime SDK from Qualcomm's site and "
                "set it to the folder that holds bin/ and lib/."
            )
        self.root = Path(found).expanduser().resolve()
        self._require(_HOST_FILES)

    # ----------------------------------------------------------------------------------------------------------
    # On the host

    def convert(self, onnx_path: Path, out_path: Path, encodings: Path | None = None) -> Path:
        """Convert an ONNX graph to a ``.dlc`` with ``qairt-converter``; a QDQ graph stays quantized.

        The ``.dlc`` takes images (1, H, W, C) whatever the layout of the graph.

        Args:
            onnx_path: Graph with one image input and static shapes.
            out_path: The ``.dlc`` to write.
            encodings: Scales that replace those of the graph, in one of Qualcomm's JSON forms.

        Raises:
            ConfigError: The graph is unreadable or takes batches.
            ToolError: The converter failed.
        """
        graph = require_single(onnx_path)
        source = (graph.input_shape[2], *graph.input_shape[:2]) if graph.channels_first else graph.input_shape
        command = [
            *("--input_network", str(onnx_path.resolve())),
            *("--source_model_input_shape", graph.input_name, ",".join(map(str, (1, *source)))),
            # Without it the converter fails on the transposition that tf2onnx puts behind its NHWC images
            *("--source_model_input_layout", graph.input_name, "NCHW" if graph.channels_first else "NHWC"),
            *("--desired_input_layout", graph.input_name, "NHWC"),
            *self._target(),
        ]
        if encodings is not None:
            command += ["--quantization_overrides", str(encodings.resolve())]
        with _scratch(out_path.parent) as folder:
            # The graph is named after the file
            written = folder / out_path.name
            self._host("qairt-converter", [*command, "--output_path", str(written)], folder)
            return _take("qairt-converter", written, out_path)

    def quantize(self, dlc: Path, out_path: Path, input_name: str, images: np.ndarray) -> Path:
        """Quantize a float ``.dlc`` to W8A8 with ``qairt-quantizer``: per-channel weights, 32-bit biases.

        Args:
            dlc: What ``convert`` made of a float graph.
            out_path: The ``.dlc`` to write.
            input_name: Name of the graph's input.
            images: Rescaled float32 images (N, H, W, C) to calibrate on, N >= 1.

        Raises:
            ToolError: The quantizer failed.
        """
        with _scratch(out_path.parent) as folder:
            written = folder / out_path.name
            command = [
                *("--input_dlc", str(dlc.resolve()), "--output_dlc", str(written)),
                *("--input_list", str(_write_images(folder, input_name, images))),
                *("--act_bitwidth", "8", "--weights_bitwidth", "8", "--bias_bitwidth", "32"),
                "--use_per_channel_quantization",
                *("--act_quantizer_calibration", "min-max", "--act_quantizer_schema", "asymmetric"),
                *("--param_quantizer_schema", "symmetric"),
                *self._target(),
            ]
            self._host("qairt-quantizer", command, folder)
            return _take("qairt-quantizer", written, out_path)

    def compile(
        self,
        dlc: Path,
        out_path: Path,
        graph_name: str | None = None,
        vtcm_mb: int = 0,
        graph_optimization: int = 3,
    ) -> Path:
        """Compile a ``.dlc`` to a context binary with ``qnn-context-binary-generator``.

        Args:
            dlc: What ``convert`` or ``quantize`` wrote.
            out_path: The ``.bin`` to write.
            graph_name: Name of the graph in it: the stem of the file that ``convert`` wrote; that of ``dlc`` when
                absent.
            vtcm_mb: Fast memory of the NPU that the graph may use, in MB; when 0, the 8 of a Hexagon v73, and of
                others what the compiler takes.
            graph_optimization: 0 to 3, the fastest graph.

        Raises:
            ConfigError: ``out_path`` is no ``.bin``.
            ToolError: The compiler failed.
        """
        if out_path.suffix != ".bin":
            raise ConfigError(f"{out_path}: expected a name that ends with .bin.")
        libraries = self.root / "lib" / _HOST
        with _scratch(out_path.parent) as folder:
            core = {"core_id": 0, "perf_profile": self.performance_mode, "rpc_control_latency": 100}
            fast_memory = vtcm_mb or _VTCM_MB.get(self.soc.hexagon)
            graph = {
                "graph_names": [graph_name or dlc.stem],
                **({"vtcm_mb": fast_memory} if fast_memory else {}),
                "O": graph_optimization,
            }
            htp = {
                "graphs": [graph],
                "devices": [
                    {
                        "soc_id": self.soc.soc_model,
                        "dsp_arch": self.soc.hexagon,
                        "pd_session": "unsigned",
                        "cores": [core],
                    }
                ],
            }
            (folder / "htp.json").write_text(json.dumps(htp))
            extensions = {
                "backend_extensions": {
                    "shared_library_path": str(libraries / "libQnnHtpNetRunExtensions.so"),
                    "config_file_path": str(folder / "htp.json"),
                }
            }
            (folder / "config.json").write_text(json.dumps(extensions))
            command = [
                *("--dlc_path", str(dlc.resolve()), "--model", str(libraries / "libQnnModelDlc.so")),
                *("--backend", str(libraries / "libQnnHtp.so")),
                *("--binary_file", out_path.stem, "--output_dir", str(folder)),
                *("--config_file", str(folder / "config.json")),
            ]
            self._host("qnn-context-binary-generator", command, folder)
            return _take("qnn-context-binary-generator", folder / out_path.name, out_path)

    # ----------------------------------------------------------------------------------------------------------
    # On the device

    def require_device(self, serial: str | None = None) -> str:
        """Check adb, the device, the SDK's files for it, and that the SDK's converter starts.

        Args:
            serial: The device's serial number; ANDROID_SERIAL or the only device when absent.

        Returns:
            The serial number.

        Raises:
            ConfigError: What is missing.
        """
        if shutil.which("adb") is None:
            raise ConfigError("adb is not on the PATH: install Android's platform-tools.")
        lines = _run(["adb", "devices"], "adb devices", _ADB_SECONDS).splitlines()
        # The daemon that it starts prints lines of its own, without a tab
        states = dict(line.strip().split("\t", 1) for line in lines if "\t" in line)
        seen = ", ".join(f"{name} ({state})" for name, state in states.items()) or "none"
        wanted = serial or os.environ.get("ANDROID_SERIAL")
        ready = [name for name, state in states.items() if state == "device" and wanted in (None, name)]
        if len(ready) != 1:
            expected = f"the device {wanted}" if wanted else "one device (or ANDROID_SERIAL, to choose)"
            raise ConfigError(f"adb: expected {expected}, ready and authorized; found {seen}.")
        self._require(self._device_files(self._platform(ready[0])))
        self._require_converter()
        return ready[0]

    def run(
        self, context: Path, onnx_path: Path, images: np.ndarray, serial: str | None = None
    ) -> tuple[np.ndarray, DeviceProfile]:
        """Run a context binary on the device with ``qnn-net-run``.

        Times are of the whole call to QNN, one image at a time. The cycles of the layers come from a
        second run on one image, because counting them slows the first one down.

        Args:
            context: What ``compile`` wrote.
            onnx_path: The graph that it was made of, for its names.
            images: Rescaled float32 images (N, H, W, C), N >= 1.
            serial: The device's serial number; ANDROID_SERIAL or the only device when absent.

        Returns:
            float32 (N, D), exactly what the graph puts out, and the times.

        Raises:
            ConfigError: Something is missing, or the graph takes batches.
            ToolError: A command failed on the device, or what came back is not from an NPU.
        """
        graph = require_single(onnx_path)
        serial = self.require_device(serial)
        remote = f"{_DEVICE_FOLDER}/qnn_{secrets.token_hex(8)}"
        with tempfile.TemporaryDirectory(prefix="qnn_") as name:
            folder = Path(name)
            _write_images(folder, graph.input_name, images, remote)
            single = (folder / "inputs.txt").read_text().splitlines()[0]
            (folder / "first.txt").write_text(f"{single}\n")
            try:
                self._adb(serial, "shell", f"mkdir -p {remote}")
                files = [self.root / file for file in self._device_files(self._platform(serial))]
                inputs = [folder / "inputs.txt", folder / "first.txt", *sorted(folder.glob("*.raw"))]
                self._adb(serial, "push", *map(str, (*files, context, *inputs)), remote)
                for output, inputs_list, level in (
                    ("timed", "inputs.txt", "basic"),
                    ("counted", "first.txt", "detailed"),
                ):
                    self._net_run(serial, remote, context.name, inputs_list, output, level)
                    self._adb(serial, "pull", f"{remote}/{output}", str(folder / output))
            finally:
                self._adb(serial, "shell", f"rm -rf {remote}")
            embeddings = np.stack([_read_result(folder / "timed", i, graph) for i in range(len(images))])
            times, _ = read_profile(self._view(folder / "timed"))
            _, layers = read_profile(self._view(folder / "counted"))
        device = f"{self._model(serial)} ({serial})"
        return embeddings, DeviceProfile(device, "qnn-net-run over adb", times, None, layers)

    def _net_run(self, serial: str, remote: str, context: str, inputs: str, output: str, level: str) -> None:
        command = shlex.join(
            [
                *("./qnn-net-run", "--backend", "libQnnHtp.so", "--retrieve_context", context),
                *("--input_list", inputs, "--output_dir", output),
                *("--profiling_level", level, "--perf_profile", self.performance_mode),
            ]
        )
        search = f"LD_LIBRARY_PATH={remote} ADSP_LIBRARY_PATH={remote}"
        self._adb(
            serial,
            "shell",
            f"cd {remote} && chmod +x qnn-net-run && {search} {command}",
            seconds=_TOOL_SECONDS,
        )

    def _view(self, folder: Path) -> str:
        log, table = folder / "qnn-profiling-data_0.log", folder / "profile.csv"
        if not log.is_file():
            raise ToolError(f"qnn-net-run wrote no {log.name}.")
        self._host("qnn-profile-viewer", ["--input_log", str(log), "--output", str(table)], folder)
        return table.read_text(encoding="utf-8")

    def _platform(self, serial: str) -> str:
        """Folder of the SDK for the device's system: Android, or Qualcomm's Linux."""
        system = self._adb(serial, "shell", "uname -o").strip()
        if system == "Android":
            return _ANDROID
        folders = sorted((self.root / "bin").glob(_LINUX))
        return folders[-1].name if folders else _LINUX

    def _model(self, serial: str) -> str:
        words = self._adb(serial, "shell", "getprop ro.soc.model || cat /sys/devices/soc0/machine").split()
        return words[0] if words else "unknown chip"

    def _device_files(self, platform: str) -> tuple[str, ...]:
        version = self.soc.hexagon.upper()
        libraries = ("libQnnHtp.so", "libQnnSystem.so", f"libQnnHtp{version}Stub.so")
        return (
            f"bin/{platform}/qnn-net-run",
            *(f"lib/{platform}/{library}" for library in libraries),
            f"lib/hexagon-{self.soc.hexagon}/unsigned/libQnnHtp{version}Skel.so",
        )

    # ----------------------------------------------------------------------------------------------------------
    # Processes

    def _require(self, files: Sequence[str]) -> None:
        missing = [file for file in files if not (self.root / file).is_file()]
        if missing:
            raise ConfigError(
                f"QAIRT SDK: {self.root} lacks {', '.join(missing)}. Expected a complete SDK for Linux x86-64; "
                "check QAIRT_SDK_ROOT."
            )

    def _require_converter(self) -> None:
        """It is a Python program, and the packages that it imports are not in the SDK."""
        try:
            with tempfile.TemporaryDirectory(prefix="qairt_") as folder:
                self._host("qairt-converter", ["--help"], Path(folder), _START_SECONDS)
        except ToolError as error:
            raise ConfigError(
                f"QAIRT SDK: the tools of {self.root} do not start. Install what they need into the Python that they "
                f"run in (bin/check-python-dependency of the SDK), then try `qairt-converter --help`. {error}"
            ) from error

    def _target(self) -> tuple[str, ...]:
        return ("--target_backend", "HTP", "--target_soc_model", self.soc.name)

    def _host(self, tool: str, arguments: Sequence[str], folder: Path, seconds: int | None = None) -> None:
        """Run a host tool as the SDK's own envsetup.sh would, which puts the SDK before the user's paths."""
        own = {"PYTHONPATH": self.root / "lib" / "python", "LD_LIBRARY_PATH": self.root / "lib" / _HOST}
        paths = {
            name: os.pathsep.join(filter(None, (str(path), os.environ.get(name))))
            for name, path in own.items()
        }
        roots = {"QAIRT_SDK_ROOT": str(self.root), "QNN_SDK_ROOT": str(self.root)}
        command = [str(self.root / "bin" / _HOST / tool), *arguments]
        _run(command, tool, seconds or _TOOL_SECONDS, folder, {**os.environ, **roots, **paths})

    def _adb(self, serial: str, *arguments: str, seconds: int = _ADB_SECONDS) -> str:
        seconds = _TOOL_SECONDS if arguments[0] in ("push", "pull") else seconds
        return _run(["adb", "-s", serial, *arguments], f"adb {arguments[0]}", seconds)


def read_profile(text: str) -> tuple[tuple[float, ...], tuple[LayerTime, ...]]:
    """Read the table of ``qnn-profile-viewer``.

    Returns:
        Milliseconds of each inference, and one row an operator with its cycles where the level was detailed.

    Raises:
        ToolError: The table has no inference, or says that no hardware ran: the emulator uses no vector thread.
    """
    times: list[float] = []
    layers: dict[str, LayerTime] = {}
    for row in csv.DictReader(text.splitlines()):
        identifier = (row.get("Event Identifier") or "").strip()
        if identifier == "Number of HVX threads used" and float(row["Time"]) == 0:
            raise ToolError(
                "The profile counts no vector thread: it comes from the emulator, not from an NPU."
            )
        if identifier == "QNN (execute) time" and row["Unit of Measurement"] == "US":
            times.append(float(row["Time"]) / 1e3)
        operator = re.fullmatch(r"(.+):OpId_\d+ \(cycles\)", identifier)
        if operator:
            layers[identifier] = LayerTime(operator[1], "", "NPU", cycles=int(row["Time"]))
    if not times:
        raise ToolError("The profile holds no 'QNN (execute) time' in US.")
    return tuple(times), tuple(layers.values())


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder on the same disk as the result, so that a rename completes it."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".qairt_", dir=parent.resolve()) as name:
        yield Path(name)


def _take(tool: str, written: Path, target: Path) -> Path:
    if not written.is_file():
        raise ToolError(f"{tool} reported success but wrote no {written.name}.")
    written.replace(target)
    return target


def _write_images(folder: Path, input_name: str, images: np.ndarray, seen_as: str | None = None) -> Path:
    """Raw float32 files and their list, one inference a line."""
    if images.ndim != 4 or images.dtype != np.float32 or not len(images):
        raise ValueError(
            f"Expected float32 images (N, H, W, C), N >= 1; received {images.dtype} {images.shape}."
        )
    lines = []
    for index, image in enumerate(images):
        path = folder / f"image_{index:05}.raw"
        np.ascontiguousarray(image).tofile(path)
        lines.append(f"{input_name}:={f'{seen_as}/{path.name}' if seen_as else path}")
    inputs = folder / "inputs.txt"
    inputs.write_text("\n".join(lines) + "\n")
    return inputs


def _read_result(folder: Path, index: int, graph: OnnxFile) -> np.ndarray:
    files = sorted((folder / f"Result_{index}").glob("*.raw"))
    named = [path for path in files if path.stem == graph.output_name] or files
    values = np.fromfile(named[0], np.float32) if len(named) == 1 else np.empty(0, np.float32)
    if values.size != graph.embedding_dim:
        raise ToolError(
            f"qnn-net-run: expected {graph.embedding_dim} float32 values of '{graph.output_name}' for image {index}; "
            f"found {[(path.name, path.stat().st_size // 4) for path in files]}."
        )
    return values


def _run(
    command: Sequence[str],
    name: str,
    seconds: int,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command and return what it printed; ToolError with its last words when it fails."""
    with tempfile.TemporaryDirectory(prefix="log_") as logs:
        log = Path(logs) / "log.txt"
        code = run_logged(command, name, seconds, log, folder, environment)
        if code:
            raise ToolError(f"{name} ended with code {code}. It said:\n{last_words(log)}")
        return log.read_text(errors="replace")
