"""What the tools that run a planned experiment and write into a page have in common."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from common.artifacts import whole_file, write_json
from common.config import OUTPUTS, ConfigError, Strict, validate

PlanType = TypeVar("PlanType", bound=Strict)
END = "<!-- end of the table -->"


@dataclass(frozen=True)
class Options:
    """Of the command line: the plan's file, the folder of the runs, runs side by side, and whether they are tiny."""

    plan: Path
    folder: Path
    jobs: int
    smoke: bool


def read_options(arguments: Sequence[str], description: str, plan: Path) -> Options:
    """Parse the command line of an experiment whose own plan is `plan`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "plan", type=Path, nargs="?", default=plan, help="a YAML file (default: the project's)"
    )
    parser.add_argument(
        "--folder", type=Path, help=f"where the runs go; {OUTPUTS}/<name of the plan> by default"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default: 2)")
    parser.add_argument(
        "--smoke", action="store_true", help="one step of everything, tiny; the page stays as it is"
    )
    given = parser.parse_args(arguments)
    name = f"{given.plan.stem}{'_smoke' if given.smoke else ''}"
    return Options(given.plan, (given.folder or Path(OUTPUTS) / name).absolute(), given.jobs, given.smoke)


def read_plan(schema: type[PlanType], path: Path) -> PlanType:
    """Read and check a plan.

    Args:
        schema: What the file describes.
        path: A YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not describe an experiment.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"experiment {path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"experiment {path}: expected keys and values, received {type(raw).__name__}")
    return validate(schema, raw)


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What settings have become since something was measured with them; empty where they are the same."""
    return "; ".join(
        f"{key}: {then.get(key, 'nothing')}, now {now.get(key, 'nothing')}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    )


def run_planned(
    options: Options, run: Callable[[Options], tuple[str, Mapping[str, Any]]], page: Path, marker: str
) -> int:
    """Run an experiment, print what came out, and write it into a page, unless the runs are tiny.

    Args:
        options: Of the command line.
        run: Runs what is not finished yet; returns the Markdown and the content of `results.json`.
        page: Receives the Markdown.
        marker: Behind which it goes, see `put_between_markers`.

    Returns:
        The exit code: 2 where the plan, a run or the page is not as expected, which is printed.
    """
    try:
        text, results = run(options)
        write_json(options.folder / "results.json", results)
        if not options.smoke:
            put_between_markers(page, text, marker)
    except (OSError, ConfigError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


def put_between_markers(page: Path, text: str, marker: str) -> None:
    """Replace what stands between a marker of a page and the end that follows it.

    Raises:
        ConfigError: the page has no such marker, or no end.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(marker)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{page}: expected the lines '{marker}' and '{END}', between which the table goes")
    with whole_file(page) as temporary:
        temporary.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def verdict(passed: bool, text: str) -> str:
    """A line of Markdown that says whether a requirement is met."""
    return f"- {'yes' if passed else '**no**'}: {text}"


def time_verdict(minutes: float, limit: int, rendered_before: bool) -> str:
    """Whether a whole new run was fast enough, its people included unless they were there already."""
    people = "rendered before" if rendered_before else "rendered in this time"
    return verdict(
        minutes <= limit, f"at most {limit} minutes on {os.cpu_count()} cores, people {people}: {minutes:.0f}"
    )
