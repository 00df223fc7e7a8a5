"""What each part of a visible-thermal network makes: the same images for every arm, thermal queries, visible gallery.

    make experiments-cross-modal

The people are those of a synthetic preset in the layout of SYSU-MM01, whose protocol scores them. Every training is a
run of `stm32ai_main.py`; what is finished is not repeated. Tables and pictures go into docs/results.md.
"""

import csv
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from common.config import ConfigError, Strict, suggest
from common.plotting import line_curves
from datasets.synthetic import generate
from src.data.readers.sysu_mm01 import sysu_mm01 as read_sysu_mm01
from src.metrics.protocols import market1501, sysu_mm01
from src.services._analysis import images_of, modality_numbers
from src.tools._intervals import bootstrap, paired_t
from src.tools._markdown import interval, markdown, spread
from src.tools._planned import Options, read_options, read_plan, run_planned, time_verdict, verdict
from src.tools._queries import KERAS, queries_of
from src.tools.experiment import (
    SHARED,
    Experiment,
    Step,
    check_plan,
    metrics_of,
    run_experiment,
    runs_of,
    step_folder,
    summed_time_verdict,
    trainings_of,
)

_PROJECT = Path(__file__).parents[2]
_PLAN = Path(__file__).parent / "experiments/cross_modal.yaml"
_PAGE = _PROJECT / "docs/results.md"
_BEGIN = "<!-- tables of make experiments-cross-modal -->"
SMOKE = (
    "++model.input_shape=[64,32,3]", "training.epochs=1", "++training.steps_per_epoch=1", "training.batch_size=24",
    "training.images_per_identity=4", "~training.callbacks",
)  # fmt: skip
"""Overrides that make a training tiny."""
_MODEL, _RANDOM = "float32/keras/", "baseline/random "
_RANK1, _MAP = "rank1", "mAP"
SCORES = {
    "thermal to visible Rank-1": _RANK1,
    "thermal to visible mAP": _MAP,
    "visible to thermal Rank-1": "visible_to_thermal_rank1",
    "visible Rank-1": "visible_to_visible_rank1",
    "thermal Rank-1": "thermal_to_thermal_rank1",
}
"""Columns of the table, each a name in `evaluation/metrics.json`. The first two are those of the protocol."""
_OF_QUERIES = {_RANK1: "rank1_in_trials", _MAP: "average_precision_in_trials"}
_CHANCE, _UNTRAINED = "chance", "untrained"
_CHANCE_DRAWS, _MAX_RANK = 5, 50
_NEEDED_RANK1, _MINUTES = 0.30, 120

PlanType = TypeVar("PlanType", bound="Plan")
Rows = Mapping[str, Mapping[str, Sequence[float]]]
"""Row to score to a value a seed, in [0, 1]."""


class Part(Strict):
    """Something that an arm has and another row has not."""

    part: str
    """What it is."""
    arm: str
    """The arm that has it."""
    without: str
    """The row that has it not: an arm or `untrained`."""


class Plan(Experiment):
    """Arms, and which of them tell what a part makes."""

    metrics: dict[str, str] = {name: _MODEL + key for name, key in SCORES.items()}
    """Always the scores of the table."""
    preset: str
    """The synthetic preset."""
    parts: Sequence[Part] = Field(min_length=1)
    """Rows of the second table. The first is the one whose difference decides: network against baseline."""

    @model_validator(mode="after")
    def _has_the_rows_of_its_parts(self) -> "Plan":
        for part in self.parts:
            require_arm(self, f"parts: {part.part}: arm", part.arm)
            if part.without != _UNTRAINED:
                require_arm(self, f"parts: {part.part}: without", part.without)
        return self


def require_arm(plan: Experiment, key: str, name: str) -> None:
    """Check that something names an arm.

    Raises:
        ValueError: there is none.
    """
    if name not in plan.arms:
        raise ValueError(f"{key}: there is no arm '{name}', {suggest(name, plan.arms)}")


