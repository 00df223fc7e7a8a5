"""Resized pixels kept as uint8, in memory or in a file that later runs find again."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from src.data.preprocessing import Preprocessing
from src.data.sample import Sample

_LOGGER = logging.getLogger(__name__)


def cached_pixels(
    samples: Sequence[Sample], preprocessing: Preprocessing, batches: Iterator[np.ndarray], cache: Path | str
) -> np.ndarray:
    """Return all pixels, uint8 (len(samples), height, width, channels), decoding them at most once.

    Args:
        samples: The images.
        preprocessing: Part of the file's key.
        batches: The decoded images in order; only read when the cache is not there yet.
        cache: `memory`, or a folder: it gets one file per set of images and preprocessing, which is read
            through the page cache of the operating system and does not count as the program's memory.
    """
    shape = (len(samples), *preprocessing.input_shape)
    if cache == "memory":
        pixels = np.empty(shape, np.uint8)
        _fill(pixels, batches)
        return pixels
    path = Path(cache) / f"pixels_{_key(samples, preprocessing)}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _LOGGER.info("writing %.1f GB of resized images to %s", np.prod(shape, dtype=np.int64) / 1e9, path)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            written = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
            if hasattr(
                os, "posix_fallocate"
            ):  # a full disk is an error here, but a crash while pages are written
                with unfinished.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, unfinished.stat().st_size)
            _fill(written, batches)
            written.flush()
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def _fill(pixels: np.ndarray, batches: Iterator[np.ndarray]) -> None:
    start = 0
    for batch in batches:
        pixels[start : start + len(batch)] = batch
        start += len(batch)


def _key(samples: Sequence[Sample], preprocessing: Preprocessing) -> str:
    """Digest of what decides the pixels: the files, their sizes and times, and how they are resized."""
    p = preprocessing
    digest = hashlib.sha256(repr((p.input_shape, p.interpolation, p.aspect_ratio, p.color_mode)).encode())
    for sample in samples:
        status = sample.path.stat()
        digest.update(f"{sample.path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
