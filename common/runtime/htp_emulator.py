from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from common.config import ConfigError, ToolError
from common.run import python_environment, usable_cores
from common.runtime._htp_worker import from_bytes, read_message, to_bytes, write_message
from common.runtime._runtime import Runtime
from common.runtime.onnx_file import SOC_KEY, inspect_onnx
from common.runtime.qnn_session import last_words, require_qnn
from common.socs import soc_named

DEFAULT_SOC = "QCS8550"


class HtpEmulator(Runtime):
    """A compiled QNN context, or a QDQ graph, on Qualcomm's x86-64 emulator of the HTP.

    It says what the integer graph computes. It says nothing of latency: its time is host time for emulation.
    Each worker is a process, so a crash of the QNN libraries is an error here and not the end of the run.
    """

    name = "qnn_htp_emulator"

    def __init__(self, path: Path, soc: str | None = None, threads: int | None = None) -> None:
        """Start the workers.

        Args:
            path: Wrapper ``.onnx`` of a context, or a QDQ ``.onnx`` with static batch.
            soc: Chip to prepare a QDQ graph for; of a context, the chip that it was compiled for is used.
            threads: Worker processes, each on about one core with 0.2 to 0.5 GB; None means one per core, at
                most four.

        Raises:
            ConfigError: onnxruntime-qnn is missing, or the graph does not run on the HTP entirely.
        """
        require_qnn()
        self._file = inspect_onnx(path)
        if self._file.batch is None:
            raise ConfigError(
                f"{path}: the HTP needs static shapes, but the batch is free. Export with batch 1."
            )
        self.input_shape = self._file.input_shape
        self.embedding_dim = self._file.embedding_dim
        self.precision = self._file.precision
        self.soc = soc_named(self._file.metadata.get(SOC_KEY) or soc or DEFAULT_SOC)
        self.threads = threads or min(usable_cores(), 4)
        self.batch_size = self._file.batch * self.threads
        self.static_batch = self._file.batch > 1
        self._path = path.resolve()
        self._folder = tempfile.TemporaryDirectory(prefix="htp_emulator_")
        self._workers: list[subprocess.Popen[bytes]] = []
        try:
            self._workers = [self._start(index) for index in range(self.threads)]
            for index in range(self.threads):
                error = self._receive(index)
                if error:
                    raise ConfigError(f"{path} does not run on the HTP of {self.soc.name}: {error.decode()}")
        except BaseException:
            self.close()
            raise

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        folder = Path(self._folder.name)
        with (folder / f"worker_{index}.log").open("wb") as log:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "common.runtime._htp_worker",
                    str(self._path),
                    str(self.soc.soc_model),
                ],
                cwd=folder,  # the libraries drop files into the working folder
                env=python_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def _receive(self, index: int) -> bytes:
        worker = self._workers[index]
        assert worker.stdout is not None
        payload = read_message(worker.stdout)
        if payload is None:
            raise ToolError(
                f"The HTP emulator ended with code {worker.wait()} while it held {self._path}. It said:\n"
                f"{last_words(Path(self._folder.name) / f'worker_{index}.log')}"
            )
        return payload

    def _embed_batch(self, images: np.ndarray) -> np.ndarray:
        if self._file.channels_first:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))  # (B, H, W, C) -> (B, C, H, W)
        assert self._file.batch is not None
        shares = [
            images[start : start + self._file.batch] for start in range(0, len(images), self._file.batch)
        ]
        for worker, share in zip(self._workers, shares, strict=False):
            assert worker.stdin is not None
            with contextlib.suppress(
                OSError
            ):  # a dead worker is reported, with its log, when its answer is read
                write_message(worker.stdin, to_bytes(share))
        return np.concatenate([from_bytes(self._receive(index)) for index in range(len(shares))])

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            if worker.stdin is not None:
                with contextlib.suppress(OSError):
                    worker.stdin.close()
            if worker.stdout is not None:
                worker.stdout.close()
            try:
                worker.wait(timeout=10)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self._workers = []
        self._folder.cleanup()
