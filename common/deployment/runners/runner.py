"""Image to embedding with this package alone: `python runner.py IMAGE [IMAGE ...]`.

Needs Python 3.10 or newer with numpy, pillow and onnxruntime. Where onnxruntime-qnn is installed, the compiled context
runs on the NPU (on x86-64: on Qualcomm's emulator of it), without a fallback; elsewhere, or with `--cpu`, the INT8 ONNX
graph runs on the CPU. Prints one line of JSON an image: file, where it ran, and the L2-normalised embedding.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

_PROVIDER = "QNNExecutionProvider"
_MODES = {"gray": "RGB", "rgb": "RGB", "rgba": "RGBA"}
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601


def main() -> int:
    """Embed the images that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", type=Path, help="JPEG, PNG or BMP: the crop of one person")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU though onnxruntime-qnn is there")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the QNN libraries print to stdout, which is for JSON
    images = [path.resolve() for path in arguments.images]
    package = Path(__file__).resolve().parent
    preprocessing = _only_input(json.loads((package / "preprocessing.json").read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # the QNN libraries drop files into the working folder
        session, output, runs_on = open_session(package, arguments.cpu)
        for path in images:
            pixels = _read(path, preprocessing)
            vector = session.run([output], {preprocessing["name"]: pixels[None]})[0][0]
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
            answer = {"image": str(path), "runs_on": runs_on, "embedding": [float(value) for value in vector]}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
        os.chdir(package)
    return 0


def _read(path: Path, preprocessing: dict[str, Any]) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return preprocess(image, preprocessing)
    except OSError as error:
        raise SystemExit(f"{path}: expected a JPEG, PNG or BMP image: {error}") from error


def _only_input(preprocessing: dict[str, Any]) -> dict[str, Any]:
    inputs = preprocessing["inputs"]
    if len(inputs) != 1:
        raise SystemExit(f"preprocessing.json: expected one input, found {[part['name'] for part in inputs]}")
    return inputs[0]


def open_session(package: Path, cpu: bool = False) -> tuple[Any, str, str]:
    """Open the package's model; returns the session, the name of its output, and where it runs: `qnn_htp`,
    `qnn_htp_emulator` or `onnxruntime_cpu`.
    """
    manifest = json.loads((package / "package.json").read_text(encoding="utf-8"))
    files, chip, output = manifest["files"], manifest["chip"], manifest["output"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if cpu or importlib.util.find_spec("onnxruntime_qnn") is None:
        path = str(package / files["onnx"])
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        return session, output, "onnxruntime_cpu"
    import onnxruntime_qnn

    onnxruntime.register_execution_provider_library(_PROVIDER, onnxruntime_qnn.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == _PROVIDER]
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_provider_for_devices(
        devices,
        {
            "backend_type": "htp",
            "soc_model": str(chip["soc_model"]),
            "htp_performance_mode": chip["performance_mode"],
            "offload_graph_io_quantization": "0",
        },
    )
    try:
        session = onnxruntime.InferenceSession(
            str(package / files["qnn_context"]), options, enable_fallback=0
        )
    except Exception as error:
        raise SystemExit(
            f"the context for {chip['name']} does not run here: {error}\n--cpu runs on the CPU"
        ) from error
    is_host = platform.machine().lower() in ("x86_64", "amd64")
    return session, output, "qnn_htp_emulator" if is_host else "qnn_htp"


def preprocess(image: Image.Image, to: dict[str, Any]) -> np.ndarray:
    """An image of any size and mode as the model's input, float32 (H, W, C), or (C, H, W) where the layout says so."""
    pixels = np.asarray(image.convert(_MODES[to["color_order"].lower()]))
    if to["color_order"].lower() == "gray":
        pixels = np.rint(pixels.astype(np.float32) @ _LUMA)[..., None].astype(np.uint8)
    pixels = _fit(pixels, to["height"], to["width"], to["aspect_ratio"], to["interpolation"])
    values = pixels.astype(np.float32) * np.float32(to["scale"]) + np.float32(to["offset"])
    return np.ascontiguousarray(values.transpose(2, 0, 1)) if to["layout"] == "NCHW" else values


def _fit(pixels: np.ndarray, height: int, width: int, aspect_ratio: str, interpolation: str) -> np.ndarray:
    """uint8 (h, w, C) to uint8 (height, width, C): `fit` distorts, `crop` cuts the centre, `padding` adds black."""
    rows, columns = pixels.shape[:2]
    if aspect_ratio == "crop":
        kept_rows = min(max(_round_div(columns * height, width), 1), rows)
        kept_columns = min(max(_round_div(rows * width, height), 1), columns)
        top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
        pixels = pixels[top : top + kept_rows, left : left + kept_columns]
    if aspect_ratio != "padding":
        return _resize(pixels, height, width, interpolation)
    inner_rows = min(max(_round_div(rows * width, columns), 1), height)
    inner_columns = min(max(_round_div(columns * height, rows), 1), width)
    top, left = (height - inner_rows) // 2, (width - inner_columns) // 2
    framed = np.zeros((height, width, pixels.shape[2]), np.uint8)
    inner = _resize(pixels, inner_rows, inner_columns, interpolation)
    framed[top : top + inner_rows, left : left + inner_columns] = inner
    return framed


def _round_div(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _resize(pixels: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """Resize without anti-aliasing, rounded to uint8; every method is one matrix for rows and one for columns."""
    if pixels.shape[:2] == (height, width):
        return pixels
    rows = _weights(pixels.shape[0], height, interpolation)
    columns = _weights(pixels.shape[1], width, interpolation)
    values = np.einsum("ih,hwc,jw->ijc", rows, pixels.astype(np.float64), columns, optimize=True)
    return np.clip(np.rint(values.astype(np.float32)), 0, 255).astype(np.uint8)


def _weights(source: int, target: int, interpolation: str) -> np.ndarray:
    """Share of each of `source` pixels in each of `target` pixels, (target, source); rows sum to 1."""
    ratio, pixels = source / target, np.arange(source)
    if interpolation == "nearest":
        nearest = np.minimum(np.floor((np.arange(target) + 0.5) * ratio), source - 1)
        return (pixels == nearest[:, None]).astype(np.float64)
    if interpolation == "area":
        start = np.arange(target)[:, None] * ratio
        weights = np.clip(np.minimum(start + ratio, pixels + 1) - np.maximum(start, pixels), 0, None)
    else:
        centres = (np.arange(target)[:, None] + 0.5) * ratio
        radius, kernel = _KERNELS[interpolation]
        distance = np.abs(pixels + 0.5 - centres)
        weights = np.where(distance < radius, kernel(distance), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _lanczos(radius: int) -> tuple[float, Callable[[np.ndarray], np.ndarray]]:
    return radius, lambda x: np.sinc(x) * np.sinc(x / radius)


_KERNELS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1, lambda x: 1 - x),
    "bicubic": (2, lambda x: np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2)),
    "lanczos3": _lanczos(3),
    "lanczos5": _lanczos(5),
    "gaussian": (1.5, lambda x: np.exp(-2 * x * x)),
    "mitchellcubic": (
        2,
        lambda x: (
            np.where(x < 1, (7 * x - 12) * x * x + 16 / 3, ((12 - 7 / 3 * x) * x - 20) * x + 32 / 3) / 6
        ),
    ),
}
"""Reach in pixels, and weight by distance (Keys' cubic with a = -0.5; Mitchell and Netravali's with 1/3, 1/3)."""


if __name__ == "__main__":
    sys.exit(main())
