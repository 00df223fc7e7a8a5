"""What a teacher makes of a student, what IDKL makes of AGW, and what INT8 costs them.

    make experiments-distillation

The people are those of a synthetic preset in the layout of SYSU-MM01, whose protocol scores them. Every training and
every quantization is a run of `stm32ai_main.py`; what is finished is not repeated. The last step of an arm quantizes
its network, and has the scores of both. The tables go into docs/results.md.
"""

import csv
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml
from pydantic import Field

from common.config import ConfigError
from src.schema import ModelSection
from src.tools._intervals import paired_t
from src.tools._markdown import interval, markdown, spread
from src.tools._planned import Options, read_options, read_plan, run_planned, verdict
from src.tools._sizes import Size, published_sizes, size_of
from src.tools.cross_modal_experiment import (
    SCORES,
    SMOKE,
    Part,
    Plan,
    Rows,
    difference,
    parts_table,
    run_on_people,
)
from src.tools.experiment import SHARED, Step, metrics_of, model_of, step_folder

_PROJECT = Path(__file__).parents[2]
_PLAN = Path(__file__).parent / "experiments/distillation.yaml"
_PAGE = _PROJECT / "docs/results.md"
_BEGIN = "<!-- tables of make experiments-distillation -->"
_MAP, _INT8_MAP = "thermal to visible mAP", "INT8 thermal to visible mAP"
_VALIDATION = "val_mAP"
_NEEDED_POINTS, _STEP_COST, _INT8_POINTS, _MINUTES = 2.0, 1.5, 1.0, 150
_TINY_STAGE = (
    "{epochs: 1, steps_per_epoch: 1, optimizer: SGD, losses: [{name: cross_entropy}, {name: logit_distillation}, "
    "{name: relational_distillation}, {name: focal_ranking}]}"
)
_SMOKE_DISTILLATION = (
    "++model.input_shape=[64,32,3]", "distillation.batch_size=24", "distillation.images_per_identity=4",
    "~distillation.stages", f"distillation.stages=[{_TINY_STAGE}, {_TINY_STAGE}]",
)  # fmt: skip
_SMOKE_QUANTIZATION = (
    "++quantization.max_images=16",
    "++quantization.gate={float_gap: 1, dead_dimensions: 1}",
)


class PairedPart(Part):
    """A part whose two sides had the same, which is checked."""

    same: Literal["images", "time"]
    """Both saw as many images, or `without` trained at least as long as `arm`."""


class DistillationPlan(Plan):
    """Arms whose last step quantizes. One has no other step: the teacher, which the shared steps have trained."""

    parts: Sequence[PairedPart] = Field(min_length=1)
    """Rows of the second table."""
    published: dict[str, ModelSection] = {}
    """Rows of the table of networks whose size alone is told."""
    metrics: dict[str, str] = {
        **{name: f"float32/keras/{key}" for name, key in SCORES.items()},
        _INT8_MAP: "int8/onnxruntime_cpu/mAP",
    }
    """Always the scores of the tables."""


class Cost(NamedTuple):
    """What a row took, the first seed's images and the mean time over the seeds."""

    images: int
    """Images seen, those of the teacher's cache not counted."""
    seconds: float
    """Time of the training steps, and of the teacher's cache."""
    step: float
    """Milliseconds of a step of the last training, the median of all epochs but the first one, which traces."""


def for_smoke(plan: DistillationPlan) -> DistillationPlan:
    """One step of every training on tiny images and two seeds, which shows that it runs and measures nothing."""

    def tiny(steps: Sequence[Step]) -> list[Step]:
        return [
            step.model_copy(
                update={
                    "overrides": [
                        *(text for text in step.overrides if "steps_per_epoch" not in text),
                        *_smoke_of(step.config),
                    ]
                }
            )
            for step in steps
        ]

    changes = {
        "preset": "tiny",
        "seeds": plan.seeds[:2],
        "shared": tiny(plan.shared),
        "arms": {name: tiny(steps) for name, steps in plan.arms.items()},
        "published": {},
    }
    return plan.model_copy(update=changes)


def _smoke_of(config: str) -> Sequence[str]:
    kinds = {"distillation": _SMOKE_DISTILLATION, "quantization": _SMOKE_QUANTIZATION}
    return next((overrides for kind, overrides in kinds.items() if kind in config), SMOKE)


# --------------------------------------------------------------------------------------------------------------------
# What the runs say


class _Epochs(NamedTuple):
    """One training of a run: images in a batch and in an epoch, and what it logged."""

    batch: int
    images: int
    rows: list[dict[str, str]]


