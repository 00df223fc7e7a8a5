"""How far adaptation goes without labels: before, after, with true labels, and with less than adaptation has.

    make experiments-adaptation

The people are those of two synthetic presets in the layout of VT-MOT, in which a place is one camera: its protocol
takes images of the query's person from the same place, by either sensor, out of the gallery. Every training is a run of
`stm32ai_main.py`; what is finished is not repeated. Tables and pictures go into docs/results.md.
"""

import csv
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from pydantic import field_validator

from common.artifacts import write_csv
from common.plotting import line_curves
from datasets.synthetic import generate
from src.data.readers.vt_mot import vt_mot
from src.tools._intervals import paired_t
from src.tools._markdown import interval, markdown, spread
from src.tools._planned import Options, read_options, read_plan, run_planned, time_verdict, verdict
from src.tools.cluster_purity import TITLE as CLUSTERS
from src.tools.cluster_purity import by_round, described, draw_purity, people_of
from src.tools.experiment import (
    SHARED,
    Experiment,
    Step,
    check_plan,
    metrics_of,
    run_experiment,
    step_folder,
    summed_time_verdict,
)

_PROJECT = Path(__file__).parents[2]
_PLAN = Path(__file__).parent / "experiments/adaptation.yaml"
_PAGE = _PROJECT / "docs/results.md"
_BEGIN = "<!-- tables of make experiments-adaptation -->"
_MODEL = "float32/keras/"
_SCORES = {
    "thermal to visible": "thermal_to_visible_mAP",
    "visible to thermal": "visible_to_thermal_mAP",
    "visible": "visible_to_visible_mAP",
    "thermal": "thermal_to_thermal_mAP",
}
"""Columns of the tables, each a name in `evaluation/metrics.json`."""
_BEFORE, _ADAPTED, _ORACLE = "before", "adapted", "oracle"
_CONTROL, _FREE = "tracks and pairs, no clustering", "Cluster Contrast on images"
_ARMS = (_BEFORE, _ADAPTED, _ORACLE, _CONTROL, _FREE)
_MODALITIES = ("visible", "thermal")
_OF_CLUSTERS = {
    "clusters": "clusters",
    "identities": "people",
    "noise": "noise, %",
    "purity": "purity, %",
    "adjusted_rand": "adjusted Rand index x 100",
    "joined": "people joined across places, %",
    "matched": "right matches across modalities, %",
}
_COUNTS = ("clusters", "identities")
_NEEDED_SHARE, _MINUTES = 0.5, 90
_SMOKE = ("model.input_shape=[64,32,3]",)
_SMOKE_TRAINING = (
    "training.epochs=1", "training.steps_per_epoch=1", "training.batch_size=16", "~training.callbacks",
)  # fmt: skip
_SMOKE_ADAPTATION = (
    "adaptation.rounds=2", "adaptation.steps_per_round=1", "adaptation.batch_size=16",
    "adaptation.images_per_identity=2", "adaptation.k1=4", "adaptation.k2=2",
)  # fmt: skip

Scores = Mapping[str, np.ndarray]
"""Column to a value a seed, in [0, 1]."""


class Plan(Experiment):
    """The arms `before`, `adapted`, `oracle` and so on, and the people."""

    metrics: dict[str, str] = {}
    """Always the scores of the tables."""
    source: str
    """The synthetic preset whose people are labelled."""
    target: str
    """The synthetic preset that is adapted to."""

    @field_validator("arms")
    @classmethod
    def _is_complete(cls, arms: dict[str, list[Step]]) -> dict[str, list[Step]]:
        if missing := [arm for arm in _ARMS if arm not in arms]:
            raise ValueError(f"needs {', '.join(missing)}, received {', '.join(arms)}")
        return arms


