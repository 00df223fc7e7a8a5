"""A chain as one page: what each of its services made of the model, then all their tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.artifacts import Report, Table
from common.html_report import html_report

_SCORES = {
    "Rank-1": "rank1",
    "mAP": "mAP",
    "thermal to visible Rank-1": "thermal_to_visible_rank1",
    "thermal to visible mAP": "thermal_to_visible_mAP",
}
_LATENCY = {
    "measured": "device/latency_ms",
    "estimate": "estimate/latency_ms",
}
"""Where benchmarking has the latency on the chip, the best source first."""


class Finished(NamedTuple):
    """A service that has run.

    Attributes:
        service: Its name.
        data_set: What it saw.
        report: What it measured; None where it gave a model alone.
    """

    service: str
    data_set: str
    report: Report | None


def chain_report(path: Path, title: str, finished: Sequence[Finished]) -> Path:
    """Write the page of a chain.

    Args:
        path: The file.
        title: Heading.
        finished: The services in the order in which they ran.
    """
    progression = progression_of(finished)
    tables = [] if progression is None else [progression]
    sentences = []
    for service, data_set, report in finished:
        if report is not None:
            is_one = len({f.data_set for f in finished if f.service == service}) == 1
            name = service if is_one else f"{service} on {data_set}"
            tables += [Table(f"{name}: {t.title}", t.columns, t.rows) for t in report.tables]
            sentences += [f"{name}: {note}" for note in report.notes]
    return html_report(path, title, sentences, tables)


def progression_of(finished: Sequence[Finished]) -> Table | None:
    """Return what each service made of the model: a row for each that changed it, columns for each test set.

    A model that no evaluation of the chain saw has no row, a test set no columns where no model was scored on it.
    The latency belongs to the last model.
    """
    evaluations = [
        (f.data_set, f.report) for f in finished if f.service == "evaluation" and f.report is not None
    ]
    latest = {data_set: report.metrics for data_set, report in evaluations}
    columns, found = [], []
    services = list(dict.fromkeys(f.service for f in finished))
    for data_set, metrics in latest.items():
        for name, key in _SCORES.items():
            cells = [metrics.get(f"after_{service}/{key}") for service in services]
            if any(cell is not None for cell in cells):
                columns.append(f"{name} on {data_set}, %")
                found.append([None if cell is None else f"{100 * cell:.1f}" for cell in cells])
    named = zip(services, *found, strict=True)
    rows = [list(row) for row in named if any(cell is not None for cell in row[1:])]
    if not rows:
        return None
    kind, milliseconds = _latency(finished)
    if kind:
        columns.append(f"latency on the NPU, ms ({kind})")
        rows = [[*row, None] for row in rows]
        rows[-1][-1] = f"{milliseconds:.2f}"
    return Table("Progression", ("after", *columns), tuple(tuple(row) for row in rows))


def _latency(finished: Sequence[Finished]) -> tuple[str, float]:
    """How the latency is known, and what it is; empty where it is not."""
    for kind, name in _LATENCY.items():
        for _, _, report in finished:
            if report is not None and name in report.metrics:
                return kind, report.metrics[name]
    return "", 0.0