def for_smoke(plan: PlanType, kinds: Mapping[str, Sequence[str]]) -> PlanType:
    """One step of every training on tiny images and two seeds, which shows that it runs and measures nothing.

    Args:
        plan: Its overrides of epochs, steps, callbacks and stages are left out.
        kinds: Overrides that make a step tiny whose config has the key in its name; the first one that it has counts.
    """

    def tiny(steps: Sequence[Step]) -> list[Step]:
        return [step.model_copy(update={"overrides": [*_kept(step), *_smoke(step.config)]}) for step in steps]

    def _kept(step: Step) -> list[str]:
        return [text for text in step.overrides if not re.search(r"epoch|\.callbacks\b|\.stages\b", text)]

    def _smoke(config: str) -> Sequence[str]:
        return next(overrides for kind, overrides in kinds.items() if kind in config)

    changes = {
        "preset": "tiny",
        "seeds": plan.seeds[:2],
        "shared": tiny(plan.shared),
        "arms": {name: tiny(steps) for name, steps in plan.arms.items()},
    }
    return plan.model_copy(update=changes)


def chance(root: Path) -> dict[str, list[float]]:
    """What random embeddings score on the test images, by the protocols of the evaluation; the mean of some draws."""
    query, gallery = (read_sysu_mm01(root, part) for part in ("query", "gallery"))
    found: dict[str, list[float]] = {name: [] for name in SCORES}
    for draw in range(_CHANCE_DRAWS):
        random = np.random.default_rng(draw)
        asking, shown = (images_of(random.normal(size=(len(part), 64)), part) for part in (query, gallery))
        drawn = sysu_mm01(asking, shown, "cosine", _MAX_RANK)
        plain = market1501(asking, shown, "cosine", _MAX_RANK)
        numbers = {_RANK1: drawn.rank1, _MAP: drawn.mAP, **modality_numbers(asking, shown, plain)}
        for name, key in SCORES.items():
            found[name].append(numbers.get(key, np.nan))
    return {name: [float(np.mean(values))] for name, values in found.items()}


def untrained(plan: Plan, folder: Path) -> dict[str, list[float]]:
    """Scores of the network with random weights, which the first arm's evaluation has beside the trained one."""
    arm, steps = next(iter(plan.arms.items()))
    reports = [metrics_of(step_folder(folder, arm, seed, len(steps)), "evaluation") for seed in plan.seeds]
    return {name: [_of_random(report, key) for report in reports] for name, key in SCORES.items()}


def _of_random(metrics: Mapping[str, float], key: str) -> float:
    found = [
        value for name, value in metrics.items() if name.startswith(_RANDOM) and name.endswith(f"/{key}")
    ]
    if not found:
        raise ConfigError(
            f"arms: the first one needs evaluation.random_network=True; its evaluation has no random {key}"
        )
    return found[0]


# --------------------------------------------------------------------------------------------------------------------
# How many images an arm has seen, and how certain a difference is


def images_seen(plan: Plan, folder: Path, arm: str) -> int:
    """Images that an arm saw with the first seed, the shared start included."""
    runs = runs_of(plan, folder, arm, plan.seeds[0])
    return sum(part.images * len(part.rows) for run in runs for part in trainings_of(run))


def _query_differences(
    plan: Plan, folder: Path, part: Part, key: str
) -> tuple[list[np.ndarray], np.ndarray] | None:
    """`arm` minus `without` for each query, a seed each, and whose queries they are; None where a row has none."""
    if part.without not in plan.arms:
        return None
    found = []
    for seed in plan.seeds:
        with_it, without_it = (
            _queries(step_folder(folder, arm, seed, len(plan.arms[arm]))) for arm in (part.arm, part.without)
        )
        values = [
            np.array([float(row[_OF_QUERIES[key]] or "nan") for row in rows])
            for rows in (with_it, without_it)
        ]
        found.append(values[0] - values[1])
    return found, np.array([row["identity"] for row in with_it])


def _queries(run: Path) -> list[dict[str, str]]:
    folder = run / "evaluation"
    rows = queries_of({path.name: path for path in folder.glob(f"*{KERAS}")})
    if rows is None:
        raise ConfigError(f"{folder}: expected a best_model{KERAS} with the results of each query")
    return rows


# --------------------------------------------------------------------------------------------------------------------
# What is written


def table(rows: Rows, images: Mapping[str, int]) -> list[str]:
    """The scores as Markdown: mean and standard deviation over the seeds."""
    seen = {row: f"{images[row] / 1000:.0f} k" if row in images else "-" for row in rows}
    return markdown(
        ["arm", "images seen", *(f"{name}, %" for name in SCORES)],
        ([row, seen[row], *(spread(scores[name]) for name in SCORES)] for row, scores in rows.items()),
    )


def difference(rows: Rows, part: Part, name: str) -> np.ndarray:
    """What a part makes of a score, a seed each."""
    return np.asarray(rows[part.arm][name]) - np.asarray(rows[part.without][name])


