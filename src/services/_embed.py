"""Images to L2-normalised embeddings with any model, for the services that compare models."""

import logging
from collections.abc import Sequence
from time import perf_counter

import numpy as np

from common.run import progress
from common.vectors import unit
from src.data.sample import Sample
from src.services._target import Opened
from src.training.validation import Embedding, Routes, embed_samples

_LOGGER = logging.getLogger(__name__)


def embed(routes: Routes, samples: Sequence[Sample], batch_size: int, description: str) -> np.ndarray:
    """Embed all samples in order, each through the route of its modality.

    Args:
        routes: Of the model.
        samples: N samples.
        batch_size: Images at once.
        description: Shown beside the progress bar.

    Returns:
        (N, D) float32 with rows of length 1.
    """
    with progress(description, len(samples), "images") as advance:
        return l2_normalize(embed_samples(routes, samples, batch_size, advance))


def embed_with(model: Opened, samples: Sequence[Sample], batch_size: int, description: str) -> np.ndarray:
    """As `embed`, with an open model; the slow emulator says after its first batch how long all will take."""
    if model.fixed_batch is None:
        return embed(model.routes, samples, batch_size, description)
    start = perf_counter()
    announced = False
    with progress(description, len(samples), "images") as advance:

        def timed(count: int) -> None:
            nonlocal announced
            advance(count)
            if not announced:
                announced = True
                seconds = (perf_counter() - start) / count * len(samples)
                duration = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
                _LOGGER.info("%s: emulating %d images takes about %s", description, len(samples), duration)

        return l2_normalize(embed_samples(model.routes, samples, model.fixed_batch, timed))


def with_mirror_image(embed: Embedding) -> Embedding:
    """Images (n, H, W, C) to the mean directions of an embedding of them and of their mirror images, of length 1."""

    def both(images: np.ndarray) -> np.ndarray:
        mirrored = np.ascontiguousarray(images[:, :, ::-1])
        return l2_normalize(l2_normalize(embed(images)) + l2_normalize(embed(mirrored)))

    return both


def l2_normalize(vectors: np.ndarray) -> np.ndarray:
    """Rows (N, D) divided by their length, as float32; a zero row stays zero."""
    return unit(vectors).astype(np.float32)
