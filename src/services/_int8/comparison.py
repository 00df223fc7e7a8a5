"""Float and INT8 side by side on one set of images."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.artifacts import Table
from common.runtime.open_model import open_model
from src.data.sample import Sample
from src.services._int8.branch import Branch, Embedding, embed_samples
from src.services._int8.numeric_gate import gaps
from src.training import validation

COMPARISON = "Float and INT8"
"""How the title of the table begins."""
_PERCENT = ("rank1", "mAP")
_COLUMNS = ("rank1", "mAP", "cosine_mean", "cosine_1_percent", "dead_dimensions", "megabytes")


@dataclass(frozen=True)
class Comparison:
    """Scores of float and INT8.

    Attributes:
        table: A row for each model.
        metrics: `compare/<float, ptq or qat>/<runtime>/<what>`.
        note: The protocol, and on which images.
    """

    table: Table
    metrics: dict[str, float]
    note: str


def compare(
    branches: Sequence[Branch],
    float_file: Path,
    files: Iterable[tuple[str, Mapping[str, Path]]],
    query: Sequence[Sample],
    gallery: Sequence[Sample],
    images: str,
    threads: int | None = None,
) -> Comparison:
    """Score the float network and INT8 files by retrieval, and how far INT8 embeddings are from float ones.

    Dead dimensions have one value on all images, so they tell nobody apart.

    Args:
        branches: Inputs of the float network.
        float_file: For its name and size.
        files: `ptq` or `qat` and the files of one role by branch name, in the order of the rows.
        query: Queries.
        gallery: Their gallery.
        images: What the images are, for the table.
        threads: Host threads of the runtimes.
    """
    samples = [*query, *gallery]
    float_functions: dict[str, Embedding] = {b.name: validation.embedder(b.network) for b in branches}
    reference = embed_samples(branches, float_functions, samples, f"{float_file.name}: {images}")
    rows, metrics, sentence = [], {}, ""

    def add(kind: str, name: str, runtime: str, embeddings: np.ndarray, size: int) -> None:
        nonlocal sentence
        found = validation.score(embeddings[: len(query)], embeddings[len(query) :], query, gallery)
        sentence = found.sentence
        cosine = 1 - gaps(embeddings, reference)
        values = (
            float(found.cmc[0]), float(found.mAP), float(cosine.mean()), float(np.percentile(cosine, 1)),
            int((np.ptp(embeddings, axis=0) < 1e-6).sum()), size / 1e6,
        )  # fmt: skip
        metrics.update(
            {f"compare/{kind}/{runtime}/{key}": value for key, value in zip(_COLUMNS, values, strict=True)}
        )
        rows.append((name, kind, runtime, *map(_cell, _COLUMNS, values)))

    add("float", float_file.name, "keras", reference, float_file.stat().st_size)
    for kind, by_branch in files:
        with ExitStack() as stack:
            runtimes = {n: stack.enter_context(open_model(p, threads)) for n, p in by_branch.items()}
            functions = {name: runtime.embed for name, runtime in runtimes.items()}
            names = ", ".join(path.name for path in by_branch.values())
            embeddings = embed_samples(branches, functions, samples, f"{names}: {images}")
            where = next(iter(runtimes.values())).name
        add(kind, names, where, embeddings, sum(path.stat().st_size for path in by_branch.values()))
    table = Table(
        f"{COMPARISON} on {len(query)} queries and {len(gallery)} gallery images of the {images}",
        ("model", "kind", "measured on", "rank1, %", "mAP, %", "cosine to float", "its 1st percentile",
         f"dead of {reference.shape[1]} dimensions", "MB"),
        tuple(rows),
    )  # fmt: skip
    return Comparison(table, metrics, f"Comparison on the {images}: {sentence}")


def _cell(column: str, value: Any) -> str:
    if column in _PERCENT:
        return f"{100 * value:.1f}"
    return str(value) if isinstance(value, int) else f"{value:.4f}" if "cosine" in column else f"{value:.2f}"