def for_smoke(plan: Plan) -> Plan:
    """One step of everything on tiny images and two seeds, which shows that it runs and measures nothing."""

    def tiny(step: Step) -> Step:
        evaluates = "operation_mode=evaluation" in step.overrides
        of_source = step.config == plan.shared[0].config
        more = () if evaluates else (*_SMOKE, *_SMOKE_TRAINING) if of_source else _SMOKE_ADAPTATION
        kept = [text for text in step.overrides if not text.startswith(("adaptation.k1", "adaptation.k2"))]
        return step.model_copy(update={"overrides": [*kept, *more]})

    changes = {
        "source": "tiny",
        "target": "tiny",
        "seeds": plan.seeds[:2],
        "shared": [tiny(step) for step in plan.shared],
        "arms": {name: [tiny(step) for step in steps] for name, steps in plan.arms.items()},
    }
    return plan.model_copy(update=changes)


def on_people(plan: Plan, source: Path, target: Path, labels: Path) -> Plan:
    """The plan with the folders of its people: every step of the source's configuration is on the source."""

    def filled(step: Step) -> Step:
        root = source if step.config == plan.shared[0].config else target
        texts = [text.replace("{labels}", str(labels)) for text in step.overrides]
        own = [f"dataset.root_path={root}"]
        return step.model_copy(update={"overrides": [*texts, *own]})

    changes = {
        "shared": [filled(step) for step in plan.shared],
        "arms": {name: [filled(step) for step in steps] for name, steps in plan.arms.items()},
    }
    return plan.model_copy(update=changes)


def write_true_labels(root: Path, path: Path) -> Path:
    """Write who is seen in the training images of the target, for the oracle alone."""
    samples = vt_mot(root, "training")
    return write_csv(path, ("file", "label"), ((sample.path, sample.identity) for sample in samples))


# --------------------------------------------------------------------------------------------------------------------
# What was measured


def scores_of(runs: Sequence[Path]) -> dict[str, np.ndarray]:
    """Scores of the evaluations of some runs, a value each."""
    reports = [metrics_of(run, "evaluation") for run in runs]
    return {name: np.array([report[_MODEL + key] for report in reports]) for name, key in _SCORES.items()}


def clusters_of(run: Path, people: Mapping[Path, str]) -> dict[str, dict[str, float]]:
    """Modality to what the last pseudo labels of a run are worth, by the true labels: for analysis only.

    NaN where there are none.

    Args:
        run: Of an arm that clusters.
        people: Who is seen in the images of the target, as `people_of` reads it.
    """
    written = run / "adaptation/pseudo_labels.csv"
    if not written.is_file():  # its first clusters could not be learned from
        return {name: dict.fromkeys(_OF_CLUSTERS, np.nan) for name in _MODALITIES}
    found = described(written, people)
    return {
        modality: {
            name: np.nan if (value := getattr(statistics, name)) is None else float(value)
            for name in _OF_CLUSTERS
        }
        for modality, statistics in found.items()
    }


def rounds_of(plan: Plan, folder: Path) -> dict[tuple[str, int], tuple[int, int]]:
    """Rounds that each arm and seed took, and those that a guard kept it from."""
    found = {}
    for arm in (arm for arm in plan.arms if arm != _BEFORE):
        for seed in plan.seeds:
            metrics = metrics_of(step_folder(folder, arm, seed, 1), "adaptation")
            found[arm, seed] = int(metrics["rounds"]), int(metrics["rounds_left"])
    return found


def gains_of(results: Mapping[str, Scores], name: str, arm: str) -> np.ndarray:
    """How much better an arm is than no adaptation, in [-1, 1], a seed each."""
    gained: np.ndarray = results[arm][name] - results[_BEFORE][name]
    return gained


def closed_share(results: Mapping[str, Scores], name: str, arm: str = _ADAPTED) -> float:
    """Mean gain of an arm divided by that of the oracle, the mean gap; NaN where the gap may be none.

    Not the mean of the shares of the seeds, which the seed with the smallest gap would rule.
    """
    gaps = gains_of(results, name, _ORACLE)
    is_gap = paired_t(gaps)[0] > 0
    return float(gains_of(results, name, arm).mean() / gaps.mean()) if is_gap else np.nan


# --------------------------------------------------------------------------------------------------------------------
# What is written