def intervals_of(plan: Plan, rows: Rows, folder: Path, part: Part, name: str) -> list[tuple[float, float]]:
    """95 % intervals of `difference`: by seeds, and by seeds and people where both rows have the results of queries."""
    queries = _query_differences(plan, folder, part, SCORES[name])
    by_seeds = paired_t(difference(rows, part, name))
    return [by_seeds] if queries is None else [by_seeds, bootstrap(*queries)]


def parts_table(plan: Plan, rows: Rows, folder: Path) -> list[str]:
    """What each part makes, in points, as Markdown; with the 95 % intervals of the scores across modalities."""
    names = list(SCORES)
    told = (f"{name}: points, by seeds, by seeds and people" for name in names[:2])
    lines = []
    for part in plan.parts:
        cells = [part.part, f"{part.arm} - {part.without}"]
        for name in names[:2]:
            ends = (interval(found) for found in intervals_of(plan, rows, folder, part, name))
            cells.append(", ".join([spread(difference(rows, part, name), "+"), *ends]))
        lines.append([*cells, spread(difference(rows, part, names[3]), "+")])
    return markdown(["part", "of", *told, names[3]], lines, text_columns=(0, 1))


def best_arm(plan: Plan, rows: Rows) -> str:
    """The arm with the highest mean Rank-1 from thermal to visible."""
    return max(plan.arms, key=lambda arm: float(np.mean(rows[arm][next(iter(SCORES))])))


def verdicts(plan: Plan, rows: Rows, images: Mapping[str, int]) -> list[str]:
    """What is asked for and whether it is met, the difference that decides, and what did not help."""
    rank1, mean_ap, visible = (list(SCORES)[n] for n in (0, 1, 3))
    best = best_arm(plan, rows)
    reached = float(np.mean(rows[best][rank1]))
    first = plan.parts[0]
    low, high = paired_t(difference(rows, first, mean_ap))
    lines = [
        verdict(
            reached >= _NEEDED_RANK1,
            f"the best arm, {best}, reaches {100 * _NEEDED_RANK1:.0f} % thermal to visible: {100 * reached:.1f} %",
        ),
        verdict(
            len(set(images.values())) == 1,
            f"all arms saw the same number of images: {', '.join(f'{n:,}' for n in sorted(set(images.values())))}",
        ),
        f"- {first.arm} minus {first.without}: {_points(rows, first, mean_ap)} mAP, 95 % interval "
        f"{interval((low, high))} over the seeds: {_resolved(low, high)}.",
    ]
    unhelpful = [p for p in plan.parts if not paired_t(difference(rows, p, mean_ap))[0] > 0]
    costly = [p for p in plan.parts if paired_t(difference(rows, p, visible))[1] < 0]
    if unhelpful:
        told = (f"{p.part} ({_points(rows, p, mean_ap)} mAP)" for p in unhelpful)
        lines.append(
            f"- Not shown to help across modalities, the interval over the seeds reaches 0: {'; '.join(told)}."
        )
    if costly:
        told = (f"{p.part} ({_points(rows, p, visible)})" for p in costly)
        lines.append(f"- Costs visible Rank-1, beyond the spread of the seeds: {'; '.join(told)}.")
    return lines


def _points(rows: Rows, part: Part, name: str) -> str:
    return f"{100 * difference(rows, part, name).mean():+.1f}"


def _resolved(low: float, high: float) -> str:
    return "resolved" if low > 0 or high < 0 else "not resolved by these seeds"


def draw(plan: Plan, folder: Path, pictures: Path, best: str) -> list[str]:
    """Draw the mean curves over the seeds, and copy ranked lists of an arm; returns the Markdown that shows them."""
    curves = {
        f"{plan.preset}_cross_modal_cmc.png": (
            _cmc, "rank", "queries matched, %", "Thermal queries, drawn visible galleries",
        ),
        f"{plan.preset}_cross_modal_training.png": (
            _training, "images seen, thousands", "validation mAP, %", "Thermal to visible during the training",
        ),
    }  # fmt: skip
    lines = []
    for name, (curve, xlabel, ylabel, title) in curves.items():
        found = {
            arm: drawn for arm in plan.arms if (drawn := _mean_curve(plan, folder, arm, curve)) is not None
        }
        line_curves(pictures / name, found, xlabel=xlabel, ylabel=ylabel, title=title)
        lines += [f"![{title}](images/{name})", ""]
    lists = (
        step_folder(folder, best, plan.seeds[0], len(plan.arms[best])) / "evaluation/cross_modal_lists.png"
    )
    if lists.is_file():
        copied = pictures / f"{plan.preset}_cross_modal_lists.png"
        with Image.open(lists) as sheet:
            sheet.convert("RGB").quantize(256).save(copied, optimize=True)  # a quarter of the bytes
        title = (
            f"{best}, seed {plan.seeds[0]}: each person in the other modality, the same person framed green"
        )
        lines.append(f"![{title}](images/{copied.name})")
    return lines


