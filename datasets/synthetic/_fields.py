"""Random fields that are expensive to draw once per image: cut a random window out of a large one instead."""

from functools import cache

import cv2
import numpy as np

_SIDE = 1024


@cache
def _clouds() -> np.ndarray:
    rng = np.random.default_rng(20)
    total = np.zeros((_SIDE, _SIDE), np.float32)
    for octave in range(3, 8):
        coarse = rng.standard_normal((2**octave, 2**octave), dtype=np.float32)
        total += np.asarray(
            cv2.resize(coarse, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC), np.float32
        ) / 2 ** (0.7 * (octave - 3))
    return (total - total.mean()) / total.std()


@cache
def _grain() -> np.ndarray:
    return np.random.default_rng(21).standard_normal((_SIDE // 2, _SIDE // 2, 3), dtype=np.float32)


def clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a smooth random field, H x W float32 of mean 0 and variance about 1."""
    row, column = rng.integers(_SIDE - height), rng.integers(_SIDE - width)
    return _clouds()[row : row + height, column : column + width]


def grain(rng: np.random.Generator, height: int, width: int, frame: int = 0) -> np.ndarray:
    """Return white noise, H x W x 3 float32 of variance 1; another `frame` gives other noise."""
    row = int(rng.integers(_SIDE // 2 - height) + 61 * frame) % (_SIDE // 2 - height)
    column = int(rng.integers(_SIDE // 2 - width) + 97 * frame) % (_SIDE // 2 - width)
    return _grain()[row : row + height, column : column + width]


def blotches(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the cloud field at garment coordinates, so that a print follows the body and not the pixels."""
    rows = (v * 900).astype(np.int32) % _SIDE
    columns = (u * 900).astype(np.int32) % _SIDE
    field: np.ndarray = _clouds()[rows, columns]
    return field