def scores_table(results: Mapping[str, Scores], source: Mapping[str, Scores], target: str) -> list[str]:
    """Scores of every arm on the target, and on the source before and after, as Markdown: mean and deviation."""
    lines = [
        [arm, where, *(spread(scores[name]) for name in _SCORES)]
        for where, rows in ((target, results), ("source", source))
        for arm, scores in rows.items()
    ]
    return markdown(["arm", "scored on", *(f"{name}, mAP %" for name in _SCORES)], lines, text_columns=(0, 1))


def gains_table(results: Mapping[str, Scores]) -> list[str]:
    """Points of mAP that each arm gains over no adaptation, and their share of the oracle's, as Markdown."""
    arms = [_ORACLE, *(arm for arm in results if arm not in (_BEFORE, _ORACLE))]
    lines = ([arm, *(_gain(results, name, arm) for name in _SCORES)] for arm in arms)
    return markdown(["gain over no adaptation in points of mAP, share of the gap", *_SCORES], lines)


def _gain(results: Mapping[str, Scores], name: str, arm: str) -> str:
    share = closed_share(results, name, arm)
    told = "" if np.isnan(share) else f", {100 * share:.0f} %"
    return f"{spread(gains_of(results, name, arm), sign='+')}{told}"


def clusters_table(plan: Plan, folder: Path, people: Mapping[Path, str]) -> list[str]:
    """Clusters of the last round of each arm, and how far they are the people, whom no arm sees, as Markdown."""
    lines = []
    for arm in (arm for arm in plan.arms if arm not in (_BEFORE, _ORACLE)):
        found = [clusters_of(step_folder(folder, arm, seed, 1), people) for seed in plan.seeds]
        for modality in _MODALITIES:
            values = {name: np.array([f[modality][name] for f in found]) for name in found[0][modality]}
            cells = (_count(v) if name in _COUNTS else spread(v) for name, v in values.items())
            lines.append([arm, modality, *cells])
    return markdown(("arm", "modality", *_OF_CLUSTERS.values()), lines, text_columns=(0, 1))


def _count(values: np.ndarray) -> str:
    return "-" if np.isnan(values).any() else f"{values.mean():.0f}"


def verdict_on_share(results: Mapping[str, Scores], name: str) -> str:
    """Whether enough of the gap of a column is closed, unless it is not certain that there is one."""
    gaps, share = gains_of(results, name, _ORACLE), closed_share(results, name)
    beyond = gains_of(results, name, _ADAPTED) - _NEEDED_SHARE * gaps
    gap = f"the gap to the oracle, {100 * gaps.mean():+.1f} points of mAP, 95 % interval {interval(paired_t(gaps))}"
    if np.isnan(share):
        return f"- **unresolved**: {name}: {gap}, is not above 0 for certain, so there is no share of it"
    return verdict(
        share >= _NEEDED_SHARE,
        f"{name}: {100 * share:.0f} % of {gap}, is closed, at least {100 * _NEEDED_SHARE:.0f} % are asked for: "
        f"{100 * beyond.mean():+.1f} points beyond that, {interval(paired_t(beyond))}",
    )


def verdict_on_rounds(rounds: Mapping[tuple[str, int], tuple[int, int]]) -> str:
    """Whether all arms took as many steps as they were to take, by what `rounds_of` found."""
    short = [
        f"{arm}, seed {seed}: {taken} of {taken + left}"
        for (arm, seed), (taken, left) in rounds.items()
        if left
    ]
    told = f"; a guard ended {'; '.join(short)}" if short else ""
    return verdict(not short, f"every arm and seed took all rounds{told}")


def verdicts(results: Mapping[str, Scores]) -> list[str]:
    """What is asked for and whether it is met, and what clustering and constraints make."""
    lines = [verdict_on_share(results, name) for name in _SCORES]
    for what, other in (
        ("Clustering beside tracks and pairs makes", _CONTROL),
        ("Tracks, pairs and the clustering that they allow make together,", _FREE),
    ):
        made = {name: np.subtract(results[_ADAPTED][name], results[other][name]) for name in _SCORES}
        told = ", ".join(f"{name} {spread(v, '+')}, {interval(paired_t(v))}" for name, v in made.items())
        lines.append(f"- {what} in points of mAP, with 95 % intervals over the seeds: {told}.")
    return lines


