"""What the clusters of an adaptation were worth in each round, by labels that it never saw.

    python -m src.tools.cluster_purity experiments_outputs/my_adaptation/adaptation labels.csv

`labels.csv` has the columns `file` and `label`, which says who is seen; images that it does not name are not counted.
A table is printed, and `purity.png` is drawn beside the other pictures of the adaptation. Clusters that are a part of a
person each are pure: the adjusted Rand index tells, and `joined`, the share of the people seen by several cameras whom
a cluster joins. `matched` is the share of the images whose match in the other modality is their person. `--mlflow`
gives the numbers to a history of runs, too.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from common import tracking
from common.artifacts import read_csv
from common.config import ConfigError
from common.plotting import line_curves
from src.adaptation.statistics import ClusterStatistics, cluster_statistics
from src.tools._markdown import markdown

_COLUMNS = ("images", "clusters", "identities", "noise", "purity", "adjusted_rand", "joined", "matched")
_SHARES = ("noise", "purity", "joined", "matched")
_DRAWN = {
    "purity": "purity",
    "adjusted_rand": "adjusted Rand index",
    "joined": "people joined across cameras",
    "matched": "matches across modalities",
}
TITLE = "Clusters and people by round"

Described = dict[str, ClusterStatistics]
"""Modality to what its pseudo labels are worth."""


def described(path: Path, people: Mapping[Path, str]) -> Described:
    """Describe one file of pseudo labels.

    Args:
        path: As an adaptation writes it.
        people: Image, resolved, to who is seen in it.

    Raises:
        ConfigError: the file cannot be read, or no image in it is among the people's.
    """
    columns = ("file", "modality", "camera", "label")
    rows = [row for row in read_csv(path, *columns) if Path(row["file"]).resolve() in people]
    if not rows:
        raise ConfigError(f"{path}: none of its images has a label that says who is seen")
    found, most = {}, _most_frequent(rows, people)
    for modality in sorted({row["modality"] for row in rows}, reverse=True):
        own = [row for row in rows if row["modality"] == modality]
        names = {
            name: number
            for number, name in enumerate(dict.fromkeys(row["label"] for row in own if row["label"]))
        }
        labels = np.array([names.get(row["label"], -1) for row in own])
        who = np.array([people[Path(row["file"]).resolve()] for row in own])
        cameras = np.array([row["camera"] for row in own])
        matches = np.array([most.get(row.get("label_across") or "") for row in own], dtype=object)
        found[modality] = cluster_statistics(labels, identities=who, places=cameras, matches=matches)
    return found


def _most_frequent(rows: Sequence[Mapping[str, str]], people: Mapping[Path, str]) -> dict[str, str]:
    """Cluster to the person of most of its images."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        if row["label"]:
            found.setdefault(row["label"], Counter())[people[Path(row["file"]).resolve()]] += 1
    return {label: counts.most_common(1)[0][0] for label, counts in found.items()}


def by_round(folder: Path, people: Mapping[Path, str]) -> dict[int, Described]:
    """Describe every round of an adaptation, by its number.

    Args:
        folder: `adaptation` of a run; what a run before it did that it goes on from is in that one's.
        people: As of `described`.

    Raises:
        ConfigError: no round has pseudo labels, or as `described`.
    """
    files = {int(path.stem.removeprefix("round_")): path for path in folder.glob("pseudo_labels/round_*.csv")}
    if not files:
        raise ConfigError(
            f"{folder} has no pseudo_labels/round_<number>.csv: give the folder adaptation of a run"
        )
    return {number: described(files[number], people) for number in sorted(files)}


def draw_purity(path: Path, rounds: Mapping[int, Described]) -> Path:
    """Draw how pure the clusters are and how far they are the people, by round."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for number, found in rounds.items():
        for modality, statistics in found.items():
            for name, told in _DRAWN.items():
                if (value := getattr(statistics, name)) is not None:
                    x, y = curves.setdefault(f"{modality}, {told}", ([], []))
                    x.append(number)
                    y.append(value)
    return line_curves(path, curves, "round", "", TITLE)


def table(rounds: Mapping[int, Described]) -> list[str]:
    """Write numbers of each round and modality as Markdown."""
    names = [f"{name}, %" if name in _SHARES else name for name in _COLUMNS]
    rows = (
        [number, modality, *(_cell(name, getattr(statistics, name)) for name in _COLUMNS)]
        for number, found in rounds.items()
        for modality, statistics in found.items()
    )
    return markdown(["round", "modality", *names], rows, text_columns=(1,))


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name in _SHARES:
        return f"{100 * value:.1f}"
    return f"{value:.2f}" if name == "adjusted_rand" else str(value)


def people_of(path: Path) -> dict[Path, str]:
    """Who is seen in each image, of a CSV with the columns `file` and `label`.

    Raises:
        ConfigError: it cannot be read.
    """
    return {
        Path(row["file"]).resolve(): row["label"] for row in read_csv(path, "file", "label") if row["label"]
    }


def _log(uri: str, name: str, rounds: Mapping[int, Described], picture: Path) -> None:
    with tracking.pipeline_run(tracking.store_of(uri), "cluster_purity", name, {}):
        for number, found in rounds.items():
            metrics = {
                f"{modality}/{key}": value
                for modality, statistics in found.items()
                for key, value in asdict(statistics).items()
                if key in _COLUMNS and value is not None
            }
            tracking.log_metrics(metrics, step=number)
        tracking.log_files([picture])


def main(arguments: Sequence[str]) -> int:
    """Print and draw; returns the exit code."""
    parser = argparse.ArgumentParser(description="How pure the clusters of an adaptation were in each round.")
    parser.add_argument("folder", type=Path, help="the folder adaptation of a run")
    parser.add_argument("labels", type=Path, help="a CSV with the columns file and label")
    parser.add_argument("--mlflow", help="a history of runs, as mlflow.uri, that gets the numbers")
    options = parser.parse_args(arguments)
    try:
        rounds = by_round(options.folder, people_of(options.labels))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(table(rounds)))
    picture = draw_purity(options.folder / "purity.png", rounds)
    if options.mlflow:
        _log(options.mlflow, options.folder.absolute().parent.name, rounds, picture)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
