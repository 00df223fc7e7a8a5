"""A run: `operation_mode` to services, each checked before the first starts, the newest model flowing to the next."""

import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from common import tracking
from common.artifacts import Model, Report, ReportFailedError, Table
from common.cluster import cluster_task
from common.config import ConfigError
from common.run import Run, load_tensorflow, require_free_space, seed_everything
from src.data.selection import Data, check_trial, data_set_name, read
from src.schema import Config
from src.services._chain_report import Finished, chain_report, progression_of
from src.training.distribution import Distribution, distribution_of

_LOGGER = logging.getLogger(__name__)
_FREE_BYTES = 1_000_000_000

SERVICES = {
    "training": "src.services.training",
    "distillation": "src.services.distillation",
    "adaptation": "src.services.adaptation",
    "quantization": "src.services.quantization",
    "evaluation": "src.services.evaluation",
    "prediction": "src.services.prediction",
    "benchmarking": "src.services.benchmarking",
    "deployment": "src.services.deployment",
}
"""Service to module; each has `preflight(config, data, model)` and `run(config, data, model, run)`, which returns a
`Model`, a `Report`, or a pair of a `Report` and the `Model` that it is about."""


class _Stage(NamedTuple):
    """A service of the run, with what it sees and where it writes.

    Attributes:
        service: Its name.
        title: What it is called in the log and the history.
        config: With the data set that it sees.
        data: Images of that data set.
        run: Its folder and seed.
    """

    service: str
    title: str
    config: Config
    data: Data
    run: Run


def run_services(
    config: Config,
    folder: Path,
    composed: Mapping[str, Any],
    arm: str = "",
    sweep: Path | None = None,
) -> None:
    """Run the services of `config.operation_mode` in order.

    Args:
        config: The validated configuration.
        folder: Output folder; it exists.
        composed: The configuration as the user wrote it, for the history.
        arm: The file and the overrides but the seed, a line each: what runs that differ in the seed have in common.
        sweep: Folder of all runs of `--multirun`.

    Adaptation and what comes after it see the target in place of the data set before; the last evaluation is of both.
    With `training.distribution: multi_worker` the chief runs all of them, the other processes the training only.

    Raises:
        ConfigError: something that the user wrote, or the data, will not do; raised before the first service runs.
        ReportFailedError: a report says so, such as a checklist with `on_failure: fail`.
    """
    start = perf_counter()
    run = Run(folder, config.general.global_seed)
    distribution = _distribution(config)
    model = _starting_model(config)
    services = {name: importlib.import_module(SERVICES[name]) for name in config.services}
    stages = _stages(config, services, model, run)
    seed_everything(run.seed, config.general.deterministic_ops)
    if not distribution.is_chief:
        services["training"].run(config, stages[0].data, model, run)
        _LOGGER.info("the chief has the results and goes on alone; this worker is done")
        return
    store = tracking.store_of(config.mlflow.uri)
    _LOGGER.info("operation_mode: %s, output folder: %s", config.operation_mode, folder)
    title = folder.name if sweep is None else f"{sweep.name}_{folder.name}"
    with tracking.pipeline_run(
        store, config.general.project_name, title, composed, {tracking.ARM: arm}, sweep
    ):
        finished = []
        for stage in stages:
            model, report = _run_service(stage, services[stage.service], model)
            finished.append(Finished(stage.service, _data_set(config, stage.config), report))
        if len(finished) > 1:
            _report_chain(config, finished, folder)
        tracking.log_texts([folder / ".hydra", folder / "stm32ai_main.log"], "configuration")
    _LOGGER.info(
        "%s finished after %.0f s, results are in %s", config.operation_mode, perf_counter() - start, folder
    )
    _LOGGER.info("to see the history of runs: %s", store.ui_command)


def _distribution(config: Config) -> Distribution:
    """Load TensorFlow and join the other processes of the training, which must come before it finds its devices."""
    kind = config.training.distribution if config.training and "training" in config.services else "none"
    if kind == "multi_worker":
        worker, workers = cluster_task()
        _LOGGER.info("worker %d of 0 to %d: waiting for the others", worker, workers - 1)
    load_tensorflow(before_devices=lambda: distribution_of(kind))
    return distribution_of(kind)


def _starting_model(config: Config) -> Model | None:
    path = config.model.model_path
    if path is None:
        return None
    if not path.is_file():
        raise ConfigError(f"model.model_path: there is no file {path}")
    from common.runtime.model_of_file import model_of_file
    from src.models._build import import_custom_model_file
    from src.training.checkpoint import is_checkpoint

    import_custom_model_file(config.model.custom_model_file)
    resuming = {"training": config.training, "distillation": config.distillation}
    if (section := resuming.get(config.services[0])) is not None and section.resume_training:
        return _checkpointed_model(path)
    if is_checkpoint(path):
        raise ConfigError(
            f"model.model_path: {path} is a checkpoint with the training head in it. Give the best_model.keras beside "
            "it, or set resume_training: True to go on with that training or distillation"
        )
    model = model_of_file(path)
    config.model.require_shape(model.input_shape)
    return model


