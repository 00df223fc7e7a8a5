"""Every INT8 file beside what it was made from, on real images: a file that computes something else ends the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.artifacts import Table
from common.runtime.open_model import open_model
from src.schema import NumericGate
from src.services._embed import l2_normalize
from src.services._int8.export import Export
from src.training.validation import embedder


@dataclass(frozen=True)
class Gate:
    """What the comparison found.

    Attributes:
        table: A row for each file.
        metrics: `gate/<file>/mean_gap`, `max_gap` and `float_gap`.
        failure: Which files are off and by how much; None where none is.
    """

    table: Table
    metrics: dict[str, float]
    failure: str | None


def gaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1 - cosine of paired embeddings (N, D): (N,) in [0, 2]."""
    cosine = np.sum(l2_normalize(first).astype(np.float64) * l2_normalize(second), axis=1)
    return np.maximum(1 - cosine, 0)


def numeric_gate(
    files: Sequence[tuple[Path, Export]], section: NumericGate, threads: int | None = None
) -> Gate:
    """Compare INT8 files with their sources and with the float model on calibration images.

    A file whose source is quantized alike must agree with it to `mean_gap` and `max_gap`. On the grids of
    `common.quantization.grids` it agrees exactly. Where an operation has no such grid, the order of additions decides
    which way a value half-way between two steps goes; one step changes many sums of the next layer by a part of a step,
    so after some layers two right implementations round as if independently. By how much is known: the gap between
    source and float model is what all rounding does, and two independent roundings are twice as far from each other, so
    the limits are never less than that. A wrong layout, range or weight is far beyond it.

    Args:
        files: Written files, each with its export; the first of a branch and role before its other batch sizes.
        section: Limits and number of images.
        threads: Host threads of the runtimes.
    """
    rows: list[tuple[Any, ...]] = []
    metrics: dict[str, float] = {}
    mistakes = []
    of_branch: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    first_files: dict[tuple[str, str], np.ndarray] = {}
    for path, export in files:
        branch = export.branch
        if branch.name not in of_branch:
            images = branch.spread_images(section.images)
            of_branch[branch.name] = images, embedder(branch.network)(images)
        images, float_embeddings = of_branch[branch.name]
        with open_model(path, threads) as runtime:
            received = runtime.embed(images)
        key = (branch.name, export.role)
        expected = first_files[key] if export.source is None else export.source(images)
        first_files.setdefault(key, received)
        gap, own, to_float = (
            gaps(received, expected), gaps(expected, float_embeddings), gaps(received, float_embeddings),
        )  # fmt: skip
        limits = [section.float_gap]
        found = [float(to_float.mean())]
        names = ["mean gap to the float model"]
        if export.rounds_alike:
            limits += [
                max(section.mean_gap, float(2 * own.mean())), max(section.max_gap, float(2 * own.max())),
            ]  # fmt: skip
            found += [float(gap.mean()), float(gap.max())]
            names += [f"mean gap to the {export.made_from}", f"greatest gap to the {export.made_from}"]
        off = [
            f"{name} {value:.2g}, limit {limit:.2g}"
            for name, value, limit in zip(names, found, limits, strict=True)
            if not value <= limit
        ]
        if off:
            mistakes.append(f"{path}: {'; '.join(off)}")
        metrics |= {
            f"gate/{path.name}/mean_gap": float(gap.mean()),
            f"gate/{path.name}/max_gap": float(gap.max()),
            f"gate/{path.name}/float_gap": float(to_float.mean()),
        }
        rows.append(
            (path.name, export.made_from, *(f"{value:.2g}" for value in (gap.mean(), gap.max())),
             *((f"{limits[1]:.2g}", f"{limits[2]:.2g}") if export.rounds_alike else (None, None)),
             f"{to_float.mean():.2g}", "off" if off else "passed")
        )  # fmt: skip
    table = Table(
        f"1 - cosine between INT8 files and what they were made from, on {len(images)} calibration images",
        ("file", "made from", "mean", "greatest", "limit of mean", "limit", "mean to float", "gate"),
        tuple(rows),
    )
    failure = None
    if mistakes:
        failure = (
            "quantization.gate: a file does not compute what it was made from: "
            + " | ".join(mistakes)
            + ". Do not use it; if the calibration images are unlike the training images, change "
            "dataset.quantization_path, else report the network"
        )
    return Gate(table, metrics, failure)
