"""What the scripts share that cut people out of tracked videos: boxes, their filter, and the data set on disk."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import track

from common.artifacts import write_csv
from common.config import ConfigError
from common.images import encoded

_AS_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95)


@dataclass(frozen=True)
class Box:
    """One annotated box: frame and track from 1, position and size in pixels, the first pixel being 1.

    ``visibility`` lies in [0, 1] and is None where the annotation does not tell.
    """

    frame: int
    track: int
    left: float
    top: float
    width: float
    height: float
    considered: bool
    category: int
    visibility: float | None

    def __post_init__(self) -> None:
        """Refuse what is no place in an image."""
        if not all(math.isfinite(value) for value in (self.left, self.top, self.width, self.height)):
            raise ValueError("position and size must be numbers")


@dataclass(frozen=True)
class BoxFilter:
    """Which boxes become crops.

    Attributes:
        min_visibility: Least visible share of a person.
        min_height: Least height in pixels.
        classes: MOTChallenge classes; 1 is a pedestrian, 2 a person on a vehicle, 7 a static person.
        every: Take each n-th frame only: neighbouring frames are near copies.
        min_images: Least crops of an identity, 2 or more, so that a query can have a match.
    """

    min_visibility: float = 0.4
    min_height: int = 96
    classes: tuple[int, ...] = (1,)
    every: int = 1
    min_images: int = 2

    def refusal(self, box: Box) -> str | None:
        """Why a box is left out, None when it is taken."""
        if not box.considered:
            return "marked as ignored"
        if box.category not in self.classes:
            return "other class"
        if (box.frame - 1) % self.every:
            return "frame skipped"
        if box.visibility is not None and box.visibility < self.min_visibility:
            return "not visible enough"
        if box.height < self.min_height or box.width < 1:
            return "too small"
        return None


def read_mot_boxes(path: Path, columns: str) -> Iterator[Box]:
    """Read lines of numbers separated by commas; what follows the named columns is passed over.

    Args:
        path: A `gt.txt`.
        columns: The columns that must be there, of `frame, id, left, top, width, height, flag, class, visibility`;
            without the last, visibility is read where it is there.

    Raises:
        ConfigError: a line has other columns.
    """
    needed = columns.count(",") + 1
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield _box([float(value) for value in line.split(",")], needed)
        except (ValueError, OverflowError) as error:
            raise ConfigError(
                f"{path}, line {number}: expected {needed} numbers or more ({columns}), separated by commas; "
                f"received {line!r}."
            ) from error


def _box(values: Sequence[float], needed: int) -> Box:
    if len(values) < needed:
        raise ValueError(f"{len(values)} columns")
    frame, track_id, left, top, width, height, flag, category, *rest = values
    visibility = rest[0] if rest else None
    return Box(int(frame), int(track_id), left, top, width, height, flag != 0, int(category), visibility)


def tracks_of(
    videos: Sequence[tuple[str, Iterable[Box]]], boxes: BoxFilter, least: int
) -> dict[str, list[Box]]:
    """Return identity, which is sequence and track, to its boxes by frame. Track numbers restart in every sequence.

    Args:
        videos: Name and boxes of each sequence.
        boxes: The filter.
        least: Least number of identities.

    Raises:
        ConfigError: a sequence is given twice, or too few boxes or identities are left.
    """
    names = Counter(name for name, _ in videos)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(
            f"The video {twice[0]} is given more than once (MOT17 has it once a detector): its people would "
            "be in train and test. Give it once."
        )
    tracks: dict[str, list[Box]] = defaultdict(list)
    refused: Counter[str] = Counter()
    for name, inside in videos:
        for box in inside:
            if reason := boxes.refusal(box):
                refused[reason] += 1
            else:
                tracks[f"{name}x{box.track}"].append(box)
    taken = {
        identity: sorted(found, key=lambda box: box.frame)
        for identity, found in sorted(tracks.items())
        if len(found) >= boxes.min_images
    }
    if len(taken) < least:
        left_out = ", ".join(f"{count} {reason}" for reason, count in refused.most_common()) or "none"
        raise ConfigError(
            f"{len(taken)} identities with {boxes.min_images} or more boxes pass the filter; "
            f"expected {least} or more. Boxes left out: {left_out}. "
            "Lower --min-visibility or --min-height, or give more sequences."
        )
    return taken


def query_positions(count: int, queries: int) -> list[int]:
    """Which of `count` boxes of a track become queries: spread over it, and never all of them."""
    positions: list[int] = np.linspace(0, count - 1, min(queries, count - 1), dtype=int).tolist()
    return positions


def write_data_set(
    cuts: Mapping[Path, Sequence[tuple[Box, str]]],
    tables: Mapping[str, tuple[Sequence[str], Iterable[Sequence[Any]]]],
    output: Path,
) -> None:
    """Cut boxes out of frames and write them below `output`, which appears only when all are written.

    Args:
        cuts: Frame to its boxes, each with the path of the crop below `output`.
        tables: Folder below `output` to columns and rows of its `metadata.csv`. Every crop lies in one of them.
        output: The folder to make; it may exist when it is empty.

    Raises:
        ConfigError: `output` holds files, or a frame is missing or damaged.
        RuntimeError: a crop cannot be encoded.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"The output folder {output} is not empty: choose another, or delete it.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}_", dir=output.parent) as folder:
        work = Path(folder) / "data"
        for part in tables:
            (work / part).mkdir(parents=True)
        for path, inside in track(sorted(cuts.items()), description="Cutting crops"):
            image = cv2.imread(str(path)) if path.is_file() else None
            if image is None:
                raise ConfigError(f"Frame {path} is in the ground truth but is missing or damaged.")
            for box, name in inside:
                crop = encoded(_cut(image, box), f"{box} of {path}", ".jpg", _AS_JPEG)
                (work / name).write_bytes(crop)
        for part, (columns, rows) in tables.items():
            write_csv(work / part / "metadata.csv", columns, rows)
        work.replace(output)