def _checkpointed_model(path: Path) -> Model:
    from src.training.checkpoint import read_checkpoint

    _, settings = read_checkpoint(path)
    return Model(
        files={"augmented": path},
        precision="float32",
        input_shape=tuple(settings["preprocessing"]["input_shape"]),
        embedding_dim=settings["embedding_dim"],
        preprocessing=settings["preprocessing"],
    )


def _stages(config: Config, services: Mapping[str, Any], model: Model | None, run: Run) -> list[_Stage]:
    """Check all services, and return them in the order in which they run.

    The last evaluation of the target comes after one of the source, so that every model of the chain is scored on both.
    """
    stages: list[_Stage] = []
    for seen, names in zip((config, config.of_target), config.split_services, strict=True):
        if names:
            is_scored = seen is config and config.scores_source
            checked = tuple(dict.fromkeys((*names, "evaluation"))) if is_scored else names
            data = _preflight(seen, {name: services[name] for name in checked}, model, run, checked)
            stages += [_Stage(name, name, seen, data, run) for name in names]
    if config.scores_source:
        last = max(number for number, stage in enumerate(stages) if stage.service == "evaluation")
        own = Run(run.make("source"), run.seed)
        of_source = _Stage("evaluation", "evaluation on the source", config, stages[0].data, own)
        stages.insert(last, of_source)
    return stages


def _preflight(
    config: Config,
    services: Mapping[str, Any],
    model: Model | None,
    run: Run,
    names: Sequence[str] | None = None,
) -> Data:
    """Check everything that can be checked, for all services, before the first one spends hours.

    `names` are those that the images of the configuration are for, all of the run where they are not given.
    """
    require_free_space(run.folder, _FREE_BYTES, "the results of a run")
    if model is not None:
        check_trial(config, model)
    data = read(config, services=names)
    mistakes = []
    for service in services.values():
        try:
            service.preflight(config, data, model)
        except ConfigError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ConfigError("\n  ".join(["the run cannot start", *mistakes]))
    return data


def _run_service(stage: _Stage, service: Any, model: Model | None) -> tuple[Model | None, Report | None]:
    """Run one service; returns the newest model, and the service's report if it made one."""
    report = None
    _LOGGER.info("--- %s ---", stage.title)
    start = perf_counter()
    with tracking.stage_run(stage.title):
        result = service.run(stage.config, stage.data, model, stage.run)
        seconds = perf_counter() - start
        tracking.log_metrics({"seconds": seconds})
        _LOGGER.info("%s took %.0f s", stage.title, seconds)
        for part in result if isinstance(result, tuple) else (result,):
            if isinstance(part, Model):
                files = [file for sibling in part.siblings.values() for file in sibling.files.values()]
                tracking.log_files([*part.files.values(), *files, part.save()], "model")
                model = part
                continue
            report = part
            _show(part, stage.run.folder)
            if part.failure is not None:
                raise ReportFailedError(part.failure)
    return model, report


def _data_set(config: Config, seen: Config) -> str:
    """What a service saw; source and target may have one layout, and so one name."""
    if config.of_target is config:
        return data_set_name(seen)
    return f"{'the source' if seen is config else 'the target'}, {data_set_name(seen)}"


def _report_chain(config: Config, finished: Sequence[Finished], folder: Path) -> None:
    progression = progression_of(finished)
    if progression is not None:
        _LOGGER.info("%s", _text(progression))
    title = f"{config.general.project_name}: {config.operation_mode}"
    tracking.log_files([chain_report(folder / "report.html", title, finished)], "report")


def _show(report: Report, folder: Path) -> None:
    for table in report.tables:
        _LOGGER.info("%s", _text(table))
    for note in report.notes:
        _LOGGER.info("%s", note)
    saved = report.save(folder / report.service / "metrics.json")
    tracking.log_metrics(report.metrics)
    tracking.log_files([saved, *report.files], report.service)


def _text(table: Table) -> str:
    """A table as text: columns as wide as their longest cell."""
    cells = [table.columns, *[tuple(_cell(value) for value in row) for row in table.rows]]
    widths = [max(len(str(row[i])) for row in cells) for i in range(len(table.columns))]
    lines = [
        "  ".join(str(value).ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([table.title, lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
