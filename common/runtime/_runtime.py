from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np

from common.config import ConfigError

EMBEDDING_OUTPUT = "embedding"


class Runtime(ABC):
    """A loaded model that turns images into embeddings.

    Attributes:
        name: Where the numbers come from: ``keras``, ``tflite``, ``onnxruntime_cpu`` or ``qnn_htp_emulator``.
        input_shape: Shape (H, W, C) of one image, channels last whatever the file itself uses.
        embedding_dim: Length D of one embedding.
        precision: ``float32``, ``float16`` or ``int8``, as found in the file.
        threads: Host threads in use.
        batch_size: Images sent through the model at once.
        static_batch: Whether the file accepts exactly ``batch_size`` images; the last batch is then padded.
    """

    name: str
    input_shape: tuple[int, int, int]
    embedding_dim: int
    precision: str
    threads: int
    batch_size: int
    static_batch: bool = False

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Embed rescaled images.

        Args:
            images: float32 (N, H, W, C), in the range that the model was trained with. N may be 0.

        Returns:
            float32 (N, D), exactly what the model puts out: not normalised.

        Raises:
            ValueError: The images have another shape or type.
        """
        if images.ndim != 4 or images.shape[1:] != self.input_shape or images.dtype != np.float32:
            expected = f"(N, {', '.join(map(str, self.input_shape))})"
            raise ValueError(
                f"The {self.name} model expects float32 images of shape {expected}; "
                f"received {images.dtype} {images.shape}."
            )
        embeddings = np.empty((len(images), self.embedding_dim), np.float32)
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            size = len(batch)
            if self.static_batch and size < self.batch_size:
                batch = np.concatenate([batch, np.repeat(batch[-1:], self.batch_size - size, axis=0)])
            embeddings[start : start + size] = self._embed_batch(batch)[:size]
        return embeddings

    @abstractmethod
    def _embed_batch(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, C) -> (B, D), with B at most (static batch: exactly) ``batch_size``."""

    @abstractmethod
    def close(self) -> None:
        """Free what the model holds; ``embed`` must not be called afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def embedding_index(names: Sequence[str], source: object) -> int:
    """Position of the output that holds the embedding: the only one or that called ``embedding``, else ConfigError."""
    if len(names) == 1:
        return 0
    # TFLite and ONNX exporters decorate names, e.g. StatefulPartitionedCall_1:0 or model/embedding/mul
    found = [i for i, name in enumerate(names) if EMBEDDING_OUTPUT in name.split(":")[0].split("/")]
    if len(found) != 1:
        raise ConfigError(
            f"{source}: expected one output, or exactly one called '{EMBEDDING_OUTPUT}'; found {list(names)}."
        )
    return found[0]


def embedding_length(shape: Sequence[object], source: object) -> int:
    """D of an output of shape (N, D); ConfigError where it has another one."""
    if len(shape) != 2 or not isinstance(shape[1], int) or shape[1] < 1:
        raise ConfigError(
            f"{source}: expected an output of shape (N, D) with a fixed D; found {tuple(shape)}."
        )
    return int(shape[1])
