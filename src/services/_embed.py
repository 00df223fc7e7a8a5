"""Images to L2-normalised embeddings with any runtime, for the services that compare models."""

import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from common.run import progress
from common.runtime import Runtime
from common.runtime.htp_emulator import HtpEmulator
from src.data.pipeline import evaluation_batches
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample

_LOGGER = logging.getLogger(__name__)


def embed(
    function: Callable[[np.ndarray], np.ndarray],
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    batch_size: int,
    description: str,
) -> np.ndarray:
    """Embed all samples in order.

    Args:
        function: Rescaled images (n, H, W, C) to embeddings (n, D).
        samples: N samples.
        preprocessing: From file to rescaled image.
        batch_size: Images at once.
        description: Shown beside the progress bar.

    Returns:
        (N, D) float32 with rows of length 1.
    """
    parts = []
    with progress(description, len(samples), "images") as advance:
        for images in evaluation_batches(samples, preprocessing, batch_size).as_numpy_iterator():
            parts.append(function(images))
            advance(len(images))
    return l2_normalize(np.concatenate(parts))


def embed_with(
    runtime: Runtime,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    batch_size: int,
    description: str,
) -> np.ndarray:
    """As `embed`, with an open model; the slow emulator says after its first batch how long all will take."""
    if runtime.name != HtpEmulator.name:
        return embed(runtime.embed, samples, preprocessing, batch_size, description)
    announced = False

    def timed(images: np.ndarray) -> np.ndarray:
        nonlocal announced
        start = perf_counter()
        embeddings = runtime.embed(images)
        if not announced:
            announced = True
            seconds = (perf_counter() - start) / len(images) * len(samples)
            duration = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
            _LOGGER.info("%s: emulating %d images takes about %s", description, len(samples), duration)
        return embeddings

    return embed(timed, samples, preprocessing, runtime.batch_size, description)


def l2_normalize(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their length; a zero row stays zero."""
    lengths: Any = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
