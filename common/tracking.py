"""The history of runs in MLflow. The only file that imports mlflow."""

import fcntl
import logging
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.artifacts import tool_versions
from common.config import ConfigError, suggest

_LOGGER = logging.getLogger(__name__)
_PARENT = "mlflow.parentRunId"
_SWEEP = "sweep"
ARM = "arm"
"""Tag of a run that says what it has in common with those that differ in the seed only."""


@dataclass(frozen=True)
class Store:
    """Where the history lies: what `mlflow ui` must be told, and the artefact folder of a local store."""

    tracking_uri: str
    artifact_folder: Path | None

    @property
    def ui_command(self) -> str:
        """The exact command that shows the history; credentials in an address are left out."""
        if self.artifact_folder is None and self.tracking_uri.startswith("http"):
            return f"open {without_credentials(self.tracking_uri)} in a browser"
        return f"mlflow ui --backend-store-uri {without_credentials(self.tracking_uri)}"


def store_of(uri: str) -> Store:
    """Resolve `mlflow.uri`: a server or database address is used as it is, anything else is a folder.

    A folder holds a SQLite database and the artefacts, since MLflow 3 refuses a plain folder as a tracking store.
    """
    if "://" in uri and not uri.startswith("file://"):
        return Store(uri, None)
    folder = Path(uri.removeprefix("file://")).expanduser().resolve()
    return Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")


