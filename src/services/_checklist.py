"""The production checklist of `deployment.gate`: what it asks for, and which measurements answer it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.artifacts import Report
from common.config import ConfigError, suggest
from common.deployment.gate import Measured, Requirement, Rule
from src.schema import Gate

SIZE = "size_mb"
_EVALUATED_ON = ("qnn_htp_emulator", "onnxruntime_cpu")
_ON_CHIP = "device"
_NO_DEVICE = (
    "needs the chip: the emulator tells neither time nor memory; measure there, state it in gate.measurements"
)

_NO_MEMORY = (
    "a profile tells a range of peak memory that is too wide for a limit: measure on the chip, state it in "
    "gate.measurements"
)
_SHARES = {"rank1", "night_rank1", "day_to_night_rank1", "false_match_rate"}

_ANSWERS = {
    "night_rank1": ("thermal_to_thermal_rank1",),
    "day_to_night_rank1": ("visible_to_thermal_rank1", "thermal_to_visible_rank1"),
}
"""Items that an evaluation answers under other names, with the least of these."""

_ITEMS: dict[str, tuple[str, Rule, str]] = {
    "rank1": ("Rank-1 of the INT8 model", "at least", "no evaluation of the INT8 model in this run: add e before d"),
    "latency_ms": ("latency on the chip, ms", "at most", _NO_DEVICE),
    SIZE: ("size of the compiled model, MB", "at most", "nothing was compiled"),
    "memory_mb": ("memory on the chip, MB", "at most", _NO_MEMORY),
    "scenes": ("scenes tested", "at least", "the layouts of data sets tell cameras, not scenes"),
    "night_rank1": ("Rank-1 at night", "at least", "the test set has no thermal queries and gallery"),
    "day_to_night_rank1": ("Rank-1 from day to night", "at least", "the test set has no visible and thermal images"),
    "gallery_persons": ("people in the product's gallery", "at most", "the gallery belongs to the application"),
    "false_match_rate": ("false match rate at the threshold", "below", "the evaluation states no threshold"),
    "detector_integration": ("tested behind the detector", "is", "there is no detector here"),
    "edge_cases": ("occlusion, blur and distance tested", "is", "the test set does not tell such images apart"),
}  # fmt: skip


def requirements(gate: Gate) -> list[Requirement]:
    """The items that are asked for; one that is null is not."""
    limits = {name: getattr(gate, name) for name in _ITEMS}
    return [
        Requirement(name, meaning, rule, limits[name], otherwise)
        for name, (meaning, rule, otherwise) in _ITEMS.items()
        if limits[name] is not None
    ]


def stated(gate: Gate) -> dict[str, Measured]:
    """The values of `deployment.gate.measurements`, each with its source.

    Raises:
        ConfigError: the file is missing or no JSON, or an entry has an unknown name, no source, or no fitting value.
    """
    path = gate.measurements
    if path is None:
        return {}
    key = "deployment.gate.measurements"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{key}: {path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{key}: {path} must hold an object of items, received {type(content).__name__}")
    mistakes = [mistake for name, entry in content.items() if (mistake := _mistake(name, entry))]
    if mistakes:
        raise ConfigError("\n  ".join([f"{key}: {path}", *mistakes]))
    return {name: Measured(entry["value"], entry["source"]) for name, entry in content.items()}


def _mistake(name: str, entry: Any) -> str | None:
    """What is wrong with an entry of the file, or None."""
    if name == SIZE:
        return f"'{SIZE}' is measured here and cannot be stated: remove it"
    if name not in _ITEMS:
        return f"unknown item '{name}', {suggest(name, set(_ITEMS) - {SIZE})}"
    if not isinstance(entry, dict) or set(entry) != {"value", "source"}:
        return f'\'{name}\': expected {{"value": ..., "source": "..."}}, received {json.dumps(entry)}'
    value, source = entry["value"], entry["source"]
    if not isinstance(source, str) or not source.strip():
        return f"'{name}': expected a source, who measured where, received {json.dumps(source)}"
    kind = "true or false" if _ITEMS[name][1] == "is" else "a finite number of 0 or more"
    if name in _SHARES:
        kind = "a share in [0, 1], so 0.41 for 41 %"
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    most = 1 if name in _SHARES else math.inf
    if not (isinstance(value, bool) if kind == "true or false" else is_number and 0 <= value <= most):
        return f"'{name}': expected {kind}, received {json.dumps(value)}"
    return None


def measured(reports: Mapping[str, Mapping[str, float]], compiled_bytes: int) -> dict[str, Measured]:
    """What this run has measured, by the names of the items.

    An evaluation answers with `int8/<runtime>/<item>`, the emulator before the CPU; a benchmark with `device/<item>`,
    since only the chip has a latency. The chip is that of the package: the configuration is refused otherwise.

    Args:
        reports: Service to the metrics of its report in this run.
        compiled_bytes: Size of the larger of context binary and DLC.
    """
    found = {SIZE: Measured(compiled_bytes / 1e6, "the compiled files in the package")}
    scores, benchmark = reports.get("evaluation", {}), reports.get("benchmarking", {})
    for name, (_, rule, _) in _ITEMS.items():
        if rule == "is" or name == SIZE:
            continue
        on_chip = [value for key, value in benchmark.items() if f"/{key}".endswith(f"/{_ON_CHIP}/{name}")]
        if on_chip:  # of two modalities the greater
            found[name] = Measured(max(on_chip), "benchmarking on the chip in this run")
        for runtime in reversed(_EVALUATED_ON):
            answers = [f"int8/{runtime}/{answer}" for answer in _ANSWERS.get(name, (name,))]
            if all(answer in scores for answer in answers):
                least = min(scores[answer] for answer in answers)
                found[name] = Measured(least, f"evaluation of this run, {runtime}")
    return found


def reports_of(folder: Path, services: tuple[str, ...]) -> dict[str, Report]:
    """The reports that a package tells of: those of services that this run has, not of an earlier one."""
    return {
        name: Report.load(folder / name / "metrics.json")
        for name in ("quantization", "evaluation", "benchmarking")
        if name in services
    }
