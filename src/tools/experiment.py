"""Compare ways of training: the same seeds and the same budget for every arm, and a table of what came out.

    python -m src.tools.experiment src/tools/experiments/transfer.yaml

An experiment is a YAML file: `seeds`, `metrics` (name in the table to name in `evaluation/metrics.json`), `overrides`
of every run, `shared` (steps that are run once a seed, such as the training of a common start), and `arms`, each a list
of steps. A step is a `config` and its `overrides`; `{previous}` is the model of the step before, `{shared}` that of the
last shared step and `{shared_1}` that of the first one. Every step is a run of `stm32ai_main.py` of its own; runs that
are finished are not repeated, and one that was made by another plan is refused.
"""

import argparse
import csv
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import yaml
from pydantic import Field, field_validator

from common.artifacts import whole_file, write_json
from common.config import OUTPUTS, ConfigError, Strict, compose, plain_overrides, validate
from common.plotting import bars
from common.run import progress
from src.schema import Config
from src.tools._markdown import markdown, spread
from src.tools._planned import differences, read_plan, verdict

_PROJECT = Path(__file__).parents[2]
_MADE = (
    "saved_models/adapted_model.keras",
    "distilled_models/best_model.keras",
    "saved_models/best_model.keras",
)
"""Where a run leaves what it makes; in a chain that trains, distils and adapts the first of them is its result."""
_SECONDS = "seconds.txt"
SHARED = "shared"
"""Name of the steps that all arms share, in place of an arm's."""


class Step(Strict):
    """One run of the program."""

    config: str
    """Name of a YAML file of `config_file_examples/`."""
    overrides: list[str] = []
    """`section.key=value` each."""


class Experiment(Strict):
    """What is compared."""

    question: str
    """What the table answers, in one sentence."""
    seeds: list[int] = Field(min_length=2)
    """`general.global_seed` of the repetitions."""
    metrics: dict[str, str]
    """Column of the table to the name of a metric of the last step's evaluation."""
    overrides: list[str] = []
    """Given to every run."""
    shared: list[Step] = []
    """Run once a seed, before the arms."""
    arms: dict[str, list[Step]]
    """Name of a row to its steps; differences are taken to the first arm."""

    @field_validator("arms")
    @classmethod
    def _folders_differ(cls, arms: dict[str, list[Step]]) -> dict[str, list[Step]]:
        folders = [SHARED, *map(_file_name, arms)]
        if len(set(folders)) < len(folders):
            raise ValueError(
                f"expected names that make folders of their own, received {', '.join(arms)}, whose folders are "
                f"{', '.join(folders[1:])}; {SHARED} is that of the shared steps"
            )
        return arms


def check_plan(experiment: Experiment, folder: Path) -> None:
    """Compose the configuration of every step, so that a mistake in the last one is told before the first is run.

    Args:
        experiment: What is to run.
        folder: Where.

    Raises:
        ConfigError: a step's configuration is refused, has the name of a model that is not there, or the last step of
            an arm does not evaluate.
    """
    os.environ.setdefault("MODELS_DIR", str(folder))  # of this check; each run has its own
    made = {"previous", SHARED, *(f"{SHARED}_{n}" for n in range(1, len(experiment.shared) + 1))}
    for name, steps in {SHARED: experiment.shared, **experiment.arms}.items():
        known = made if experiment.shared and name != SHARED else set()
        for number, step in enumerate(steps, 1):
            models = {model: Path("model.keras") for model in sorted(known)}
            try:
                texts = [_with_models(text, models) for text in (*experiment.overrides, *step.overrides)]
                config = validate(Config, compose(["--config-name", step.config, *texts]))
            except ConfigError as error:
                raise ConfigError(f"'{name}', step {number}: {error}") from error
            known = known | {"previous"}
        if name != SHARED and "evaluation" not in config.services:
            raise ConfigError(f"'{name}', step {len(steps)}: expected a last step that evaluates")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a second process out of the folder of an experiment, whose runs it would take for ones that were cut off.

    Raises:
        ConfigError: there is one already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"an experiment is running in {folder}: wait until it ends, or give another --folder"
            ) from error
        yield