def draw(plan: Plan, folder: Path, people: Mapping[Path, str], pictures: Path) -> list[str]:
    """Copy the embedding maps before and after, draw the clusters by round; returns the Markdown that shows them."""
    first, lines = plan.seeds[0], []
    for arm in (_BEFORE, _ADAPTED):
        found = step_folder(folder, arm, first, 1) / "evaluation/embedding_map.png"
        if found.is_file():
            copied = pictures / f"{plan.target}_adaptation_{arm}.png"
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, copied)
            lines += [f"![Test images of the target, {arm}, by t-SNE](images/{copied.name})", ""]
    run, curves = step_folder(folder, _ADAPTED, first, 1), {}
    for modality in _MODALITIES:
        rows = _history(run, modality)
        known = [(int(row["round"]), float(row["agreement"])) for row in rows if row["agreement"]]
        if known:
            x, y = zip(*known, strict=True)
            curves[modality] = (x, y)
    if curves:
        path = pictures / f"{plan.target}_adaptation_agreement.png"
        title = "Agreement of the clusters with those of the round before"
        line_curves(path, curves, "round", "adjusted Rand index", title)
        lines += [f"![{title}](images/{path.name})", ""]
    if any(
        run.glob("adaptation/pseudo_labels/round_*.csv")
    ):  # none where the first clusters could not be learned from
        path = draw_purity(
            pictures / f"{plan.target}_adaptation_purity.png", by_round(run / "adaptation", people)
        )
        lines.append(f"![{CLUSTERS}, by labels that adaptation does not see](images/{path.name})")
    return lines


def _history(run: Path, modality: str) -> list[dict[str, str]]:
    with (run / "adaptation/rounds.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["modality"] == modality]


def _run(options: Options) -> tuple[str, dict[str, Any]]:
    plan, folder = read_plan(Plan, options.plan), options.folder
    plan = for_smoke(plan) if options.smoke else plan
    roots = {name: _PROJECT / f"datasets/synthetic_{name}_vt_mot" for name in (plan.source, plan.target)}
    rendered_before = any(root.is_dir() for root in roots.values())
    is_new, start = not folder.exists(), perf_counter()
    source, target = (generate(name, roots[name], "vt_mot") for name in (plan.source, plan.target))
    labels = write_true_labels(target, folder / "true_labels.csv")
    planned = on_people(plan, source, target, labels)
    check_plan(planned, folder)
    run_experiment(planned, folder, options.jobs)
    minutes = (perf_counter() - start) / 60
    people = people_of(labels)
    results = {arm: scores_of([step_folder(folder, arm, s, 1) for s in plan.seeds]) for arm in plan.arms}
    on_source = {
        _BEFORE: scores_of([step_folder(folder, SHARED, s, len(plan.shared)) for s in plan.seeds]),
        _ADAPTED: scores_of([step_folder(folder, _ADAPTED, s, 2) for s in plan.seeds]),
    }
    timed = [time_verdict(minutes, _MINUTES, rendered_before)]
    if not is_new:
        timed = summed_time_verdict(folder, options.jobs, _MINUTES)
    lines = [
        *scores_table(results, on_source, "target"), "", *gains_table(results), "",
        *clusters_table(plan, folder, people), "", *verdicts(results),
        verdict_on_rounds(rounds_of(plan, folder)), *timed, "",
        *draw(plan, folder, people, folder if options.smoke else _PAGE.parent / "images"),
    ]  # fmt: skip
    plain = {arm: {name: values.tolist() for name, values in row.items()} for arm, row in results.items()}
    return "\n".join(lines), {"plan": plan.model_dump(mode="json"), "mAP": plain}


def main(arguments: list[str]) -> int:
    """Run the experiment; returns the exit code."""
    options = read_options(arguments, "How far adaptation goes without labels.", _PLAN)
    return run_planned(options, _run, _PAGE, _BEGIN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
