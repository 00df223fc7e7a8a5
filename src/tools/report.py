"""What the runs of an experiment say about one another: `python -m src.tools.report --experiment NAME`.

An arm is what runs that differ in the seed only have in common: the file of the configuration and the overrides of the
command line. Arms are compared with the first one, seed by seed:

    python stm32ai_main.py --config-name NAME.yaml --multirun general.global_seed=0,1,2 section.key=a,b

Another number can take the place of the seed: `--over dataset.arguments.trial` gives means over the trials of a data
set.

The table has, for each metric, mean and standard deviation over the seeds, the paired difference with its 95 %
intervals (Student's t over seeds; a bootstrap over seeds and people, where the results of each query are there), and a
verdict. It is printed and written as Markdown and HTML.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import tracking
from common.artifacts import Table, whole_file
from common.config import OUTPUTS, ConfigError, suggest
from common.html_report import html_report
from common.tracking import PipelineRun, Store
from src.schema import General, Mlflow
from src.tools._intervals import bootstrap, paired_t
from src.tools._markdown import interval, markdown, spread
from src.tools._queries import KERAS, queries_of

SEED = "general.global_seed"
_SCORES = ("rank1", "mAP")
_QUERIES_OF_RUNTIME = {
    "keras": KERAS,
    "tflite": "_tflite_queries.csv",
    "onnxruntime_cpu": "_onnx_queries.csv",
    "qnn_htp_emulator": "_onnx_emulator_queries.csv",
}
_COLUMNS = ("arm", "seeds", "%", "difference", "by seeds", "by seeds and people", "verdict")

Arms = Mapping[str, Mapping[int, PipelineRun]]
"""Arm to seed to run."""


class Comparison(NamedTuple):
    """An arm beside the first one."""

    differences: np.ndarray
    """A seed each, of the seeds that both have."""
    by_seeds: tuple[float, float] | None
    """95 % interval; None with less than two seeds."""
    by_seeds_and_people: tuple[float, float] | None
    """95 % interval; None where results of queries are missing."""

    @property
    def verdict(self) -> str:
        """`better` or `worse` where every interval lies on that side of 0, and the one over the seeds is there."""
        intervals = [ends for ends in (self.by_seeds, self.by_seeds_and_people) if ends is not None]
        if self.by_seeds is None:
            return "unresolved"
        if all(low > 0 for low, _ in intervals):
            return "better"
        return "worse" if all(high < 0 for _, high in intervals) else "unresolved"


def arms_of(runs: Sequence[PipelineRun], over: str = SEED) -> Arms:
    """Group finished runs by arm and seed; of repeated ones the last counts. What all arms share is left out of names.

    Args:
        runs: Oldest first.
        over: Key of the number that takes the place of the seed.

    Raises:
        ConfigError: a finished run has no such number.
    """
    texts: dict[str, dict[int, PipelineRun]] = {}
    for run in runs:
        if run.finished:
            arm = run.tags.get(tracking.ARM, "") or run.name
            lines = [line for line in arm.splitlines() if not line.startswith(f"{over}=")]
            text = "\n".join([*lines[:1], *sorted(lines[1:])])  # the file, and overrides in any order
            texts.setdefault(text, {})[_number(run, over)] = run
    common = set.intersection(*(set(text.splitlines()) for text in texts)) if len(texts) > 1 else set()
    return {
        " ".join(line for line in text.splitlines() if line not in common) or "as the file says": by_seed
        for text, by_seed in texts.items()
    }


def _number(run: PipelineRun, key: str) -> int:
    value = run.parameters.get(key, str(General().global_seed) if key == SEED else "")
    if not value.isdecimal():
        raise ConfigError(
            f"--over: expected a key with a whole number in every run, '{run.name}' has {key}='{value}'"
        )
    return int(value)


def metrics_of(arms: Arms) -> list[str]:
    """Names of Rank-1 and mAP that all runs have, of trained models and not of baselines."""
    everywhere = set.intersection(
        *(set(run.metrics) for by_seed in arms.values() for run in by_seed.values())
    )
    first = next(iter(next(iter(arms.values())).values()))
    return [
        name
        for name in first.metrics
        if name in everywhere
        and name.rpartition("/")[2] in _SCORES
        and not name.startswith(("baseline/", "after_"))
    ]


def compare(
    store: Store, metric: str, arm: Mapping[int, PipelineRun], first: Mapping[int, PipelineRun]
) -> Comparison:
    """Compare two arms by a metric, over the seeds that both have."""
    seeds = sorted(set(arm) & set(first))
    differences = np.array([arm[seed].metrics[metric] - first[seed].metrics[metric] for seed in seeds])
    if len(seeds) < 2:
        return Comparison(differences, None, None)
    pairs = [(_queries(store, arm[seed], metric), _queries(store, first[seed], metric)) for seed in seeds]
    return Comparison(differences, paired_t(differences), _by_seeds_and_people(pairs))


def _by_seeds_and_people(
    pairs: Sequence[tuple["_Queries | None", "_Queries | None"]],
) -> tuple[float, float] | None:
    known = [(arm, first) for arm, first in pairs if arm is not None and first is not None]
    if len(known) < len(pairs):
        return None
    people = known[0][0].identities
    if any(not np.array_equal(side.identities, people) for pair in known for side in pair):
        return None
    return bootstrap([arm.values - first.values for arm, first in known], people)


class _Queries(NamedTuple):
    identities: np.ndarray
    values: np.ndarray


def _queries(store: Store, run: PipelineRun, metric: str) -> _Queries | None:
    """Whose the queries are, and a score of each; None where the run has none for this metric."""
    _, _, runtime_and_score = metric.partition("/")
    runtime, _, score = runtime_and_score.partition("/")
    if runtime not in _QUERIES_OF_RUNTIME or score not in _SCORES:
        return None
    files = tracking.stage_files(store, run, "evaluation")
    rows = queries_of(files, _QUERIES_OF_RUNTIME[runtime])
    if rows is None:
        return None
    return _Queries(
        np.array([row["identity"] for row in rows]), np.array([_score(row, score) for row in rows])
    )


def _score(row: Mapping[str, str], score: str) -> float:
    if score == "mAP":
        return float(row.get("average_precision_in_trials", row["average_precision"]) or "nan")
    if "rank1_in_trials" in row:
        return float(row["rank1_in_trials"] or "nan")
    first = float(row["rank_of_first_match"] or "nan")
    return first if np.isnan(first) else float(first == 1)


def tables_of(store: Store, arms: Arms, metrics: Sequence[str]) -> list[Table]:
    """A table for each metric, in percent and points."""
    first = next(iter(arms.values()))
    tables = []
    for metric in metrics:
        rows = []
        for name, by_seed in arms.items():
            values = [run.metrics[metric] for run in by_seed.values()]
            told = ("", "", "", "") if by_seed is first else _told(compare(store, metric, by_seed, first))
            rows.append((name, ", ".join(map(str, sorted(by_seed))), spread(values), *told))
        tables.append(Table(metric, _COLUMNS, tuple(rows)))
    return tables


def _told(found: Comparison) -> tuple[str, str, str, str]:
    if not len(found.differences):
        return ("no seed in common", "", "", found.verdict)
    intervals = (interval(found.by_seeds), interval(found.by_seeds_and_people))
    return (spread(found.differences, "+"), *intervals, found.verdict)


def _under_heading(table: Table) -> str:
    text_columns = (0, 1, len(table.columns) - 1)
    return "\n".join([f"## {table.title}", "", *markdown(table.columns, table.rows, text_columns)])


def main(arguments: list[str]) -> int:
    """Write the report; returns the exit code."""
    parser = argparse.ArgumentParser(description="What the runs of an experiment say about one another.")
    parser.add_argument("--experiment", required=True, help="general.project_name of the runs")
    parser.add_argument(
        "--uri", default=Mlflow().uri, help=f"mlflow.uri of the runs (default: {Mlflow().uri})"
    )
    parser.add_argument(
        "--over", default=SEED, metavar="KEY", help="number to average over (default: %(default)s)"
    )
    parser.add_argument("--baseline", help="arm to compare with (default: that of the oldest run)")
    parser.add_argument("--metric", action="append", help="may be repeated (default: all Rank-1 and mAP)")
    parser.add_argument("--output", type=Path, help=f"folder (default: {OUTPUTS}/report_<experiment>)")
    options = parser.parse_args(arguments)
    try:
        store = tracking.store_of(options.uri)
        runs = tracking.pipeline_runs(store, options.experiment)
        arms = _chosen(arms_of(runs, options.over), options.baseline)
        metrics = options.metric or metrics_of(arms)
        _check(arms, metrics)
        tables = tables_of(store, arms, metrics)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    unfinished = [run.name for run in runs if not run.finished]
    sentences = [
        f"Arms are compared with '{next(iter(arms))}', seed by seed. In percent and points: mean and standard "
        "deviation over the seeds, and 95 % intervals of the paired difference, Student's t over the seeds and a "
        "bootstrap over seeds and people.",
        *([] if options.over == SEED else [f"What is called a seed is a value of {options.over}."]),
        *([f"Not finished, and left out: {', '.join(unfinished)}."] if unfinished else []),
    ]
    title = f"Experiment {options.experiment}"
    folder = options.output or Path(OUTPUTS) / f"report_{options.experiment}"
    text = "\n\n".join([f"# {title}", *sentences, *map(_under_heading, tables)]) + "\n"
    with whole_file(folder / "report.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    html_report(folder / "report.html", title, sentences, tables)
    print(text)
    print(f"written: {folder / 'report.md'} and {folder / 'report.html'}")
    return 0


def _chosen(arms: Arms, baseline: str | None) -> Arms:
    """The arms with the baseline first."""
    if not arms:
        raise ConfigError("the experiment has no finished run")
    if baseline is None:
        return arms
    if baseline not in arms:
        raise ConfigError(f"--baseline: unknown arm '{baseline}', {suggest(baseline, arms)}")
    return {baseline: arms[baseline], **arms}


def _check(arms: Arms, metrics: Sequence[str]) -> None:
    """Raise ConfigError for a metric that a run has not, or where there is none."""
    if not metrics:
        raise ConfigError("the runs have no Rank-1 or mAP in common: name one with --metric")
    for metric in metrics:
        for name, by_seed in arms.items():
            for seed, run in by_seed.items():
                if metric not in run.metrics:
                    raise ConfigError(
                        f"--metric: '{name}' with seed {seed} has no '{metric}', {suggest(metric, run.metrics)}"
                    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