@contextmanager
def pipeline_run(
    store: Store,
    experiment: str,
    name: str,
    parameters: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
    sweep: Path | None = None,
) -> Iterator[None]:
    """One MLflow run for a whole chain: parameters, versions and the git commit are logged at its start.

    Args:
        store: Where the history lies.
        experiment: Its name; it is made where it is not there.
        name: Name of the run.
        parameters: The configuration; names and passwords of its addresses are left out of the history.
        tags: What else is known of the run.
        sweep: Folder of the sweep that the run is a part of; the runs of a sweep have one parent, named after it.
    """
    mlflow = _connected(store)
    if store.artifact_folder is not None:
        store.artifact_folder.mkdir(parents=True, exist_ok=True)
        # Two runs that start together would both make the tables of a new database, and one of them would fail.
        with (store.artifact_folder.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if mlflow.get_experiment_by_name(experiment) is None:
                location = (store.artifact_folder / experiment).as_uri()
                mlflow.create_experiment(experiment, artifact_location=location)
    experiment_id = mlflow.set_experiment(experiment).experiment_id
    parent = None if sweep is None else _sweep_run(sweep, experiment_id)
    try:
        told = {key: without_credentials(value) for key, value in (tags or {}).items()}
        with mlflow.start_run(run_name=name, parent_run_id=parent, tags=told):
            known = {key: without_credentials(str(value)) for key, value in flatten(parameters).items()}
            mlflow.log_params({key: value[:500] for key, value in known.items()})
            mlflow.set_tags(
                {"git_commit": _git_commit(), **{f"version.{k}": v for k, v in tool_versions().items()}}
            )
            yield
    finally:
        if parent is not None:
            mlflow.MlflowClient().set_terminated(parent)


def _connected(store: Store) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Else there is a bar for each file of a few kilobytes.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for logger in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    import mlflow

    mlflow.set_tracking_uri(store.tracking_uri)
    return mlflow


def _sweep_run(sweep: Path, experiment_id: str) -> str:
    """The parent of a sweep's runs in an experiment; the first of them makes it, whichever process it is in."""
    import mlflow

    sweep.mkdir(parents=True, exist_ok=True)
    with (sweep / f".mlflow_parent_{experiment_id}").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if known := file.read():
            return known
        run = mlflow.MlflowClient().create_run(experiment_id, run_name=sweep.name, tags={_SWEEP: str(sweep)})
        file.write(run.info.run_id)
        return str(run.info.run_id)


@contextmanager
def _going_on(what: str) -> Iterator[None]:
    """A tracker that fails between start and end of a chain is told and costs it nothing else.

    The same is in the files of the run.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        _LOGGER.warning("MLflow did not take %s: %s", what, without_credentials(str(error)))


@contextmanager
def stage_run(name: str) -> Iterator[None]:
    """A nested MLflow run for a service of the chain or a stage of it; nothing where there is no run."""
    import mlflow

    run = None
    if mlflow.active_run() is not None:
        with _going_on(f"the start of {name}"):
            run = mlflow.start_run(run_name=name, nested=True)
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    finally:
        if run is not None:
            with _going_on(f"the end of {name}"):
                mlflow.end_run(status)


def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    """Log numbers to the current run; does nothing where there is none, so that services work without a tracker."""
    import mlflow

    if mlflow.active_run() is None:
        return
    with _going_on(", ".join(metrics)):
        mlflow.log_metrics({key: float(value) for key, value in metrics.items()}, step=step)


def log_files(paths: list[Path], folder: str | None = None) -> None:
    """Copy files or folders to the artefacts of the current run; does nothing where there is none."""
    import mlflow

    for path in paths if mlflow.active_run() is not None else []:
        with _going_on(str(path)):
            if path.is_dir():
                mlflow.log_artifacts(str(path), artifact_path=folder or path.name)
            elif path.is_file():
                mlflow.log_artifact(str(path), artifact_path=folder)


def log_texts(paths: list[Path], folder: str) -> None:
    """Copy text files, and those in folders, to the artefacts of the current run, without credentials of addresses."""
    import mlflow

    if mlflow.active_run() is None:
        return
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    for file in files:
        if file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace")
            with _going_on(str(file)):
                mlflow.log_text(without_credentials(text), f"{folder}/{file.name}")


@dataclass(frozen=True)
class PipelineRun:
    """A chain as the history has it.

    Attributes:
        name: Name of the run.
        started: When, in seconds since 1970.
        finished: Whether it came to its end.
        parameters: The configuration, dotted.
        tags: What else is known of it.
        metrics: The last value of each, of all stages.
        stages: Stage to the id of its run.
    """

    name: str
    started: float
    finished: bool
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    stages: Mapping[str, str]


def pipeline_runs(store: Store, experiment: str) -> list[PipelineRun]:
    """Return the chains of an experiment, oldest first.

    Raises:
        ConfigError: there is no such history, or no such experiment in it.
    """
    if store.artifact_folder is not None and not store.artifact_folder.is_dir():
        raise ConfigError(f"there is no history of runs in {store.artifact_folder.parent}")
    mlflow = _connected(store)
    names = {found.name: found.experiment_id for found in mlflow.search_experiments()}
    if experiment not in names:
        raise ConfigError(f"unknown experiment '{experiment}', {suggest(experiment, names)}")
    runs = mlflow.search_runs([names[experiment]], output_format="list", order_by=["start_time ASC"])
    stages: dict[str, list[Any]] = {}
    for run in runs:
        stages.setdefault(run.data.tags.get(_PARENT, ""), []).append(run)
    return [
        _pipeline(run, stages.get(run.info.run_id, [])) for run in runs if "operation_mode" in run.data.params
    ]


def _pipeline(run: Any, stages: Sequence[Any]) -> PipelineRun:
    return PipelineRun(
        name=run.info.run_name,
        started=run.info.start_time / 1000,
        finished=run.info.status == "FINISHED",
        parameters=run.data.params,
        tags=run.data.tags,
        metrics={key: value for part in (*stages, run) for key, value in part.data.metrics.items()},
        stages={stage.info.run_name: stage.info.run_id for stage in stages},
    )


def stage_files(store: Store, run: PipelineRun, stage: str) -> dict[str, Path]:
    """Return the artefacts of a stage by name, fetched from a server if need be; none where there is no such stage."""
    mlflow = _connected(store)
    run_id = run.stages.get(stage)
    listed = [] if run_id is None else mlflow.MlflowClient().list_artifacts(run_id, stage)
    return {
        Path(file.path).name: Path(
            mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=file.path)
        )
        for file in listed
        if not file.is_dir
    }


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def without_credentials(text: str) -> str:
    """The text with `scheme://name:password@host` written as `scheme://host`."""
    return re.sub(r"(\w://)[^/\s'\"]+@", r"\1", text)


def _git_commit() -> str:
    """Commit of the program's own checkout, `unknown` where it is not one or git is not installed."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return result.stdout.strip() or "unknown"
