"""What an adaptation says of itself: numbers of each round, tables and pictures."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import tracking
from common.artifacts import Report, Table, write_csv
from common.html_report import html_report
from src.adaptation.pseudo_labels import PseudoLabels
from src.adaptation.statistics import cluster_statistics
from src.services._adaptation.labels import write_labels
from src.services._adaptation.last_round import Done
from src.services._adaptation.pictures import draw_clusters, draw_history
from src.services._adaptation.target import Target

_LOGGER = logging.getLogger(__name__)
_NUMBERS = ("images", "clusters", "noise", "smallest", "median", "largest", "agreement", "across")
_COLUMNS = ("round", "modality", *_NUMBERS)
_SHARES = ("noise", "across")
_SHOWN_ROWS = 12


def described(target: Target, labels: PseudoLabels, done: Done) -> list[dict[str, Any]]:
    """Return a row of numbers for each modality.

    Args:
        target: The images.
        labels: Of the round.
        done: The rounds before.
    """
    rows = []
    for name in target.names:
        own = target.modalities == name
        before = None if done.labels is None else done.labels.own[own]
        numbers = asdict(cluster_statistics(labels.own[own], before))
        across = float((labels.across[own] >= 0).mean()) if len(target.names) > 1 else None
        row = {"round": done.rounds + 1, "modality": name, **numbers, "across": across}
        rows.append({column: row[column] for column in _COLUMNS})
    return rows


def log_round(rows: Sequence[Mapping[str, Any]], losses: Mapping[str, float]) -> None:
    """Send the numbers of a round to the tracker and the log."""
    number = rows[0]["round"]
    tracking.log_metrics({**_metrics(rows), **losses}, step=number)
    told = [f"{row['clusters']} {row['modality']} clusters, {100 * row['noise']:.0f} % noise" for row in rows]
    told += [f"{name} {value:.4g}" for name, value in losses.items()]
    _LOGGER.info("round %d: %s", number, "; ".join(told))


def _metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        f"{row['modality']}/{name}": float(row[name])
        for row in rows
        for name in _NUMBERS
        if row[name] is not None
    }


def report_of(
    folder: Path, title: str, sentences: Sequence[str], target: Target, done: Done, rounds: int
) -> Report:
    """Write the last pseudo labels, and tables and pictures of the rounds.

    Args:
        folder: Where they go.
        title: Heading of the page.
        sentences: What belongs to the numbers.
        target: The images.
        done: All rounds that were taken.
        rounds: As many as were to be taken.
    """
    cells = [[row[name] for name in _COLUMNS] for row in done.history]
    files = [write_csv(folder / "rounds.csv", _COLUMNS, cells)]
    if done.labels is not None:
        write_labels(folder / "pseudo_labels.csv", target, done.labels)
        pictures = [*draw_history(done.history, folder)]
        pictures.append(draw_clusters(folder / "cluster_sheet.png", target.samples, done.labels))
        files += [folder / "pseudo_labels.csv", *(path for path, _ in pictures)]
        files.append(html_report(folder / "report.html", title, sentences, [_table(cells)], pictures))
    half = _SHOWN_ROWS // 2
    shown = cells if len(cells) <= _SHOWN_ROWS else [*cells[:half], *cells[-half:]]
    metrics = {"rounds": float(done.rounds), "rounds_left": float(rounds - done.rounds)}
    metrics |= _metrics(done.history[-len(target.names) :])
    return Report(folder.name, metrics, (_table(shown),), tuple(files), tuple(sentences))


def _table(cells: Sequence[Sequence[Any]]) -> Table:
    rows = [
        tuple(
            f"{100 * cell:.1f}" if column in _SHARES and cell is not None else cell
            for column, cell in zip(_COLUMNS, row, strict=True)
        )
        for row in cells
    ]
    columns = tuple(f"{column}, %" if column in _SHARES else column for column in _COLUMNS)
    return Table("Clusters by round", columns, tuple(rows))
