from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common.config import ConfigError
from common.runtime._runtime import Runtime


def open_model(path: Path, threads: int | None = None, input_name: str = "") -> Runtime:
    """Open a model file as ``embed(images) -> embeddings``, whatever its format.

    Args:
        path: ``.keras``, ``.tflite``, ``.onnx`` (float or QDQ, on ONNX Runtime's CPU provider), or a compiled
            QNN context: its wrapper ``.onnx`` or the folder that holds it, on Qualcomm's HTP emulator.
        threads: Host threads; None means one per core that this process may use. Keras takes them only before
            TensorFlow has started, and of the emulator they are processes. The attribute ``threads`` tells what is
            in use.
        input_name: Which input to use of a ``.keras`` with several (``image_inputs``).

    Returns:
        A ``Runtime``; use it as a context manager, or call ``close()``.

    Raises:
        ConfigError: The file is missing, has an unknown suffix, cannot be read, or is not an embedding model.
        ValueError: ``threads`` is below 1.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1; received {threads}.")
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"Model file not found: {path}. Expected {_expected()}.")
    if input_name:
        return _open_keras(path, threads, input_name)
    opener = _open_folder if path.is_dir() else _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise ConfigError(f"Cannot open {path}: unknown suffix '{path.suffix}'. Expected {_expected()}.")
    return opener(path, threads)


def _open_keras(path: Path, threads: int | None, input_name: str = "") -> Runtime:
    from common.runtime._keras import KerasRuntime

    return KerasRuntime(path, threads, input_name=input_name)


def _open_tflite(path: Path, threads: int | None) -> Runtime:
    from common.runtime._tflite import TFLiteRuntime

    return TFLiteRuntime(path, threads)


def _open_onnx(path: Path, threads: int | None) -> Runtime:
    from common.runtime.onnx_file import is_qnn_context

    if is_qnn_context(path):
        from common.runtime.htp_emulator import HtpEmulator

        return HtpEmulator(path, threads=threads)
    from common.runtime._onnxruntime import OnnxRuntime

    return OnnxRuntime(path, threads)


def _open_folder(folder: Path, threads: int | None) -> Runtime:
    from common.runtime.onnx_file import is_qnn_context

    wrappers = [path for path in sorted(folder.glob("*.onnx")) if is_qnn_context(path)]
    if len(wrappers) != 1:
        found = [path.name for path in wrappers] or "none"
        raise ConfigError(
            f"Cannot open the folder {folder}: expected exactly one QNN context (an .onnx file that wraps a "
            f"context binary) in it; found {found}. Give the path of the file itself."
        )
    return _open_onnx(wrappers[0], threads)


_OPENERS: dict[str, Callable[[Path, int | None], Runtime]] = {
    ".keras": _open_keras,
    ".tflite": _open_tflite,
    ".onnx": _open_onnx,
}


def _expected() -> str:
    return f"one of {', '.join(_OPENERS)}, or a folder with a compiled QNN context"
