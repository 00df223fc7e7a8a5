"""What services give to one another: frozen results with a JSON manifest on disk. No TensorFlow is imported here."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common.config import ConfigError

_TOOLS = (
    "tensorflow",
    "keras",
    "tensorflow-model-optimization",
    "onnx",
    "tf2onnx",
    "onnxruntime",
    "onnxruntime-qnn",
)


@dataclass(frozen=True)
class Model:
    """A model as files, with everything that is needed to use it.

    Attributes:
        files: Role to file; the first one is what runs by default. Roles: `keras`, `onnx`, `tflite`, `dlc`, ...
        precision: `float32` or `int8`.
        input_shape: Height, width, channels.
        embedding_dim: Length of the output vector.
        preprocessing: Keyword arguments of the preprocessing that the model was trained with, as plain data.
        trained_on: What the model has seen: data set, number of identities and images.
        source: The model that this one was made from, for comparisons.
        tool_versions: Versions of the libraries that made it.
        input_name: The input of a network with several, where each has files of its own; empty where there is one.
        siblings: Name of each other input to its model; both know one another.
        made_by: The service that made it; empty where that is not known.
    """

    files: Mapping[str, Path]
    precision: str
    input_shape: tuple[int, int, int]
    embedding_dim: int
    preprocessing: Mapping[str, Any] | None = None
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    source: "Model | None" = None
    tool_versions: Mapping[str, str] = field(default_factory=lambda: tool_versions())
    input_name: str = ""
    siblings: Mapping[str, "Model"] = field(default_factory=dict)
    made_by: str = ""

    @property
    def by_input(self) -> dict[str, "Model"]:
        """This model and its siblings by the name of their input."""
        return {self.input_name: self, **self.siblings}

    @property
    def path(self) -> Path:
        """The file that runs by default."""
        return next(iter(self.files.values()))

    @property
    def name(self) -> str:
        """File name without the suffix; all files of a model share it, and so does the manifest."""
        return self.path.stem

    def save(self) -> Path:
        """Write the manifest `<name>.json` beside the first file; files are stored relative to it."""
        manifest = self.path.with_suffix(".json")
        write_json(manifest, self._as_plain(manifest.parent))
        return manifest

    def _as_plain(self, folder: Path) -> dict[str, Any]:
        plain = asdict(replace(self, source=None, siblings={}))
        plain["files"] = {role: os.path.relpath(path, folder) for role, path in self.files.items()}
        plain["source"] = self.source and os.path.relpath(self.source.path, folder)
        plain["siblings"] = {name: os.path.relpath(m.path, folder) for name, m in self.siblings.items()}
        return plain

    @classmethod
    def load(cls, path: Path) -> "Model | None":
        """Read the manifest of a model file; None where it has none (a file that was not made here).

        Source and siblings whose files are gone are left out.

        Raises:
            ConfigError: the manifest cannot be read.
        """
        model = cls._load(path)
        if model is None:
            return None
        siblings = {name: cls._load(file) for name, file in model.siblings.items() if file.is_file()}
        return replace(model, siblings={n: replace(s, siblings={}) for n, s in siblings.items() if s})

    @classmethod
    def _load(cls, path: Path) -> Any:
        """As `load`, with the files of siblings in their place."""
        manifest = path.with_suffix(".json")
        if not manifest.is_file():
            return None
        folder = manifest.parent
        try:
            plain = json.loads(manifest.read_text(encoding="utf-8"))
            files = {role: folder / name for role, name in plain["files"].items()}
            chosen = next(role for role, file in files.items() if file.name == path.name)
            source = plain.pop("source")
            return cls(
                **{
                    **plain,
                    "files": {chosen: files[chosen], **{r: f for r, f in files.items() if f.is_file()}},
                    "input_shape": tuple(plain["input_shape"]),
                    "source": cls.load(folder / source) if source and (folder / source).is_file() else None,
                    "siblings": {name: folder / file for name, file in plain.get("siblings", {}).items()},
                }
            )
        except (json.JSONDecodeError, KeyError, TypeError, StopIteration) as error:
            raise ConfigError(
                f"{manifest}: not a manifest of {path.name} ({type(error).__name__}: {error}); "
                "move it away to use the model with the preprocessing of the configuration"
            ) from error


class ReportFailedError(RuntimeError):
    """A report says that the run failed; its message is shown without a traceback and the program exits with 1."""


@dataclass(frozen=True)
class Table:
    """Rows to show a person; also written to the report's JSON."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Report:
    """What a service measured.

    Attributes:
        service: Name of the service.
        metrics: Flat name to number, such as `int8/onnxruntime_cpu/rank1`; a number that was not measured is absent.
        tables: What to show.
        files: Files worth keeping: figures, context binaries.
        notes: Sentences that belong to the numbers: protocol, where something was measured.
        failure: Why the run ends with an error once everything is shown and saved; None where nothing is wrong.
    """

    service: str
    metrics: Mapping[str, float]
    tables: Sequence[Table] = ()
    files: Sequence[Path] = ()
    notes: Sequence[str] = ()
    failure: str | None = None

    def save(self, path: Path) -> Path:
        """Write everything but the files themselves as JSON."""
        return write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Report":
        """Read what `save` wrote."""
        plain = json.loads(path.read_text(encoding="utf-8"))
        tables = tuple(
            Table(table["title"], tuple(table["columns"]), tuple(tuple(row) for row in table["rows"]))
            for table in plain["tables"]
        )
        files = tuple(Path(file) for file in plain["files"])
        return cls(**{**plain, "tables": tables, "files": files, "notes": tuple(plain["notes"])})


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file under the temporary name that is given, then rename: a reader never sees half of it.

    After an error a previous file is as it was, and nothing is left of the new one.

    Args:
        path: The file; its folder is made. The temporary name is hidden, in the same folder, with the same suffix, by
            which some libraries choose the format.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write JSON in the way of `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return path


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a table as CSV in the way of `whole_file`; None is an empty cell."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def read_csv(path: Path, *columns: str) -> list[dict[str, str]]:
    """Read the rows of a table that somebody made, as text; a cell that is missing is empty.

    Raises:
        ConfigError: the file cannot be read, or has not these columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a byte-order mark first
            table = csv.DictReader(file, restval="")
            rows = [{name: value for name, value in row.items() if name} for row in table]
            found = table.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as CSV: {error}") from error
    if missing := [name for name in columns if name not in found]:
        raise ConfigError(
            f"{path} has no column {', '.join(missing)}: expected {', '.join(columns)}, separated by commas; its first "
            f"line is {','.join(found)!r}"
        )
    return rows


def tool_versions() -> dict[str, str]:
    """Versions of the libraries that make and convert models, as installed."""
    versions = {}
    for tool in _TOOLS:
        try:
            versions[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return versions