def run_experiment(experiment: Experiment, folder: Path, jobs: int) -> dict[str, dict[str, list[float]]]:
    """Run what is not finished yet.

    Args:
        experiment: What to run.
        folder: One folder a run is made in it.
        jobs: Runs side by side; each has an equal part of the cores.

    Returns:
        Arm to metric to one value a seed, as the evaluations give them.

    Raises:
        ConfigError: another process runs experiments in the folder.
        RuntimeError: a run failed; the message names its log.
    """
    total = len(experiment.seeds) * (
        len(experiment.shared) + sum(len(steps) for steps in experiment.arms.values())
    )
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    with alone_in(folder), progress("runs", total, "runs") as advance, ThreadPoolExecutor(jobs) as pool:

        def chain(name: str, steps: Sequence[Step], seed: int, shared: Mapping[str, Path]) -> dict[str, Path]:
            models = {**shared, **({"previous": shared[SHARED]} if shared else {})}
            made: dict[str, Path] = {}
            for number, step in enumerate(steps, 1):
                target = step_folder(folder, name, seed, number)
                overrides = [*experiment.overrides, *step.overrides, f"general.global_seed={seed}"]
                run_step(step.config, overrides, target, dict(models), threads)
                models["previous"] = model_of(target)
                made |= {f"{name}_{number}": models["previous"], name: models["previous"]}
                advance(1, name)
            return made

        # The starts are queued first, so an arm that waits for its start never holds the place that the start needs.
        starts = {seed: pool.submit(chain, SHARED, experiment.shared, seed, {}) for seed in experiment.seeds}
        work = [(arm, seed) for seed in experiment.seeds for arm in experiment.arms]
        list(
            pool.map(
                lambda item: chain(item[0], experiment.arms[item[0]], item[1], starts[item[1]].result()), work
            )
        )

    def values(arm: str, key: str) -> list[float]:
        return [_value(folder, arm, len(experiment.arms[arm]), seed, key) for seed in experiment.seeds]

    return {
        arm: {name: values(arm, key) for name, key in experiment.metrics.items()} for arm in experiment.arms
    }


def run_step(
    config: str, overrides: list[str], target: Path, models: Mapping[str, Path], threads: int
) -> None:
    """Run the program once, unless it was run; its folder gets its name only when it has finished.

    Args:
        config: Name of a YAML file of `config_file_examples/`.
        overrides: `section.key=value` each; names in braces stand for `models`.
        target: Folder of the run; its log goes beside it.
        models: What the names in braces mean.
        threads: CPU threads of the run.

    Raises:
        ConfigError: an override has the name of a model that is not there, or the folder holds another run.
        RuntimeError: the run failed; the message names its log.
    """
    filled = [_with_models(text, models) for text in overrides]
    if target.is_dir():
        _require_same(target, config, filled)
        return
    unfinished = target.with_name(f".{target.name}.unfinished")
    if unfinished.is_dir():
        # A run that was cut off is kept for a look, out of the way.
        count = len(list(target.parent.glob(f".{target.name}.broken*")))
        unfinished.rename(target.with_name(f".{target.name}.broken{count}"))
    log = target.with_name(f"{target.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, str(_PROJECT / "stm32ai_main.py"), "--config-name", config, *filled,
        f"hydra.run.dir={unfinished}",
    ]  # fmt: skip
    limits = dict.fromkeys(
        ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), str(threads)
    )
    start = perf_counter()
    with log.open("w") as output:
        done = subprocess.run(
            command, stdout=output, stderr=output, check=False,
            env={**os.environ, **limits, "MODELS_DIR": str(target.parent)},
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"a run failed with exit code {done.returncode}; its log is {log}")
    (unfinished / _SECONDS).write_text(f"{perf_counter() - start:.1f}\n", encoding="utf-8")
    unfinished.rename(target)


