"""Indices into a list, in Python's spelling and without `eval`."""

import re
from collections.abc import Sequence

EXPECTED = "expected an index such as 2 or -1, or indices and slices in parentheses such as (0:-1) or (8, 110:121, -1)"
_INTEGER = re.compile(r"[+-]?\d+")


def parse_indices(text: str | int | Sequence[int | str] | None) -> list[int | slice]:
    """Read `(0:-1)`, `(150:)`, `(8, 110:121, -1)`, `2`, `(2)` or a list of integers; None and `None` are no index.

    Slices need the parentheses: a YAML file would read `10:20` without them as 10 minutes and 20 seconds, 620.

    Raises:
        ValueError: the text is none of these; the message says what is accepted and what was received.
    """
    if text is None or text == "None":
        return []
    if isinstance(text, list | tuple):
        items = [str(item) for item in text]
    else:
        plain = str(text).strip()
        is_list = plain.startswith("(") and plain.endswith(")")
        items = plain[1:-1].strip().removesuffix(",").split(",") if is_list else [plain]
        if not is_list and not _INTEGER.fullmatch(plain):
            raise ValueError(f"{EXPECTED}, received {text!r}")
    try:
        return [_index(item) for item in items]
    except ValueError:
        raise ValueError(f"{EXPECTED}, received {text!r}") from None


def _index(text: str) -> int | slice:
    parts = [part.strip() for part in text.split(":")]
    if len(parts) > 3 or not all(_INTEGER.fullmatch(part) for part in parts if part or len(parts) == 1):
        raise ValueError(text)
    if len(parts) == 1:
        return int(parts[0])
    bounds = [int(part) if part else None for part in parts]
    if len(bounds) == 3 and bounds[2] == 0:
        raise ValueError(text)
    return slice(*bounds)