def _cut(image: np.ndarray, box: Box) -> np.ndarray:
    """The part of a box that lies in the image; annotations may leave it."""
    height, width = image.shape[:2]
    left, top = max(round(box.left) - 1, 0), max(round(box.top) - 1, 0)
    right, bottom = round(box.left + box.width) - 1, round(box.top + box.height) - 1
    return image[min(top, height - 1) : max(bottom, 1), min(left, width - 1) : max(right, 1)]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the filter and the division."""
    defaults = BoxFilter()
    parser.add_argument("sequences", nargs="+", type=Path, metavar="SEQUENCE")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--min-visibility", type=float, default=defaults.min_visibility)
    parser.add_argument("--min-height", type=int, default=defaults.min_height, help="pixels")
    parser.add_argument("--classes", type=int, nargs="+", default=defaults.classes, help="1 is a pedestrian")
    parser.add_argument("--every", type=int, default=defaults.every, help="take each n-th frame")
    parser.add_argument("--min-images", type=int, default=defaults.min_images, help="crops of an identity")
    parser.add_argument("--queries", type=int, default=2, help="query images of a test identity")
    parser.add_argument("--seed", type=int, default=0)


def filter_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> BoxFilter:
    """Return the filter that the options state; end the program where one is out of its range."""
    ranges = {
        "--min-visibility": 0 <= options.min_visibility <= 1,
        "--every": options.every >= 1,
        "--min-images": options.min_images >= 2,
        "--train-share": 0 < options.train_share < 1,
        "--queries": options.queries >= 1,
    }
    for name, valid in ranges.items():
        if not valid:
            parser.error(f"{name} is out of range")
    return BoxFilter(
        options.min_visibility, options.min_height, tuple(options.classes), options.every, options.min_images
    )