def summed_time_verdict(folder: Path, jobs: int, limit: int) -> list[str]:
    """Whether runs that were not made in one go were fast enough; nothing where one does not say how long it took.

    What is between runs and what a run that was cut off took does not count.

    Args:
        folder: Of an experiment that is finished.
        jobs: Runs side by side.
        limit: Minutes that all runs may take.
    """
    files = [run / _SECONDS for run in folder.glob("*/seed_*/step_*/")]
    if not files or not all(file.is_file() for file in files):
        return []
    minutes = sum(float(file.read_text(encoding="utf-8")) for file in files) / 60 / jobs
    how = f"summed over runs, {jobs} side by side, not in one go"
    return [
        verdict(minutes <= limit, f"at most {limit} minutes on {os.cpu_count()} cores, {how}: {minutes:.0f}")
    ]


def _require_same(target: Path, config: str, overrides: Sequence[str]) -> None:
    """Check that a finished run is the one that is planned.

    Raises:
        ConfigError: it had another configuration file or other overrides, its threads aside.
    """
    try:
        job = yaml.safe_load((target / ".hydra/hydra.yaml").read_text(encoding="utf-8"))["hydra"]["job"]
        recorded = yaml.safe_load((target / ".hydra/overrides.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{target}: expected a finished run: {error}. Remove the folder") from error
    planned = _settings(config, plain_overrides(list(overrides)))
    if changed := differences(_settings(job["config_name"], recorded), planned):
        raise ConfigError(
            f"{target} holds the run of another plan: {changed}. Remove the folder, and those of the steps that start "
            "from it, to run them anew, or take the change back"
        )


def _settings(config: str, overrides: Iterable[str]) -> dict[str, str]:
    """What a run is given, by key; the threads are no part of it."""
    given = (text.lstrip("+").partition("=") for text in (f"--config-name={config}", *overrides))
    return {key: value if sign else "given" for key, sign, value in given if key != "general.num_threads"}


def _with_models(text: str, models: Mapping[str, Path]) -> str:
    def path_of(match: re.Match[str]) -> str:
        if match[1] not in models:
            raise ConfigError(
                f"override {text}: no model {match[0]}, there are {', '.join(models) or 'none'}"
            )
        return str(models[match[1]])

    return re.sub(r"\{(previous|shared(?:_\d+)?)\}", path_of, text)


def step_folder(folder: Path, arm: str, seed: int, number: int) -> Path:
    """Folder of a step, from 1, of an arm or of `SHARED`."""
    return folder / _file_name(arm) / f"seed_{seed}" / f"step_{number}"


def runs_of(experiment: Experiment, folder: Path, arm: str, seed: int, number: int = 0) -> list[Path]:
    """Folders of the runs that made the model of an arm, in order: those it started from, shared ones too, and its own.

    Args:
        experiment: What was run.
        folder: Where.
        arm: Name of an arm, or `SHARED`.
        seed: One of the experiment's.
        number: The step, from 1, whose model is meant; the last one if 0.
    """
    steps = experiment.shared if arm == SHARED else experiment.arms[arm]
    number = number or len(steps)
    starts = (
        re.fullmatch(r"model\.model_path=\{(previous|shared)(?:_(\d+))?\}", t)
        for t in steps[number - 1].overrides
    )
    start = next((found for found in starts if found), None)
    before: list[Path] = []
    if start is not None and start[1] == "previous" and number > 1:
        before = runs_of(experiment, folder, arm, seed, number - 1)
    elif start is not None:
        before = runs_of(experiment, folder, SHARED, seed, int(start[2] or 0))
    return [*before, step_folder(folder, arm, seed, number)]


class Epochs(NamedTuple):
    """A training: images in a batch and in an epoch, all views of them counted, and what it logged of each epoch."""

    batch: int
    images: int
    rows: list[dict[str, str]]


def trainings_of(run: Path) -> list[Epochs]:
    """The trainings of a run in order: one, the stages of a distillation, or none.

    Raises:
        ConfigError: the configuration leaves the number of steps to the data.
    """
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text(encoding="utf-8"))
    parts = (
        [(config["training"], config["training"], run / "logs")] if (run / "logs/metrics").is_dir() else []
    )
    if (run / "distillation").is_dir():
        section = config["distillation"]
        stages = section["stages"] if isinstance(section["stages"], list) else section["stages"].values()
        parts += [(section, stage, run / f"distillation/stage_{n}/logs") for n, stage in enumerate(stages, 1)]
    found = []
    for section, part, logs in parts:
        if not part.get("steps_per_epoch"):
            raise ConfigError(
                f"{run}: steps_per_epoch must be set, so that the images of all arms can be counted"
            )
        with (logs / "metrics/train_metrics.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found.append(Epochs(section["batch_size"], section["batch_size"] * part["steps_per_epoch"], rows))
    return found


def model_of(run: Path) -> Path:
    """The model that a run made: an adapted one, a student, or a trained one, which need not be there."""
    files = [run / name for name in _MADE]
    return next((file for file in files if file.is_file()), files[-1])


def metrics_of(run: Path, service: str) -> dict[str, float]:
    """What a service of a run measured, by name.

    Raises:
        OSError: the run has no report of that service.
    """
    path = run / service / "metrics.json"
    metrics: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    return metrics


def _file_name(arm: str) -> str:
    return re.sub(r"\W+", "_", arm).strip("_")


def _value(folder: Path, arm: str, last_step: int, seed: int, key: str) -> float:
    run = step_folder(folder, arm, seed, last_step)
    metrics = metrics_of(run, "evaluation")
    if key not in metrics:
        raise ConfigError(
            f"metrics: {run / 'evaluation/metrics.json'} has no '{key}', it has {', '.join(metrics)}"
        )
    return float(metrics[key])


def table(experiment: Experiment, results: dict[str, dict[str, list[float]]]) -> str:
    """Write the results as Markdown: mean and standard deviation over seeds, and paired differences, in points."""
    names = list(experiment.metrics)
    first = next(iter(experiment.arms))
    columns = [
        "arm",
        *(f"{name}, %" for name in names),
        *(f"{name} - that of the first row" for name in names),
    ]
    rows = []
    for arm, values in results.items():
        differences = [np.array(values[name]) - np.array(results[first][name]) for name in names]
        rows.append(
            [
                arm,
                *(spread(values[name]) for name in names),
                *("" if arm == first else spread(difference, "+") for difference in differences),
            ]
        )
    seeds = ", ".join(map(str, experiment.seeds))
    told = f"{experiment.question} Mean and standard deviation over the seeds {seeds}."
    return "\n".join([told, "", *markdown(columns, rows)])


def main(arguments: list[str]) -> int:
    """Run an experiment; returns the exit code."""
    parser = argparse.ArgumentParser(description="Compare ways of training.")
    parser.add_argument("experiment", type=Path, help="a YAML file, see src/tools/experiments/")
    parser.add_argument(
        "--folder", type=Path, help=f"where the runs go; {OUTPUTS}/<name of the file> by default"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default: 2)")
    options = parser.parse_args(arguments)
    folder = (options.folder or Path(OUTPUTS) / options.experiment.stem).absolute()
    try:
        experiment = read_plan(Experiment, options.experiment)
        check_plan(experiment, folder)
        results = run_experiment(experiment, folder, options.jobs)
    except (ConfigError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = table(experiment, results)
    print(text)
    write_json(
        folder / "results.json", {"experiment": experiment.model_dump(mode="json"), "results": results}
    )
    with whole_file(folder / "results.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    for name in experiment.metrics:
        means = {arm: 100 * float(np.mean(values[name])) for arm, values in results.items()}
        bars(folder / f"{_file_name(name)}.png", means, xlabel=f"{name}, %", title=experiment.question)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