def trainings_of(run: Path) -> list[_Epochs]:
    """The trainings of a run: one, or the stages of a distillation.

    Raises:
        ConfigError: the configuration leaves the number of steps to the data.
    """
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text(encoding="utf-8"))
    if "distillation" in config["operation_mode"]:
        section = config["distillation"]
        batch, stages = section["batch_size"], section["stages"]
        parts = stages if isinstance(stages, list) else list(stages.values())
        logs = [run / f"distillation/stage_{number}/logs" for number in range(1, len(parts) + 1)]
    else:
        batch, parts, logs = config["training"]["batch_size"], [config["training"]], [run / "logs"]
    found = []
    for part, folder in zip(parts, logs, strict=True):
        if not part.get("steps_per_epoch"):
            raise ConfigError(
                f"{run}: steps_per_epoch must be set, so that the images of all arms can be counted"
            )
        with (folder / "metrics/train_metrics.csv").open(encoding="utf-8", newline="") as file:
            found.append(_Epochs(batch, batch * part["steps_per_epoch"], list(csv.DictReader(file))))
    return found


def runs_of(plan: DistillationPlan, folder: Path, arm: str, seed: int) -> list[Path]:
    """Folders of the trainings that made the network of an arm: the shared ones it starts from, and its own."""
    *own, _ = plan.arms[arm]
    start = re.search(r"model\.model_path=\{shared(?:_(\d+))?\}", " ".join(plan.arms[arm][0].overrides))
    shared = int(start[1] or len(plan.shared)) if start else 0
    return [
        *(step_folder(folder, SHARED, seed, number) for number in range(1, shared + 1)),
        *(step_folder(folder, arm, seed, number) for number in range(1, len(own) + 1)),
    ]


def cost_of(plan: DistillationPlan, folder: Path, arm: str) -> Cost:
    """What an arm took, its start not counted."""
    runs = [runs_of(plan, folder, arm, seed) for seed in plan.seeds]
    trainings = [[part for run in one for part in trainings_of(run)] for one in runs]
    seconds = [
        sum(part.images / float(row["images_per_second"]) for part in parts for row in part.rows)
        for parts in trainings
    ]
    distilled = [run for one in runs for run in one if (run / "distillation/metrics.json").is_file()]
    caches = [metrics_of(run, "distillation").get("teacher_seconds", 0.0) for run in distilled]
    steps = [
        1000 * part.batch / float(row["images_per_second"])
        for one in runs
        for part in trainings_of(one[-1])
        for row in part.rows[1:] or part.rows
    ]
    images = sum(part.images * len(part.rows) for part in trainings[0])
    return Cost(images, float(np.mean(seconds) + sum(caches) / len(runs)), float(np.median(steps)))


def validation_of(plan: DistillationPlan, folder: Path, arm: str) -> list[float]:
    """The best mAP on validation people of the last training, a seed each."""
    runs = [runs_of(plan, folder, arm, seed)[-1] for seed in plan.seeds]
    return [max(float(row[_VALIDATION]) for part in trainings_of(run) for row in part.rows) for run in runs]


def deployed_size(plan: DistillationPlan, folder: Path, arm: str) -> Size:
    """How large the network of an arm is with the first seed."""
    run = step_folder(folder, arm, plan.seeds[0], len(plan.arms[arm]))
    trained = model_of(runs_of(plan, folder, arm, plan.seeds[0])[-1])
    return size_of(trained, sorted((run / "quantized_models").glob("*.onnx")))


# --------------------------------------------------------------------------------------------------------------------
# What is written


def table(
    plan: DistillationPlan, rows: Rows, validation: Mapping[str, Sequence[float]], costs: Mapping[str, Cost]
) -> list[str]:
    """The float scores as Markdown: mean and standard deviation over the seeds."""
    names = list(SCORES)
    columns = [
        "row", "images seen", "training, s", "step, ms", "validation mAP, %", *(f"{name}, %" for name in names),
    ]  # fmt: skip
    lines = []
    for row, scores in rows.items():
        cost = costs[row]
        told = [row, f"{cost.images / 1000:.0f} k", f"{cost.seconds:.0f}", f"{cost.step:.0f}"]
        lines.append([*told, spread(validation[row]), *(spread(scores[name]) for name in names)])
    return markdown(columns, lines)


_SIZE_COLUMNS = ("parameters, k", "MACs, M", "MB float", "MB INT8 (graphs)", "estimated latency, ms")


def sizes_table(rows: Rows, sizes: Mapping[str, Size]) -> list[str]:
    """From the teacher to INT8 students as Markdown: what a network needs for an image, and what it scores."""
    lines = []
    for row, size in sizes.items():
        scores = rows[row]
        lost = 100 * _lost(scores)
        lines.append([
            row, *_size_cells(size),
            spread(scores[_MAP]), spread(scores[_INT8_MAP]), f"{lost.mean():+.2f} ± {lost.std(ddof=1):.2f}",
        ])  # fmt: skip
    return markdown(("row", *_SIZE_COLUMNS, f"{_MAP} float, %", "INT8, %", "lost, points"), lines)


def published_table(sizes: Mapping[str, Size]) -> list[str]:
    """The same without scores, of networks at the size of a publication."""
    return markdown(("network", *_SIZE_COLUMNS), ([name, *_size_cells(size)] for name, size in sizes.items()))


