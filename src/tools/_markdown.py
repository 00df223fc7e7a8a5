"""How what was measured is written: tables in Markdown, means with their spread, and intervals."""

from collections.abc import Container, Iterable, Sequence
from typing import Any

import numpy as np


def markdown(
    columns: Sequence[str], rows: Iterable[Iterable[Any]], text_columns: Container[int] = (0,)
) -> list[str]:
    """The lines of a table.

    Args:
        columns: Their headings.
        rows: A cell a column, each as it is to be read.
        text_columns: Numbers, from 0, of the columns that are aligned on the left; the others hold numbers.
    """
    marks = ["---" if number in text_columns else "---:" for number in range(len(columns))]
    # A bar within a cell would end it.
    cells = ([str(cell).replace("|", "\\|") for cell in row] for row in rows)
    return [f"| {' | '.join(line)} |" for line in (columns, marks, *cells)]


def spread(values: Sequence[float] | np.ndarray, sign: str = "") -> str:
    """Mean and standard deviation in percent, of one value the value alone; a dash where one is NaN.

    Args:
        values: In [0, 1], or differences of such, a seed each.
        sign: `+` writes the sign of a positive mean too.
    """
    percent = 100 * np.asarray(values)
    if np.isnan(percent).any():
        return "-"
    deviation = f" ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else ""
    return f"{percent.mean():{sign}.1f}{deviation}"


def interval(ends: tuple[float, float] | None) -> str:
    """An interval of a difference in points, its ends in [-1, 1]; nothing where there is none."""
    return "" if ends is None else f"[{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]"
