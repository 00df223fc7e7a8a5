"""What a teacher makes of a student, what IDKL makes of AGW, and what INT8 costs them.

    make experiments-distillation

The people are those of a synthetic preset in the layout of SYSU-MM01, whose protocol scores them. Every training is a
run of `stm32ai_main.py`; what is finished is not repeated. The last step of an arm quantizes its network too, and has
the scores of both. The tables go into docs/results.md.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

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
    for_smoke,
    intervals_of,
    parts_table,
    require_arm,
    run_on_people,
)
from src.tools.experiment import Epochs, metrics_of, model_of, runs_of, step_folder, trainings_of

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
_SMOKE = {
    "distillation": _SMOKE_DISTILLATION + _SMOKE_QUANTIZATION,
    "quantization": _SMOKE_QUANTIZATION,
    "": SMOKE + _SMOKE_QUANTIZATION,
}


class PairedPart(Part):
    """A part whose two sides had the same, which is checked."""

    same: Literal["images", "time"]
    """Both saw as many images, or `without` trained at least as long as `arm`."""


class DistillationPlan(Plan):
    """Arms whose last step quantizes."""

    teacher: str
    """The arm that does no more than that, with the network that teaches, which shared steps have trained."""
    parts: Sequence[PairedPart] = Field(min_length=1)
    """Rows of the second table."""
    published: dict[str, ModelSection] = {}
    """Rows of the table of networks whose size alone is told."""
    metrics: dict[str, str] = {
        **{name: f"float32/keras/{key}" for name, key in SCORES.items()},
        _INT8_MAP: "int8/onnxruntime_cpu/mAP",
    }
    """Always the scores of the tables."""

    @model_validator(mode="after")
    def _has_its_rows(self) -> "DistillationPlan":
        require_arm(self, "teacher", self.teacher)
        for part in self.parts:
            require_arm(self, f"parts: {part.part}: without", part.without)
        return self


class Cost(NamedTuple):
    """What a row took, the first seed's images and the mean time over the seeds."""

    images: int
    """Images seen, those of the teacher's cache not counted."""
    seconds: float
    """Processor time of the training steps, and of the teacher's cache."""
    step: float
    """Milliseconds of processor time of a step of the last training, the median over the epochs."""


# --------------------------------------------------------------------------------------------------------------------
# What the runs say


def trainings(plan: DistillationPlan, folder: Path, arm: str, seed: int) -> list[tuple[Path, list[Epochs]]]:
    """The runs that made the network of an arm, in order, each with its trainings; runs without one are left out."""
    found = [(run, trainings_of(run)) for run in runs_of(plan, folder, arm, seed)]
    return [(run, parts) for run, parts in found if parts]


def cost_of(plan: DistillationPlan, folder: Path, arm: str) -> Cost:
    """What an arm took, the shared trainings that it starts from included."""
    found = [trainings(plan, folder, arm, seed) for seed in plan.seeds]
    seconds = [sum(_seconds(run, parts) for run, parts in one) for one in found]
    steps = [
        1000 * part.batch / part.images * float(row["processor_seconds"])
        for one in found
        for part in one[-1][1]
        for row in part.rows
    ]
    images = sum(part.images * len(part.rows) for _, parts in found[0] for part in parts)
    return Cost(images, float(np.mean(seconds)), float(np.median(steps)))


def _seconds(run: Path, parts: Sequence[Epochs]) -> float:
    taught = (run / "distillation/metrics.json").is_file()
    cache = metrics_of(run, "distillation")["teacher_processor_seconds"] if taught else 0.0
    return cache + sum(float(row["processor_seconds"]) for part in parts for row in part.rows)


def validation_of(plan: DistillationPlan, folder: Path, arm: str) -> list[float]:
    """The best mAP on validation people of the last run that trained, a seed each."""
    last = [trainings(plan, folder, arm, seed)[-1][1] for seed in plan.seeds]
    return [max(float(row[_VALIDATION]) for part in parts for row in part.rows) for parts in last]


