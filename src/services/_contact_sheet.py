"""Queries with the gallery images that were found for them, as one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from common import plotting
from src.data.sample import UNKNOWN, Sample

_COLUMNS = 11
_PIXELS = (256, 256)
_COLOURS = {True: "#16a34a", False: "#dc2626", None: "#9ca3af"}


@dataclass(frozen=True)
class Match:
    """A gallery image that was found for a query.

    Attributes:
        rank: 1 for the nearest.
        sample: The gallery image.
        similarity: Cosine of the angle between the embeddings.
        correct: Whether it shows the query's identity; None where either is unknown.
    """

    rank: int
    sample: Sample
    similarity: float
    correct: bool | None


def same_person(query: Sample, match: Sample) -> bool | None:
    """Whether two images show one person; junk and distractors have a number but no identity: None."""
    known = query.is_person and match.identity != UNKNOWN
    return query.identity == match.identity if known else None


def contact_sheet(
    path: Path, queries: Sequence[tuple[str, Sample, Sequence[Match]]], title: str = ""
) -> Path:
    """Draw each query with its matches, framed green for the same person, red for another, grey for unknown.

    Args:
        path: The PNG.
        queries: (heading, query, matches); with several queries, each has the same number of matches, at most 10, and
            a row of its own. The matches of a single one go on in the next row.
        title: Title of the figure.
    """
    samples, headings, colours = [], [], []
    for heading, query, matches in queries:
        samples += [query, *(match.sample for match in matches)]
        headings += [heading, *(f"{match.rank}   {match.similarity:.3f}" for match in matches)]
        colours += ["#111827", *(_COLOURS[match.correct] for match in matches)]
    return plotting.image_grid(
        path,
        [thumbnail(sample.path) for sample in samples],
        columns=min(len(samples) // len(queries), _COLUMNS),
        titles=[f"{heading}\n{_caption(sample)}" for heading, sample in zip(headings, samples, strict=True)],
        border_colours=colours,
        title=title,
    )


def _caption(sample: Sample) -> str:
    """Identity and camera as far as they are known, else the file's name, without its middle if it is long."""
    name = sample.path.stem
    if sample.identity == UNKNOWN:
        return name if len(name) <= 14 else f"{name[:7]}\N{HORIZONTAL ELLIPSIS}{name[-6:]}"
    return f"{str(sample.identity)[:10]}{f', c{sample.camera}' if sample.camera else ''}"


def thumbnail(path: Path) -> np.ndarray:
    """The file itself in RGB, uint8 (H, W, 3), not what preprocessing makes of it; small enough for a sheet."""
    with Image.open(path) as image:
        image.thumbnail(_PIXELS)
        return np.asarray(image.convert("RGB"))
