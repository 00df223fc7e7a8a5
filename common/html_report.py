import base64
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common.artifacts import Table, whole_file

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_PNG = b"\x89PNG\r\n\x1a\n"
_NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?\s?%?", re.IGNORECASE)


def html_report(
    path: Path,
    title: str,
    sentences: Sequence[str] = (),
    tables: Sequence[Table] = (),
    figures: Iterable[tuple[Path, str]] = (),
) -> Path:
    """Write one HTML file that needs no other: pictures inside, no scripts, nothing loaded, light and dark, printable.

    All text is escaped; names of files and identities may hold anything.

    Args:
        path: The file.
        title: Heading.
        sentences: A paragraph each, above the tables.
        tables: Columns that hold nothing but numbers are aligned on the right; None is shown as a dash.
        figures: (PNG, caption); large ones take the whole width, the others stand side by side.

    Returns:
        `path`.

    Raises:
        ValueError: a figure is no PNG.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["cell"] = _cell
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        sentences=sentences,
        tables=tables,
        figures=[_figure(picture, caption) for picture, caption in figures],
        numeric_columns=_numeric_columns,
    )
    with whole_file(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return path


def _figure(path: Path, caption: str) -> dict[str, Any]:
    content = path.read_bytes()
    if not content.startswith(_PNG):
        raise ValueError(f"{path}: a report shows PNG files, this is none")
    return {
        "data": base64.b64encode(content).decode("ascii"),
        "width": int.from_bytes(content[16:20], "big"),
        "height": int.from_bytes(content[20:24], "big"),
        "caption": caption,
    }


def _cell(value: Any) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _numeric_columns(table: Table) -> list[bool]:
    return [
        any(value is not None for value in column)
        and all(value is None or _NUMBER.fullmatch(_cell(value)) for value in column)
        for column in zip(*table.rows, strict=True)
    ] or [False] * len(table.columns)
