from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from common.config import ConfigError
from common.run import usable_cores
from common.runtime._runtime import EMBEDDING_OUTPUT, Runtime, embedding_length
from common.runtime.keras_file import load_network

_LOGGER = logging.getLogger(__name__)


class KerasRuntime(Runtime):
    """A ``.keras`` model; of a training network the output called ``embedding`` is used.

    Of a model with several inputs one is used, with the output of the same name.
    """

    name = "keras"

    def __init__(
        self, path: Path, threads: int | None = None, batch_size: int = 64, input_name: str = ""
    ) -> None:
        import tensorflow as tf

        self.threads = _set_threads(tf, threads)
        model = load_network(path)
        if input_name:
            model = _of_one_input(model, input_name, path)
        self.input_shape = _image_shape(model, path)
        self.embedding_dim = embedding_length(_embedding(model.output, path).shape, path)
        self.precision = "float32"  # weights; a mixed policy only changes the type of computation
        self.batch_size = batch_size

        # One traced signature for every batch size; XLA, which Keras's predict would choose, is slow on a CPU
        @tf.function(
            input_signature=[tf.TensorSpec((None, *self.input_shape), tf.float32)], jit_compile=False
        )
        def forward(images: Any) -> Any:
            return tf.cast(_embedding(model(images, training=False), path), tf.float32)

        self._forward = forward

    def _embed_batch(self, images: np.ndarray) -> np.ndarray:
        return self._forward(images).numpy()

    def close(self) -> None:
        """Free the model."""
        del self._forward


def _set_threads(tf: Any, threads: int | None) -> int:
    """Threads in use: those asked for only if TensorFlow has not started, for then it is too late."""
    if threads is not None:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        except RuntimeError:
            _LOGGER.warning("TensorFlow has already started: it keeps its threads instead of %d", threads)
    return tf.config.threading.get_intra_op_parallelism_threads() or usable_cores()


def _of_one_input(model: Any, name: str, path: Path) -> Any:
    import keras

    for what in ("input", "output"):
        parts = getattr(model, what, None)
        if not isinstance(parts, dict) or name not in parts:
            found = sorted(parts) if isinstance(parts, dict) else "one without a name"
            raise ConfigError(f"{path}: expected an {what} called '{name}'; found {found}.")
    return keras.Model(model.input[name], model.output[name], name=f"{model.name}_{name}")


def _image_shape(model: Any, path: Path) -> tuple[int, int, int]:
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise ConfigError(
            f"{path}: expected one input of shape (N, H, W, C) with fixed H, W, C; found {shape}."
        )
    _, height, width, channels = shape
    return height, width, channels


def _embedding(output: Any, path: Path) -> Any:
    if isinstance(output, dict):
        if EMBEDDING_OUTPUT not in output:
            raise ConfigError(
                f"{path}: expected an output called '{EMBEDDING_OUTPUT}'; found {sorted(output)}."
            )
        return output[EMBEDDING_OUTPUT]
    if isinstance(output, list | tuple):
        raise ConfigError(
            f"{path}: expected one output or a dict with '{EMBEDDING_OUTPUT}'; found {len(output)}."
        )
    return output
