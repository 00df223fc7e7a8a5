from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from common.runtime import Runtime


def host_latency(
    embedder: Runtime, images: np.ndarray, runs: int = 100, warmup: int = 10
) -> dict[str, float]:
    """Time one image at a time on the host CPU, from array to embedding.

    Args:
        embedder: An open model that runs on the CPU.
        images: float32 (N, H, W, C), N >= 1; used in turn, so that caches do not see one image only.
        runs: Timed calls.
        warmup: Calls before them.

    Returns:
        ``p50_ms``, ``p90_ms``, ``p99_ms``, ``mean_ms``, and how they were taken: ``runs``, ``threads``.

    Raises:
        ValueError: The embedder is the HTP emulator, whose time is no latency, or takes batches only,
            or a count is too low.
    """
    if embedder.name == "qnn_htp_emulator":
        raise ValueError(
            "The time of the HTP emulator is host time for emulation, not latency: do not measure it."
        )
    if embedder.static_batch and embedder.batch_size > 1:
        raise ValueError(
            f"Latency is measured with batch 1, but the model takes {embedder.batch_size} images only. "
            "Export it with batch 1."
        )
    if runs < 1 or warmup < 0 or len(images) < 1:
        raise ValueError(
            f"Expected runs >= 1, warmup >= 0 and one image; received {runs}, {warmup}, {len(images)}."
        )
    milliseconds = np.empty(runs)
    for run in range(-warmup, runs):
        image = images[run % len(images)][None]
        start = time.perf_counter()
        embedder.embed(image)
        elapsed = time.perf_counter() - start
        if run >= 0:
            milliseconds[run] = 1000 * elapsed
    return {**percentiles(milliseconds), "threads": embedder.threads}


def percentiles(milliseconds: Sequence[float] | np.ndarray) -> dict[str, float]:
    """``p50_ms``, ``p90_ms``, ``p99_ms``, ``mean_ms`` and ``runs`` of the times of single images."""
    p50, p90, p99 = np.percentile(milliseconds, (50, 90, 99))
    return {
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "mean_ms": float(np.mean(milliseconds)),
        "runs": len(milliseconds),
    }
