"""A compiled or exported graph beside what it was made from, on images: one that computes something else is refused.

A gap is 1 - cosine of two embeddings of one image. The NPU rounds some sums to the neighbouring step, so after a few
layers its embeddings are those of an independent rounding. What all rounding does is the gap between INT8 and float
model, and two independent roundings are twice as far from each other.
"""

from pathlib import Path

import numpy as np

from common.artifacts import Model
from common.config import ConfigError
from common.run import progress
from common.runtime.open_model import open_model
from src.data.preprocessing import Preprocessing
from src.services._embed import l2_normalize

LEAST_LIMIT = 0.01
"""Mean gap that is always allowed: a few images measure no rounding more finely."""
UNKNOWN_LIMIT = 0.1
"""Mean gap where nothing tells what rounding does: the float model is not there, or a converter rounded it itself.

Wrong layouts, ranges and weights are near 1.
"""
FLOAT_LIMIT = 1e-4
"""Mean gap between a float network and its export, which differ in the order of additions only."""
_SEED = 0


def embedded(path: Path, images: np.ndarray, threads: int | None, input_name: str = "") -> np.ndarray:
    """What a file makes of images (N, H, W, C) on the host: (N, D) with rows of length 1."""
    with open_model(path, threads, input_name) as runtime:
        return l2_normalize(runtime.embed(images))


def emulated(context: Path, images: np.ndarray, threads: int | None) -> np.ndarray:
    """The same of a compiled context on the HTP emulator."""
    parts = []
    with open_model(context, threads) as emulator, progress("HTP emulator", len(images), "images") as advance:
        for start in range(0, len(images), emulator.batch_size):
            parts.append(emulator.embed(images[start : start + emulator.batch_size]))
            advance(len(parts[-1]))
    return l2_normalize(np.concatenate(parts))


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of paired rows (N, D) of length 1: (N,)."""
    found: np.ndarray = np.sum(first * second, axis=1)
    return found


def rounding_limit(model: Model, host: np.ndarray, images: np.ndarray, threads: int | None) -> float:
    """Greatest mean gap between two runtimes of a model: twice its gap to the float model, where that is still there.

    Args:
        model: INT8, with its source; or float, which the NPU computes in float16, finer than any limit here.
        host: Its embeddings (N, D) on the host, rows of length 1.
        images: What they are of (N, H, W, C).
        threads: To embed them with.
    """
    if model.precision != "int8":
        return LEAST_LIMIT
    source = model.source
    if source is None or not source.path.is_file():
        return UNKNOWN_LIMIT
    try:
        network = embedded(source.path, images, threads, model.input_name)
    except ConfigError:  # it needs code of the user that this run does not name
        return UNKNOWN_LIMIT
    return max(LEAST_LIMIT, 2 * float(1 - cosine(host, network).mean()))


def disagreement(what: str, found: np.ndarray, limit: float) -> str | None:
    """Why a graph is refused, in one sentence; None where the mean gap is within the limit. NaN never is.

    Args:
        what: The graph and what it is compared with.
        found: Cosine of each image (N,).
        limit: Greatest mean gap.
    """
    gap = float(1 - found.mean())
    if gap <= limit:
        return None
    return (
        f"{what}: the mean gap (1 - cosine) of {len(found)} images is {gap:.2g}, limit {limit:.2g}. It computes "
        "something else: do not use it, and report the network"
    )


def fixed_images(preprocessing: Preprocessing, count: int) -> np.ndarray:
    """Smooth random colours as a network takes them (N, H, W, C), always the same: where a run has no images."""
    height, width, channels = preprocessing.input_shape
    coarse = np.random.default_rng(_SEED).integers(0, 256, (count, 8, 4, channels))
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 4 // width
    colours = coarse[:, rows][:, :, columns].astype(np.float32)
    images: np.ndarray = colours * np.asarray(preprocessing.scale, np.float32) + np.asarray(
        preprocessing.offset, np.float32
    )
    return images
