from __future__ import annotations

from pathlib import Path

import numpy as np

from common.config import ConfigError
from common.run import usable_cores
from common.runtime._runtime import Runtime
from common.runtime.onnx_file import inspect_onnx


class OnnxRuntime(Runtime):
    """An ONNX model, float or QDQ, on ONNX Runtime's CPU provider."""

    name = "onnxruntime_cpu"

    def __init__(self, path: Path, threads: int | None = None, batch_size: int = 16) -> None:
        import onnxruntime

        self._file = inspect_onnx(path)
        self.input_shape = self._file.input_shape
        self.embedding_dim = self._file.embedding_dim
        self.precision = self._file.precision
        self.static_batch = self._file.batch is not None
        self.batch_size = self._file.batch or batch_size
        self.threads = threads or usable_cores()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base class
            raise ConfigError(f"ONNX Runtime cannot load {path}: {error}") from error

    def _embed_batch(self, images: np.ndarray) -> np.ndarray:
        if self._file.channels_first:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))  # (B, H, W, C) -> (B, C, H, W)
        return self._session.run([self._file.output_name], {self._file.input_name: images})[0]

    def close(self) -> None:
        """Free the session."""
        del self._session