Curve = tuple[np.ndarray, np.ndarray]


def _mean_curve(
    plan: Plan, folder: Path, arm: str, curve: Callable[[Sequence[Path]], Curve | None]
) -> Curve | None:
    found = [curve(runs_of(plan, folder, arm, seed)) for seed in plan.seeds]
    known = [drawn for drawn in found if drawn is not None]
    if len(known) < len(found):
        return None
    shortest = min(len(x) for x, _ in known)
    return known[0][0][:shortest], np.mean([y[:shortest] for _, y in known], axis=0)


def _cmc(runs: Sequence[Path]) -> Curve:
    with (runs[-1] / "evaluation/cmc.csv").open(encoding="utf-8", newline="") as file:
        rows = [list(row.values()) for row in csv.DictReader(file)]
    values = np.array(rows, dtype=float)
    return values[:, 0], values[:, 1]


def _training(runs: Sequence[Path]) -> Curve | None:
    """Validation mAP from thermal to visible by thousands of images; None where one modality was validated on."""
    x, y, seen = [], [], 0
    for part in (part for run in runs for part in trainings_of(run)):
        for row in part.rows:
            seen += part.images
            if value := row.get("val_thermal_to_visible_mAP"):
                x.append(seen / 1000)
                y.append(100 * float(value))
    return (np.array(x), np.array(y)) if x else None


def run_on_people(
    plan: Plan, root: Path, options: Options, minutes: int, start: float
) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
    """Render the people of the preset, and run what is not finished yet.

    Args:
        plan: What to run.
        root: Folder of the people in the layout of SYSU-MM01, who are rendered unless they are there.
        options: Of the command line.
        minutes: That a whole new run may take.
        start: When it began, of `perf_counter`.

    Returns:
        What `run_experiment` returns, and a line that says whether the runs were fast enough, if that is known.

    Raises:
        ConfigError: a step of the plan is refused, or the folder is in use.
        RuntimeError: a run failed; the message names its log.
    """
    is_new, rendered_before = not (options.folder / SHARED).exists(), root.is_dir()
    generate(plan.preset, root, "sysu_mm01")
    overrides = [*plan.overrides, "dataset.dataset_name=sysu_mm01", f"++dataset.root_path={root}"]
    planned = plan.model_copy(update={"overrides": overrides})
    check_plan(planned, options.folder)
    results = run_experiment(planned, options.folder, options.jobs)
    if not is_new:
        return results, summed_time_verdict(options.folder, options.jobs, minutes)
    return results, [time_verdict((perf_counter() - start) / 60, minutes, rendered_before)]


def _run(options: Options) -> tuple[str, dict[str, Any]]:
    start = perf_counter()
    plan, folder = read_plan(Plan, options.plan), options.folder
    plan = for_smoke(plan, {"": SMOKE}) if options.smoke else plan
    root = _PROJECT / f"datasets/synthetic_{plan.preset}_sysu_mm01"
    results, timed = run_on_people(plan, root, options, _MINUTES, start)
    rows = {_CHANCE: chance(root), _UNTRAINED: untrained(plan, folder), **results}
    images = {arm: images_seen(plan, folder, arm) for arm in plan.arms}
    pictures = folder if options.smoke else _PAGE.parent / "images"
    lines = [
        *table(rows, images), "", *parts_table(plan, rows, folder), "", *verdicts(plan, rows, images),
        *timed, "", *draw(plan, folder, pictures, best_arm(plan, rows)),
    ]  # fmt: skip
    return "\n".join(lines), {
        "plan": plan.model_dump(mode="json"), "rows": rows, "images_seen": images,
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run the experiment; returns the exit code."""
    options = read_options(arguments, "What each part of a visible-thermal network makes.", _PLAN)
    return run_planned(options, _run, _PAGE, _BEGIN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
