from collections.abc import Sequence
from functools import cache
from pathlib import Path

from common.artifacts import read_csv
from src.data.sample import Sample

_FILE = "metadata.csv"


def metadata_of(samples: Sequence[Sample]) -> dict[str, list[str]]:
    """Return what `metadata.csv` beside the images says of them: visibility, altitude, whatever its columns are.

    The file lies in the images' folder; its column `file` holds their names.

    Args:
        samples: N images.

    Returns:
        Column to N values as text, for the columns that hold a value for every image.

    Raises:
        ConfigError: a `metadata.csv` cannot be read or has no column `file`.
    """
    rows = [_read(sample.path.parent).get(sample.path.name, {}) for sample in samples]
    columns = [column for column in (rows[0] if rows else {}) if all(row.get(column) for row in rows)]
    return {column: [row[column] for row in rows] for column in columns}


@cache
def _read(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / _FILE
    if not path.is_file():
        return {}
    rows = read_csv(path, "file")
    return {row["file"]: {name: value for name, value in row.items() if name != "file"} for row in rows}
