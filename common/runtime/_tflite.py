from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from common.config import ConfigError
from common.run import usable_cores
from common.runtime._runtime import Runtime, embedding_index, embedding_length

_LOGGER = logging.getLogger(__name__)


class TFLiteRuntime(Runtime):
    """A ``.tflite`` model on the host CPU; integer inputs and outputs are quantized and dequantized here."""

    name = "tflite"

    def __init__(self, path: Path, threads: int | None = None, batch_size: int = 8) -> None:
        self.threads = threads or usable_cores()
        self._path = path
        self._single = self._load()
        self._input = _only_input(self._single, path)
        outputs = self._single.get_output_details()
        self._output = outputs[embedding_index([output["name"] for output in outputs], path)]
        self.embedding_dim = embedding_length(self._output["shape"].tolist(), path)
        _, height, width, channels = (int(size) for size in self._input["shape"])
        self.input_shape = (height, width, channels)
        quantized = any(tensor["dtype"] == np.int8 for tensor in self._single.get_tensor_details())
        self.precision = "int8" if quantized else "float32"
        self._wide = self._widen(batch_size)
        self.batch_size = batch_size if self._wide else 1

    def _load(self) -> Any:
        """An interpreter for single images, without XNNPACK when it refuses scales that the kernels accept."""
        from ai_edge_litert.interpreter import OpResolverType

        self._resolver = OpResolverType.AUTO
        try:
            return self._allocate(batch_size=1)
        except (ValueError, RuntimeError) as error:
            self._resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            try:
                interpreter = self._allocate(batch_size=1)
            except (ValueError, RuntimeError):
                raise ConfigError(f"LiteRT cannot load {self._path}: {error}") from error
            _LOGGER.warning("%s runs without XNNPACK, which is slower: %s", self._path.name, error)
            return interpreter

    def _allocate(self, batch_size: int) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(
            model_path=str(self._path), num_threads=self.threads, experimental_op_resolver_type=self._resolver
        )
        if batch_size > 1:
            interpreter.resize_tensor_input(self._input["index"], (batch_size, *self.input_shape))
        interpreter.allocate_tensors()
        return interpreter

    def _widen(self, batch_size: int) -> Any | None:
        """An interpreter for batches, where the file allows: they keep several threads busy, images do not.

        A file converted with a fixed batch may accept the resize and then fail, or fold the batch into
        another axis, so a batch of noise must first give the embeddings that its images give one by one.
        """
        noise = np.random.default_rng(0).uniform(-1, 1, (batch_size, *self.input_shape)).astype(np.float32)
        try:
            wide = self._allocate(batch_size)
            together = self._invoke(wide, noise)
        except (ValueError, RuntimeError):
            return None
        one_by_one = np.concatenate([self._invoke(self._single, image[None]) for image in noise])
        same = together.shape == one_by_one.shape and np.allclose(together, one_by_one, rtol=1e-4, atol=1e-5)
        return wide if same else None

    def _invoke(self, interpreter: Any, images: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(self._input["index"], _quantize(images, self._input))
        interpreter.invoke()
        return _dequantize(interpreter.get_tensor(self._output["index"]), self._output)

    def _embed_batch(self, images: np.ndarray) -> np.ndarray:
        if self._wide and len(images) == self.batch_size:
            return self._invoke(self._wide, images)
        return np.concatenate([self._invoke(self._single, image[None]) for image in images])

    def close(self) -> None:
        """Free the interpreters."""
        del self._single, self._wide


def _only_input(interpreter: Any, path: Path) -> dict[str, Any]:
    inputs = interpreter.get_input_details()
    if len(inputs) != 1 or len(inputs[0]["shape"]) != 4:
        found = [(value["name"], tuple(value["shape"].tolist())) for value in inputs]
        raise ConfigError(f"{path}: expected one input of shape (N, H, W, C); found {found}.")
    return inputs[0]


def _quantize(images: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    """Integers q = round(x / scale) + zero_point, clipped to the integer type; float inputs pass."""
    if tensor["dtype"] == np.float32:
        return images
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.rint(images / scale) + zero_point, limits.min, limits.max).astype(tensor["dtype"])


def _dequantize(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    """Reals x = (q - zero_point) * scale; float outputs pass."""
    if tensor["dtype"] == np.float32:
        return values
    scale, zero_point = tensor["quantization"]
    return (values.astype(np.float32) - zero_point) * np.float32(scale)