def _size_cells(size: Size) -> tuple[str, ...]:
    return (
        f"{size.parameters / 1e3:.0f}", f"{size.macs / 1e6:.1f}", f"{size.float_megabytes:.2f}",
        f"{size.int8_megabytes:.2f} ({size.graphs})", size.latency,
    )  # fmt: skip


def _lost(scores: Mapping[str, Sequence[float]]) -> np.ndarray:
    return np.asarray(scores[_MAP]) - np.asarray(scores[_INT8_MAP])


def verdicts(
    plan: DistillationPlan, rows: Rows, validation: Mapping[str, Sequence[float]], costs: Mapping[str, Cost]
) -> list[str]:
    """What is asked for and whether it is met."""
    taught = [part for part in plan.parts if part.same == "images" and _has_teacher(plan, part.arm)]
    alone = dict.fromkeys(part.without for part in taught)
    return [
        *(_better_teacher(plan, validation, row) for row in alone),
        *(_same(part, costs) for part in plan.parts),
        *(_step_cost(part, costs) for part in taught),
        _int8(rows),
        *(_points(rows, part) for part in plan.parts),
    ]


def _has_teacher(plan: DistillationPlan, arm: str) -> bool:
    return any("distillation.teacher=" in text for step in plan.arms[arm] for text in step.overrides)


def _better_teacher(plan: DistillationPlan, validation: Mapping[str, Sequence[float]], student: str) -> str:
    teacher = next(arm for arm, steps in plan.arms.items() if len(steps) == 1)
    gaps = np.asarray(validation[teacher]) - np.asarray(validation[student])
    low, high = paired_t(gaps)
    return _line(
        low > 0,
        f"{teacher} beats {student} on validation people: {100 * gaps.mean():+.1f} mAP, 95 % interval "
        f"{interval((low, high))}",
    )


def _same(part: PairedPart, costs: Mapping[str, Cost]) -> str:
    with_it, without = costs[part.arm], costs[part.without]
    if part.same == "images":
        numbers = " and ".join(f"{cost.images:,}" for cost in (with_it, without))
        same = with_it.images == without.images
        return _line(same, f"{part.arm} and {part.without} saw the same number of images: {numbers}")
    return _line(
        without.seconds >= with_it.seconds,
        f"{part.without} trained at least as long as {part.arm}: {without.seconds:.0f} s against "
        f"{with_it.seconds:.0f} s, the teacher's cache included",
    )


def _step_cost(part: PairedPart, costs: Mapping[str, Cost]) -> str:
    ratio = costs[part.arm].step / costs[part.without].step
    return _line(
        ratio <= _STEP_COST,
        f"a step of {part.arm} costs at most {_STEP_COST} steps of {part.without}: {ratio:.2f}",
    )


def _int8(rows: Rows) -> str:
    lost = {row: 100 * float(_lost(scores).mean()) for row, scores in rows.items()}
    worst = max(lost, key=lambda row: lost[row])
    return _line(
        lost[worst] <= _INT8_POINTS,
        f"INT8 loses at most {_INT8_POINTS:.0f} mAP, measured on these rows alone ({'; '.join(rows)}): "
        f"{lost[worst]:+.2f} in the mean, {worst}",
    )


def _points(rows: Rows, part: PairedPart) -> str:
    found = difference(rows, part, _MAP)
    low, high = paired_t(found)
    points = 100 * found.mean()
    return _line(
        points >= _NEEDED_POINTS and low > 0,
        f"{part.arm} minus {part.without}: at least {_NEEDED_POINTS:+.0f} mAP across modalities, with the interval "
        f"above 0: {points:+.1f}, {interval((low, high))} over the seeds",
    )


def _line(passed: bool, text: str) -> str:
    return verdict(passed, f"{text}.")


def _run(options: Options) -> tuple[str, dict[str, Any]]:
    plan, folder = read_plan(DistillationPlan, options.plan), options.folder
    plan = for_smoke(plan) if options.smoke else plan
    root = _PROJECT / f"datasets/synthetic_{plan.preset}_sysu_mm01"
    rows, timed = run_on_people(plan, root, options, _MINUTES)
    validation = {arm: validation_of(plan, folder, arm) for arm in plan.arms}
    costs = {arm: cost_of(plan, folder, arm) for arm in plan.arms}
    sizes = {arm: deployed_size(plan, folder, arm) for arm in plan.arms}
    published = published_sizes(plan.published, folder / "published")
    lines = [
        *table(plan, rows, validation, costs), "", *parts_table(plan, rows, folder), "",
        *sizes_table(rows, sizes), "", *published_table(published), "",
        *verdicts(plan, rows, validation, costs), *timed,
    ]  # fmt: skip
    return "\n".join(lines), {
        "plan": plan.model_dump(mode="json"), "rows": rows, "validation": validation,
        "costs": {arm: cost._asdict() for arm, cost in costs.items()},
        "sizes": {row: size._asdict() for row, size in {**sizes, **published}.items()},
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run the experiment; returns the exit code."""
    options = read_options(arguments, "What a teacher makes of a student.", _PLAN)
    return run_planned(options, _run, _PAGE, _BEGIN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
