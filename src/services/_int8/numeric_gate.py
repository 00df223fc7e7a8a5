"""Every INT8 file beside what it was made from, on real images: a file that computes something else ends the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.artifacts import Table
from common.runtime.open_model import open_model
from src.schema import NumericGate
from src.services._embed import l2_normalize
from src.services._int8.branch import Branch
from src.services._int8.export import Export
from src.training.validation import embedder

_FARTHEST = 5  # times the mean that is allowed: what a single image may be from the float model
_SPREAD = 0.01  # of the widest dimension: narrower ones may be less than a few 8-bit steps wide


@dataclass(frozen=True)
class Gate:
    """What the comparison found.

    Attributes:
        table: A row for each file.
        metrics: `gate/<file>/mean_gap`, `max_gap`, `float_gap`, `float_max_gap` and `dead_dimensions`.
        failure: Which results of the run are off and by how much; None where none is.
        notes: The same of files that are only compared with.
    """

    table: Table
    metrics: dict[str, float]
    failure: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Finding:
    """A number of a file and its limit, None where it has none."""

    meaning: str
    value: float
    limit: float | None

    @property
    def is_off(self) -> bool:
        return self.limit is not None and not self.value <= self.limit  # NaN is off

    def __str__(self) -> str:
        return f"{self.meaning} {self.value:.2g}, limit {self.limit:.2g}"


def gaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1 - cosine of paired embeddings (N, D): (N,) in [0, 2]."""
    cosine = np.sum(l2_normalize(first).astype(np.float64) * l2_normalize(second), axis=1)
    return np.maximum(1 - cosine, 0)


def dead_dimensions(embeddings: np.ndarray, reference: np.ndarray) -> float:
    """Share of the dimensions in which `reference` (N, D) tells images apart and `embeddings` have one value."""
    spread = np.ptp(reference, axis=0)
    alive = spread > _SPREAD * spread.max()
    return float((np.ptp(embeddings, axis=0)[alive] < 1e-6).mean()) if alive.any() else 0.0


def numeric_gate(
    files: Sequence[tuple[Path, Export]],
    floats: Sequence[Branch],
    section: NumericGate,
    threads: int | None = None,
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
        floats: Inputs of the float network as it was given, before anything was prepared for quantization.
        section: Limits and number of images.
        threads: Host threads of the runtimes.
    """
    rows: list[tuple[Any, ...]] = []
    metrics: dict[str, float] = {}
    mistakes: dict[bool, list[str]] = {True: [], False: []}
    of_branch: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for branch in floats:
        images = branch.spread_images(section.images)
        of_branch[branch.name] = images, embedder(branch.network)(images)
    first_files: dict[tuple[str, str], np.ndarray] = {}
    for path, export in files:
        images, float_embeddings = of_branch[export.branch.name]
        with open_model(path, threads) as runtime:
            received = runtime.embed(images)
        key = (export.branch.name, export.role)
        expected = first_files[key] if export.source is None else export.source(images)
        first_files.setdefault(key, received)
        findings = _findings(section, export, received, expected, float_embeddings)
        off = [str(finding) for finding in findings.values() if finding.is_off]
        if off:
            mistakes[export.is_result].append(f"{path}: {'; '.join(off)}")
        metrics |= {f"gate/{path.name}/{key}": finding.value for key, finding in findings.items()}
        rows.append(
            (path.name, export.made_from, *_cells(findings), "off" if off else _passed(section, findings))
        )
    table = Table(
        f"1 - cosine between INT8 files and what they were made from, on {len(images)} calibration images",
        (
            "file",
            "made from",
            "mean",
            "greatest",
            "limit of mean",
            "limit",
            "mean to float",
            "greatest to float",
            "dead dimensions",
            "gate",
        ),
        tuple(rows),
    )
    return Gate(table, metrics, _failure(mistakes[True]), tuple(map(_note, mistakes[False])))


def _findings(
    section: NumericGate, export: Export, received: np.ndarray, expected: np.ndarray, floats: np.ndarray
) -> dict[str, _Finding]:
    """The numbers of a file by the names of the metrics; embeddings (N, D) of the file, its source and float."""
    gap, own = gaps(received, expected), gaps(expected, floats)
    mean_limit = max_limit = None
    if export.rounds_alike:
        mean_limit = max(section.mean_gap, float(2 * own.mean()))
        max_limit = max(section.max_gap, float(2 * own.max()))
    to_float = gaps(received, floats)
    dead = dead_dimensions(received, floats)
    return {
        "mean_gap": _Finding(f"mean gap to the {export.made_from}", float(gap.mean()), mean_limit),
        "max_gap": _Finding(f"greatest gap to the {export.made_from}", float(gap.max()), max_limit),
        "float_gap": _Finding("mean gap to the float model", float(to_float.mean()), section.float_gap),
        "float_max_gap": _Finding(
            "greatest gap to the float model", float(to_float.max()), _FARTHEST * section.float_gap
        ),
        "dead_dimensions": _Finding("share of dead dimensions", dead, section.dead_dimensions),
    }


def _cells(findings: Mapping[str, _Finding]) -> list[str | None]:
    mean, greatest, to_float, farthest, dead = findings.values()
    limits = [None if x.limit is None else f"{x.limit:.2g}" for x in (mean, greatest)]
    values = [f"{x.value:.2g}" for x in (mean, greatest, to_float, farthest)]
    return [*values[:2], *limits, *values[2:], f"{100 * dead.value:.0f} %"]


def _passed(section: NumericGate, findings: Mapping[str, _Finding]) -> str:
    """Whether a file computes its source, or only what the rounding of both explains."""
    mean = findings["mean_gap"]
    return "passed" if mean.limit is None or mean.value <= section.mean_gap else "passed, as two roundings"


def _failure(mistakes: Sequence[str]) -> str | None:
    if not mistakes:
        return None
    return (
        "quantization.gate: a file does not compute what it was made from: "
        + " | ".join(mistakes)
        + ". Do not use it; if the calibration images are unlike the training images, change "
        "dataset.quantization_path; a network that was hardly trained rounds badly, so train it or raise the limit; "
        "else report the network"
    )


def _note(mistake: str) -> str:
    return f"Does not pass quantization.gate and is here to compare with only: {mistake}."
