"""A checklist of requirements judged on what was measured, and on nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from common.artifacts import Table

Verdict = Literal["pass", "fail", "not measurable here"]
Rule = Literal["at least", "at most", "below", "is"]

_RULES: dict[str, Callable[[float, float], bool]] = {
    "at least": lambda value, limit: value >= limit,
    "at most": lambda value, limit: value <= limit,
    "below": lambda value, limit: value < limit,
    "is": lambda value, limit: value == limit,
}


@dataclass(frozen=True)
class Requirement:
    """One line of a checklist.

    Attributes:
        name: Its key.
        meaning: What it asks for, with the unit.
        rule: How a value is compared with the limit.
        limit: Number, or True for something that must have been shown.
        otherwise: Why it is not measurable where no value is given.
    """

    name: str
    meaning: str
    rule: Rule
    limit: float | bool
    otherwise: str


@dataclass(frozen=True)
class Measured:
    """A value and where it was measured."""

    value: float | bool
    source: str


@dataclass(frozen=True)
class Finding:
    """A requirement with its verdict; `reason` is where the value was measured, or why there is none."""

    requirement: Requirement
    value: float | bool | None
    verdict: Verdict
    reason: str


def judge(requirements: Sequence[Requirement], measured: Mapping[str, Measured]) -> list[Finding]:
    """Hold each requirement against the value of its name; without one it is `not measurable here`.

    Raises:
        ValueError: a value is NaN.
    """
    findings = []
    for requirement in requirements:
        found = measured.get(requirement.name)
        if found is None:
            findings.append(Finding(requirement, None, "not measurable here", requirement.otherwise))
            continue
        if found.value != found.value:
            raise ValueError(f"{requirement.name}: the measured value is NaN ({found.source})")
        passed = _RULES[requirement.rule](found.value, requirement.limit)
        findings.append(Finding(requirement, found.value, "pass" if passed else "fail", found.source))
    return findings


def table(findings: Sequence[Finding]) -> Table:
    """The checklist to show a person."""
    rows = tuple(
        (f.requirement.meaning, _required(f), _text(f.value), f.verdict, f.reason)
        for f in findings
    )  # fmt: skip
    return Table("Target checklist", ("item", "required", "measured", "verdict", "where, or why not"), rows)


def plain(findings: Sequence[Finding]) -> dict[str, Any]:
    """The checklist as plain data, by the names of the requirements."""
    return {
        f.requirement.name: {
            "meaning": f.requirement.meaning,
            "required": {"rule": f.requirement.rule, "limit": f.requirement.limit},
            "measured": f.value,
            "verdict": f.verdict,
            "reason": f.reason,
        }
        for f in findings
    }


def metrics(findings: Sequence[Finding]) -> dict[str, float]:
    """`gate/passed`, `gate/failed`, `gate/not_measurable`; of each that has a verdict, `passed` and `value`."""
    counts = {
        name: float(sum(f.verdict == verdict for f in findings))
        for name, verdict in (
            ("passed", "pass"),
            ("failed", "fail"),
            ("not_measurable", "not measurable here"),
        )
    }
    single = {
        f"gate/{f.requirement.name}/{key}": float(value)
        for f in findings
        if f.value is not None
        for key, value in (("passed", f.verdict == "pass"), ("value", f.value))
    }
    return {f"gate/{name}": count for name, count in counts.items()} | single


def failure(findings: Sequence[Finding]) -> str | None:
    """What failed in one sentence, or None."""
    failed = [
        f"{f.requirement.name} {_required(f)}, measured {_text(f.value)}"
        for f in findings
        if f.verdict == "fail"
    ]
    return f"{len(failed)} of {len(findings)} requirements failed: {'; '.join(failed)}" if failed else None


def _required(finding: Finding) -> str:
    return f"{finding.requirement.rule} {_text(finding.requirement.limit)}"


def _text(value: float | bool | None) -> str:
    if value is None:
        return "-"
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.4g}"
