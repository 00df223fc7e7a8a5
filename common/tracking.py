"""The history of runs in MLflow. The only file that imports mlflow."""

import fcntl
import logging
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from common.artifacts import tool_versions


@dataclass(frozen=True)
class Store:
    """Where the history lies: what `mlflow ui` must be told, and the artefact folder of a local store."""

    tracking_uri: str
    artifact_folder: Path | None

    @property
    def ui_command(self) -> str:
        """The exact command that shows the history; credentials in an address are left out."""
        if self.artifact_folder is None and self.tracking_uri.startswith("http"):
            return f"open {_without_credentials(self.tracking_uri)} in a browser"
        return f"mlflow ui --backend-store-uri {_without_credentials(self.tracking_uri)}"


def store_of(uri: str) -> Store:
    """Resolve `mlflow.uri`: a server or database address is used as it is, anything else is a folder.

    A folder holds a SQLite database and the artefacts, since MLflow 3 refuses a plain folder as a tracking store.
    """
    if "://" in uri and not uri.startswith("file://"):
        return Store(uri, None)
    folder = Path(uri.removeprefix("file://")).expanduser().resolve()
    return Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")


@contextmanager
def pipeline_run(store: Store, experiment: str, name: str, parameters: Mapping[str, Any]) -> Iterator[None]:
    """One MLflow run for a whole chain: parameters, versions and the git commit are logged at its start."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for logger in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    import mlflow

    mlflow.set_tracking_uri(store.tracking_uri)
    if store.artifact_folder is not None:
        store.artifact_folder.mkdir(parents=True, exist_ok=True)
        # Two runs that start together would both make the tables of a new database, and one of them would fail.
        with (store.artifact_folder.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if mlflow.get_experiment_by_name(experiment) is None:
                location = (store.artifact_folder / experiment).as_uri()
                mlflow.create_experiment(experiment, artifact_location=location)
    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_name=name):
        mlflow.log_params({key: str(value)[:500] for key, value in flatten(parameters).items()})
        mlflow.set_tags(
            {"git_commit": _git_commit(), **{f"version.{k}": v for k, v in tool_versions().items()}}
        )
        yield


@contextmanager
def stage_run(name: str) -> Iterator[None]:
    """A nested MLflow run for one service of the chain."""
    import mlflow

    with mlflow.start_run(run_name=name, nested=True):
        yield


def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    """Log numbers to the current run; does nothing where there is none, so that services work without a tracker."""
    import mlflow

    if mlflow.active_run() is not None:
        mlflow.log_metrics({key: float(value) for key, value in metrics.items()}, step=step)


def log_files(paths: list[Path], folder: str | None = None) -> None:
    """Copy files or folders to the artefacts of the current run; does nothing where there is none."""
    import mlflow

    for path in paths if mlflow.active_run() is not None else []:
        if path.is_dir():
            mlflow.log_artifacts(str(path), artifact_path=folder or path.name)
        elif path.is_file():
            mlflow.log_artifact(str(path), artifact_path=folder)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    return (
        uri if parts.hostname is None else urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    )


def _git_commit() -> str:
    """Commit of the program's own checkout, `unknown` where it is not one."""
    result = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown"
