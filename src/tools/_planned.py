"""What the tools that run a planned experiment and write into a page have in common."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config import OUTPUTS, ConfigError

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
    parser.add_argument("--folder", type=Path, help=f"where the runs go; {OUTPUTS}/{plan.stem} by default")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default: 2)")
    parser.add_argument(
        "--smoke", action="store_true", help="one step of everything, tiny; the page stays as it is"
    )
    given = parser.parse_args(arguments)
    name = f"{given.plan.stem}{'_smoke' if given.smoke else ''}"
    return Options(given.plan, (given.folder or Path(OUTPUTS) / name).absolute(), given.jobs, given.smoke)


def put_between_markers(page: Path, text: str, marker: str) -> None:
    """Replace what stands between a marker of a page and the end that follows it.

    Raises:
        ConfigError: the page has no such marker, or no end.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(marker)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{page}: expected the lines '{marker}' and '{END}', between which the table goes")
    temporary = page.with_name(page.name + ".tmp")
    temporary.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
    temporary.replace(page)


def verdict(passed: bool, text: str) -> str:
    """A line of Markdown that says whether a requirement is met."""
    return f"- {'yes' if passed else '**no**'}: {text}"


def time_verdict(minutes: float, limit: int, rendered_before: bool) -> str:
    """Whether a whole new run was fast enough, its people included unless they were there already."""
    people = "rendered before" if rendered_before else "rendered in this time"
    return verdict(
        minutes <= limit, f"at most {limit} minutes on {os.cpu_count()} cores, people {people}: {minutes:.0f}"
    )
