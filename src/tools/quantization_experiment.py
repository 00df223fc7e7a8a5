"""What INT8 costs: float, PTQ, QAT and the emulated NPU for several networks, and whether that is little enough.

    make experiments-quantization

Each network and seed is trained once and quantized twice, with QAT and with 16 bits between operators, in three runs of
`stm32ai_main.py`; what is finished is not repeated, so remove `step_2` of a network to quantize it anew. The table goes
into docs/README_QUANTIZATION.md.
"""

import csv
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from pydantic import Field

from common.config import Strict
from common.run import progress
from src.tools._markdown import markdown, spread
from src.tools._planned import Options, read_options, read_plan, run_planned, time_verdict, verdict
from src.tools.experiment import alone_in, metrics_of, run_step

_PROJECT = Path(__file__).parents[2]
_PLAN = Path(__file__).parent / "experiments/quantization.yaml"
_PAGE = _PROJECT / "docs/README_QUANTIZATION.md"
_BEGIN = "<!-- table of make experiments-quantization -->"
_BASE = "chain_tqeb_config.yaml"
_SMOKE = (
    "dataset.synthetic_preset=tiny", "model.input_shape=(64,32,3)", "training.epochs=1", "training.batch_size=16",
    "++training.steps_per_epoch=1", "~training.callbacks",
)  # fmt: skip
_SMOKE_WIDE = (
    "++quantization.max_images=16",
    "++quantization.gate={float_gap: 1, dead_dimensions: 1}",
    "++benchmarking.parity_images=2",
    "++benchmarking.latency_runs=5",
)
_SMOKE_QUANTIZATION = (
    "++quantization.qat.max_steps=1", "++quantization.qat.batch_size=8", *_SMOKE_WIDE,
)  # fmt: skip
_MINUTES = 90

Values = Mapping[str, float]
"""What was measured of one network and seed, by name."""


class Network(Strict):
    """One row."""

    seeds: list[int] = Field(min_length=1)
    """`general.global_seed` of the repetitions."""
    emulate: bool = False
    """Score the test set on the emulator; otherwise it is compared with ONNX Runtime on `parity_images`."""
    training: list[str] = []
    """Further overrides of the training."""
    quantization: list[str] = []
    """Further overrides of the quantization."""


class Plan(Strict):
    """What is trained and quantized."""

    overrides: list[str] = []
    """Given to every run."""
    training: list[str] = []
    """Given to every training."""
    quantization: list[str] = []
    """Given to every quantization."""
    emulation: list[str] = []
    """Given to every quantization of a network that is emulated."""
    wide: list[str] = []
    """Given to every quantization with 16 bits between operators, of which only parity is measured."""
    networks: dict[str, Network]
    """`model.model_name` to its row."""


_SCORES = {
    "float": "compare/float/keras",
    "ptq": "compare/ptq/onnxruntime_cpu",
    "qat": "compare/qat/onnxruntime_cpu",
}