def deployed_size(plan: DistillationPlan, folder: Path, arm: str) -> Size:
    """How large the network of an arm is with the first seed."""
    run = step_folder(folder, arm, plan.seeds[0], len(plan.arms[arm]))
    trained = model_of(trainings(plan, folder, arm, plan.seeds[0])[-1][0])
    return size_of(trained, sorted((run / "quantized_models").glob("*.onnx")))


# --------------------------------------------------------------------------------------------------------------------
# What is written


def table(rows: Rows, validation: Mapping[str, Sequence[float]], costs: Mapping[str, Cost]) -> list[str]:
    """The float scores as Markdown: mean and standard deviation over the seeds."""
    names = list(SCORES)
    columns = [
        "row", "images seen", "training, CPU s", "step, CPU ms", "validation mAP, %", *(f"{name}, %" for name in names),
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
    plan: DistillationPlan,
    rows: Rows,
    folder: Path,
    validation: Mapping[str, Sequence[float]],
    costs: Mapping[str, Cost],
) -> list[str]:
    """What is asked for and whether it is met."""
    taught = [part for part in plan.parts if part.same == "images" and _has_teacher(plan, part.arm)]
    alone = dict.fromkeys(part.without for part in taught)
    return [
        *(_better_teacher(plan, validation, row) for row in alone),
        *(_same(part, costs) for part in plan.parts),
        *(_step_cost(part, costs) for part in taught),
        _int8(rows),
        *(_points(plan, rows, folder, part) for part in plan.parts),
    ]


def _has_teacher(plan: DistillationPlan, arm: str) -> bool:
    return any("distillation.teacher=" in text for step in plan.arms[arm] for text in step.overrides)


def _better_teacher(plan: DistillationPlan, validation: Mapping[str, Sequence[float]], student: str) -> str:
    gaps = np.asarray(validation[plan.teacher]) - np.asarray(validation[student])
    low, high = paired_t(gaps)
    return _line(
        low > 0,
        f"{plan.teacher} beats {student} on validation people: {100 * gaps.mean():+.1f} mAP, 95 % interval "
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
        f"{part.without} trained at least as long as {part.arm}: {without.seconds:.0f} s of processor time against "
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


def _points(plan: DistillationPlan, rows: Rows, folder: Path, part: PairedPart) -> str:
    points = 100 * difference(rows, part, _MAP).mean()
    ends = intervals_of(plan, rows, folder, part, _MAP)
    told = " and ".join(
        f"{interval(found)} over the {what}"
        for found, what in zip(ends, ("seeds", "seeds and people"), strict=False)
    )
    return _line(
        points >= _NEEDED_POINTS and all(low > 0 for low, _ in ends),
        f"{part.arm} minus {part.without}: at least {_NEEDED_POINTS:+.0f} mAP across modalities, with the intervals "
        f"above 0: {points:+.1f}, {told}",
    )


def _line(passed: bool, text: str) -> str:
    return verdict(passed, f"{text}.")


def _run(options: Options) -> tuple[str, dict[str, Any]]:
    start = perf_counter()
    plan, folder = read_plan(DistillationPlan, options.plan), options.folder
    if options.smoke:
        plan = for_smoke(plan, _SMOKE).model_copy(update={"published": {}})
    root = _PROJECT / f"datasets/synthetic_{plan.preset}_sysu_mm01"
    published = published_sizes(plan.published, folder / "published")  # first, since it may fail
    rows, timed = run_on_people(plan, root, options, _MINUTES, start)
    validation = {arm: validation_of(plan, folder, arm) for arm in plan.arms}
    costs = {arm: cost_of(plan, folder, arm) for arm in plan.arms}
    sizes = {arm: deployed_size(plan, folder, arm) for arm in plan.arms}
    lines = [
        *table(rows, validation, costs), "", *parts_table(plan, rows, folder), "",
        *sizes_table(rows, sizes), "", *published_table(published), "",
        *verdicts(plan, rows, folder, validation, costs), *timed,
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
