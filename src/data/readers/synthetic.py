import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.artifacts import read_csv
from common.config import ConfigError
from src.data.readers.deepsportradar import deepsportradar as _deepsportradar
from src.data.readers.market1501 import market1501 as _market1501
from src.data.sample import Sample

_LAYOUTS = {"market1501": _market1501, "deepsportradar": _deepsportradar}
_WITH_LISTS = ("sysu_mm01", "regdb", "llcm", "vt_mot")
_MANIFEST = "synthetic.json"
_TRACKS = "tracks.csv"


def synthetic(path: Path) -> list[Sample]:
    """Read a folder of synthetic people, made by `python -m datasets.synthetic`.

    The `synthetic.json` above the folder says in which layout it was written and which camera is visible or
    thermal; a `tracks.csv` beside it names the track, the moment and the scene of each image.

    Args:
        path: A folder below the generator's output, for example `bounding_box_train`.

    Raises:
        ConfigError: the folder is missing or empty, or is not below a `synthetic.json` that can be read.
    """
    path = Path(path)
    root = next(
        (folder for folder in (path, *path.absolute().parents) if (folder / _MANIFEST).is_file()), None
    )
    if root is None:
        raise ConfigError(
            f"'{path}' is not below a folder with a {_MANIFEST}: "
            "make one with `python -m datasets.synthetic`, or name the layout of your images "
            "in `dataset.dataset_name`"
        )
    layout, modality = _read_manifest(root / _MANIFEST)
    tracks = _read_tracks(root)

    def complete(sample: Sample) -> Sample:
        if str(sample.camera) not in modality:
            raise ConfigError(
                f"'{sample.path}' is of camera {sample.camera}, but '{root / _MANIFEST}' knows cameras "
                f"{', '.join(modality)}: the folder was changed after it was made"
            )
        file = sample.path.absolute().relative_to(root.absolute()).as_posix()
        row = tracks.get(file, {})
        return replace(
            sample,
            modality=modality[str(sample.camera)],
            track=row.get("track"),
            moment=_name_of(row, "track", "frame"),
            scene=_name_of(row, "camera", "party", "frame"),
        )

    return [complete(sample) for sample in _LAYOUTS[layout](path)]


def _read_manifest(manifest: Path) -> tuple[str, dict[str, str]]:
    try:
        content: Any = json.loads(manifest.read_text(encoding="utf-8"))
        layout, cameras = content["layout"], dict(content["cameras"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"'{manifest}' is not what `python -m datasets.synthetic` writes ({error!r}): make it anew"
        ) from error
    if layout in _WITH_LISTS:
        raise ConfigError(
            f"'{manifest}': the layout {layout} is read as the data set itself, by `dataset_name: {layout}` and "
            f"`root_path: {manifest.parent}`"
        )
    if layout not in _LAYOUTS:
        raise ConfigError(f"'{manifest}': layout must be one of {', '.join(_LAYOUTS)}, got '{layout}'")
    return layout, cameras


def _read_tracks(root: Path) -> dict[str, dict[str, str]]:
    """What is known of each file beside its name."""
    table = root / _TRACKS
    if not table.is_file():
        return {}
    return {row["file"]: row for row in read_csv(table, "file")}


def _name_of(row: Mapping[str, str], *columns: str) -> str | None:
    """The values of some columns, which together name something; None where one is missing."""
    values = [row.get(column) for column in columns]
    return "_".join(value for value in values if value) if all(values) else None