def run_plan(plan: Plan, folder: Path, jobs: int, smoke: bool = False) -> dict[str, list[Values]]:
    """Run what is not finished yet.

    Args:
        plan: What to run.
        folder: One folder a network is made in it.
        jobs: Runs side by side; each has an equal part of the cores.
        smoke: One step of everything on tiny images, which shows that it runs and measures nothing.

    Returns:
        Network to what was measured, a seed each.

    Raises:
        RuntimeError: a run failed; the message names its log.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    work = [(name, seed) for name, network in plan.networks.items() for seed in network.seeds]
    with (
        alone_in(folder),
        progress("runs", 3 * len(work), "runs") as advance,
        ThreadPoolExecutor(jobs) as pool,
    ):

        def one(item: tuple[str, int]) -> Values:
            name, seed = item
            target, network = folder / name / f"seed_{seed}", plan.networks[name]
            common = [*plan.overrides, f"general.global_seed={seed}", f"++general.num_threads={threads}"]
            training = [
                *common, "operation_mode=training", f"model.model_name={name}", *plan.training, *network.training,
                *(_SMOKE if smoke else ()),
            ]  # fmt: skip
            run_step(_BASE, training, target / "step_1", {}, threads)
            advance(1, f"{name}, seed {seed}")
            mode = "chain_qeb" if network.emulate else "chain_qb"
            trained = [*common, "~model.model_name", "~training", "+model.model_path={previous}"]
            quantization = [
                *trained, f"operation_mode={mode}",
                *(plan.emulation if network.emulate else []),
                *plan.quantization, *network.quantization, *(_SMOKE[:2] + _SMOKE_QUANTIZATION if smoke else ()),
            ]  # fmt: skip
            wide = [
                *trained, "operation_mode=chain_qb", *plan.wide, *(_SMOKE[:2] + _SMOKE_WIDE if smoke else ()),
            ]  # fmt: skip
            best = target / "step_1/saved_models/best_model.keras"
            for step, overrides in (("step_2", quantization), ("step_3", wide)):
                run_step(_BASE, overrides, target / step, {"previous": best}, threads)
                advance(1, f"{name}, seed {seed}")
            return measured(target)

        found = list(pool.map(one, work))
    return {
        name: [values for (owner, _), values in zip(work, found, strict=True) if owner == name]
        for name in plan.networks
    }


def measured(folder: Path) -> Values:
    """What the runs in a folder measured, in the units of the reports; what was not measured is absent."""
    second, third = folder / "step_2", folder / "step_3"
    quantization, benchmarking = (metrics_of(second, service) for service in ("quantization", "benchmarking"))
    evaluation = metrics_of(second, "evaluation") if (second / "evaluation/metrics.json").is_file() else {}
    values = {
        f"{kind}/{key}": quantization[f"{prefix}/{key}"]
        for kind, prefix in _SCORES.items()
        for key in ("rank1", "mAP", "cosine_mean", "cosine_1_percent", "dead_dimensions", "megabytes")
    }
    for key in ("rank1", "mAP"):
        if (name := f"int8/qnn_htp_emulator/{key}") in evaluation:
            values[f"htp/{key}"] = evaluation[name]
    values["file_gap"] = quantization["gate/quantized_model.onnx/mean_gap"]
    values["htp/cosine"] = benchmarking["qnn_htp_emulator/parity_cosine_mean"]
    values["integer"] = benchmarking["npu/integer_convolutions"] / benchmarking["npu/convolutions"]
    values["wide/to_float"] = 1 - metrics_of(third, "quantization")["gate/quantized_model.onnx/float_gap"]
    values["wide/htp"] = metrics_of(third, "benchmarking")["qnn_htp_emulator/parity_cosine_mean"]
    compiled = [benchmarking[name] for name in ("npu/context_bytes", "npu/dlc_bytes") if name in benchmarking]
    values["package_megabytes"] = max([values["qat/megabytes"], *(size / 1e6 for size in compiled)])
    queries = folder / "step_1/evaluation/best_model_keras_queries.csv"
    if queries.is_file():
        with queries.open(encoding="utf-8", newline="") as file:
            values["queries"] = sum(1 for _ in csv.DictReader(file))
    return values


def table(results: Mapping[str, Sequence[Values]]) -> str:
    """Write the results as Markdown: means over seeds, with the standard deviation where there are several."""
    columns: dict[str, Callable[[Sequence[Values]], str]] = {
        "seeds": lambda values: str(len(values)),
        **{f"{title} Rank-1 / mAP, %": _scores(kind) for kind, title in _TITLES.items()},
        "cosine QAT to float, mean / 1st percentile": lambda values: (
            f"{_mean(values, 'qat/cosine_mean'):.4f} / {_mean(values, 'qat/cosine_1_percent'):.4f}"
        ),
        "dead dimensions": lambda values: f"{_mean(values, 'qat/dead_dimensions'):.0f}",
        "cosine ONNX to QAT model": lambda values: f"{1 - _mean(values, 'file_gap'):.5f}",
        "cosine HTP to ONNX": lambda values: f"{_mean(values, 'htp/cosine'):.5f}",
        "16 bits: cosine to float / HTP to ONNX": lambda values: (
            f"{_mean(values, 'wide/to_float'):.4f} / {_mean(values, 'wide/htp'):.5f}"
        ),
        "integer convolutions": lambda values: f"{100 * _mean(values, 'integer'):.0f} %",
        "MB float / INT8": lambda values: (
            f"{_mean(values, 'float/megabytes'):.2f} / {_mean(values, 'qat/megabytes'):.2f}"
        ),
    }
    rows = ([name, *(cell(values) for cell in columns.values())] for name, values in results.items())
    return "\n".join(markdown(["network", *columns], rows))


_TITLES = {"float": "float", "ptq": "PTQ", "qat": "QAT", "htp": "HTP emulator"}


def _scores(kind: str) -> Callable[[Sequence[Values]], str]:
    def cell(values: Sequence[Values]) -> str:
        if f"{kind}/rank1" not in values[0]:
            return ""
        return " / ".join(spread([v[f"{kind}/{key}"] for v in values]) for key in ("rank1", "mAP"))

    return cell


def _mean(values: Sequence[Values], key: str) -> float:
    return float(np.mean([v[key] for v in values]))


def verdicts(results: Mapping[str, Sequence[Values]]) -> list[str]:
    """Say of each requirement whether it is met: one line each, `yes` or `no`, with the worst that was measured."""
    repeated = {name: values for name, values in results.items() if len(values) > 1} or results

    def loss(key: str) -> float:
        """Mean over the networks with several seeds of what QAT loses, in points."""
        return float(np.mean([_loss(values, key, "float").mean() for values in repeated.values()]))

    def worst(key: str, of: Callable[[list[float]], float] = min) -> float:
        return of([v[key] for values in results.values() for v in values if key in v])

    seeds = f"mean of {' and '.join(repeated)}"
    rows = [
        (loss("rank1") <= 0.5, f"QAT loses at most 0.5 points of Rank-1: {loss('rank1'):+.2f} ({seeds})"),
        (loss("mAP") <= 1.0, f"QAT loses at most 1.0 points of mAP: {loss('mAP'):+.2f} ({seeds})"),
        (worst("qat/cosine_mean") >= 0.995, f"mean cosine to float >= 0.995: {worst('qat/cosine_mean'):.4f}"),
        (
            worst("file_gap", max) <= 5e-4,
            f"cosine of ONNX Runtime to the QAT model >= 0.9995: {1 - worst('file_gap', max):.5f}",
        ),
        (worst("htp/cosine") >= 0.999, f"cosine of the emulator to ONNX Runtime >= 0.999: {worst('htp/cosine'):.5f}"),
        (
            worst("wide/htp") >= 0.999,
            f"the same with 16 bits between operators >= 0.999: {worst('wide/htp'):.5f}",
        ),
        (worst("integer") == 1, f"all convolutions integer on the HTP: {100 * worst('integer'):.0f} %"),
        (
            worst("package_megabytes", max) <= 26,
            f"the largest of INT8 file, context binary and DLC <= 26 MB: {worst('package_megabytes', max):.2f}",
        ),
    ]  # fmt: skip
    lines = [verdict(passed, text) for passed, text in rows]
    return [*lines, _emulated_verdict(results), *_ptq_verdicts(results)]


def _loss(values: Sequence[Values], key: str, other: str) -> np.ndarray:
    """What QAT loses against float or PTQ, in points, a seed each."""
    return np.array([100 * (v[f"{other}/{key}"] - v[f"qat/{key}"]) for v in values])


def _emulated_verdict(results: Mapping[str, Sequence[Values]]) -> str:
    title = "Rank-1 of the emulator within 0.5 points of ONNX Runtime's"
    emulated = [v for values in results.values() for v in values if "htp/rank1" in v]
    if not emulated:
        return f"- not measured: {title}, no network of the plan is emulated"
    moved = max(100 * abs(v["htp/rank1"] - v["qat/rank1"]) for v in emulated)
    return verdict(moved <= 0.5, f"{title}: {moved:.2f} apart")


def _ptq_verdicts(results: Mapping[str, Sequence[Values]]) -> list[str]:
    """Of each network, whether QAT loses more against PTQ than noise."""
    lines = []
    for name, values in results.items():
        told, passed = [], True
        for key, title in (("rank1", "Rank-1"), ("mAP", "mAP")):
            lost, noise = float(_loss(values, key, "ptq").mean()), _noise(values, key)
            passed &= lost <= noise + 1e-9  # of equal scores that differ in the last bit
            told.append(f"{title} {lost:+.2f} (noise {noise:.2f})")
        lines.append(verdict(passed, f"QAT loses no more than noise against PTQ, {name}: {', '.join(told)}"))
    return lines


def _noise(values: Sequence[Values], key: str) -> float:
    """Of a difference of two scores, in points: its deviation over the seeds, or how certain one seed's score is.

    With one seed it is half the 95 % interval of a binomial share over the queries. An average precision lies between 0
    and 1 as well, so it varies at most as much. Without the number of queries nothing passes for noise.
    """
    if len(values) > 1:
        return float(_loss(values, key, "ptq").std(ddof=1))
    share, queries = values[0][f"ptq/{key}"], values[0].get("queries")
    return 0.0 if queries is None else 100 * 1.96 * float(np.sqrt(share * (1 - share) / queries))


def _rendered_before(plan: Plan) -> bool:
    """Whether the people of the plan are there already, so that a run does not render them."""
    key = "dataset.synthetic_preset="
    presets = [text.removeprefix(key) for text in plan.overrides if text.startswith(key)]
    return any((_PROJECT / f"datasets/synthetic_{preset}").is_dir() for preset in presets)


def _run(options: Options) -> tuple[str, dict[str, Any]]:
    plan = read_plan(Plan, options.plan)
    is_new, rendered_before, start = not options.folder.exists(), _rendered_before(plan), perf_counter()
    results = run_plan(plan, options.folder, options.jobs, options.smoke)
    timed = [time_verdict((perf_counter() - start) / 60, _MINUTES, rendered_before)] if is_new else []
    text = "\n".join([table(results), "", *verdicts(results), *timed])
    return text, {"plan": plan.model_dump(mode="json"), "results": results}


def main(arguments: list[str]) -> int:
    """Run the experiment; returns the exit code."""
    options = read_options(arguments, "Float, PTQ, QAT and the emulated NPU for several networks.", _PLAN)
    return run_planned(options, _run, _PAGE, _BEGIN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
