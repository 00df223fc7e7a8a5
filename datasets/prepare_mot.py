"""Cut the people of MOTChallenge sequences out into a re-identification data set.

``python -m datasets.prepare_mot SEQUENCE... --output DIR`` reads ``img1/``, ``gt/gt.txt`` and ``seqinfo.ini``
of every sequence and writes the DeepSportradar layout: ``reid_train/``, ``reid_test/query/`` and
``reid_test/gallery/``, with files named ``<sequence>x<track>_<frame>.jpg``, and a ``metadata.csv`` with the
visibility of each crop, by which evaluation breaks its score down. A sequence is one camera, so evaluate
without camera exclusion.

Ground-truth columns as in Milan et al., "MOT16: A Benchmark for Multi-Object Tracking", 2016, table 3.
"""

from __future__ import annotations

import argparse
import configparser
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from common.artifacts import write_csv
from common.config import ConfigError

_COLUMNS = "frame, id, left, top, width, height, flag, class, visibility"
_JPEG_QUALITY = 95
# MOT17 holds every video three times, once a detector, with the same ground truth
_DETECTOR = re.compile(r"-(DPM|FRCNN|SDP)$")
FOLDERS = {"train": "reid_train", "query": "reid_test/query", "gallery": "reid_test/gallery"}


@dataclass(frozen=True)
class Box:
    """One annotated box: frame and track from 1, position and size in pixels, visibility in [0, 1]."""

    frame: int
    track: int
    left: float
    top: float
    width: float
    height: float
    considered: bool
    category: int
    visibility: float


@dataclass(frozen=True)
class MotSequence:
    """A sequence on disk; ``name`` is free of underscores and of the detector's suffix."""

    name: str
    images: Path
    extension: str
    boxes: tuple[Box, ...]


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
        if box.visibility < self.min_visibility:
            return "not visible enough"
        if box.height < self.min_height:
            return "too small"
        return None


@dataclass(frozen=True)
class Crop:
    """A box of a sequence and the part of the data set that it goes to."""

    identity: str
    box: Box
    part: str

    @property
    def path(self) -> str:
        """Path below the output folder."""
        return f"{FOLDERS[self.part]}/{self.identity}_{self.box.frame:06d}.jpg"


def read_sequence(folder: Path) -> MotSequence:
    """Read a MOTChallenge sequence; ConfigError when a file is missing or malformed."""
    info_path = folder / "seqinfo.ini"
    for path in (info_path, folder / "gt" / "gt.txt"):
        if not path.is_file():
            raise ConfigError(
                f"{folder} is no annotated MOTChallenge sequence: expected {path}. (Test ones have no gt.)"
            )
    info = configparser.ConfigParser()
    try:
        info.read(info_path)
        name, images = info["Sequence"]["name"], folder / info["Sequence"]["imDir"]
        extension = info["Sequence"]["imExt"]
    except (configparser.Error, KeyError) as error:
        raise ConfigError(
            f"{info_path}: expected [Sequence] with name, imDir and imExt; {error!r}."
        ) from error
    if not images.is_dir():
        raise ConfigError(f"{folder} has no folder of images: expected {images}.")
    plain = _DETECTOR.sub("", name).replace("_", "-")
    return MotSequence(plain, images, extension, tuple(_read_boxes(folder / "gt" / "gt.txt")))


def _read_boxes(path: Path) -> Iterable[Box]:
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield _box([float(value) for value in line.split(",")])
        except ValueError as error:
            raise ConfigError(
                f"{path}, line {number}: expected nine numbers ({_COLUMNS}), separated by commas; "
                f"received {line!r}."
            ) from error


def _box(values: Sequence[float]) -> Box:
    frame, track_id, left, top, width, height, flag, category, visibility, *_ = values
    return Box(int(frame), int(track_id), left, top, width, height, flag != 0, int(category), visibility)


def choose_crops(
    sequences: Sequence[MotSequence], boxes: BoxFilter, train_share: float, queries: int, seed: int
) -> list[Crop]:
    """Filter boxes and split identities into train and test; of a test identity, a few crops become queries.

    Queries are spread over the track, the other crops are the gallery.

    Raises:
        ConfigError: A sequence is given twice, or too few boxes or identities are left.
    """
    names = Counter(sequence.name for sequence in sequences)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(
            f"The video {twice[0]} is given more than once (MOT17 has it once a detector): its people would "
            "be in train and test. Give it once."
        )
    tracks: dict[str, list[Box]] = defaultdict(list)
    refused: Counter[str] = Counter()
    for sequence in sequences:
        for box in sequence.boxes:
            if reason := boxes.refusal(box):
                refused[reason] += 1
            else:
                tracks[f"{sequence.name}x{box.track}"].append(box)
    identities = sorted(name for name, found in tracks.items() if len(found) >= boxes.min_images)
    if len(identities) < 3:
        left_out = ", ".join(f"{count} {reason}" for reason, count in refused.most_common()) or "none"
        raise ConfigError(
            f"{len(identities)} identities with {boxes.min_images} or more boxes pass the filter; "
            f"expected 3 or more. Boxes left out: {left_out}. "
            "Lower --min-visibility or --min-height, or give more sequences."
        )
    order = np.random.default_rng(seed).permutation(len(identities))
    train_count = min(max(round(train_share * len(order)), 1), len(order) - 2)
    train = {identities[index] for index in order[:train_count]}
    crops: list[Crop] = []
    for identity in identities:
        found = sorted(tracks[identity], key=lambda box: box.frame)
        asked = np.linspace(0, len(found) - 1, min(queries, len(found) - 1), dtype=int).tolist()
        for index, box in enumerate(found):
            part = "train" if identity in train else "query" if index in asked else "gallery"
            crops.append(Crop(identity, box, part))
    return crops


def write_crops(sequences: Sequence[MotSequence], crops: Sequence[Crop], output: Path) -> None:
    """Cut the crops out and write them below ``output``, which appears only when all are written.

    Raises:
        ConfigError: ``output`` holds files, or a frame is missing or damaged.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"The output folder {output} is not empty: choose another, or delete it.")
    output.parent.mkdir(parents=True, exist_ok=True)
    by_name = {sequence.name: sequence for sequence in sequences}
    frames: dict[Path, list[Crop]] = defaultdict(list)
    for crop in crops:
        sequence = by_name[crop.identity.rsplit("x", 1)[0]]
        frames[sequence.images / f"{crop.box.frame:06d}{sequence.extension}"].append(crop)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}_", dir=output.parent) as folder:
        work = Path(folder) / "data"
        for part in FOLDERS.values():
            (work / part).mkdir(parents=True)
        for path, inside in track(sorted(frames.items()), description="Cutting crops"):
            image = cv2.imread(str(path)) if path.is_file() else None
            if image is None:
                raise ConfigError(f"Frame {path} is in the ground truth but is missing or damaged.")
            for crop in inside:
                cv2.imwrite(
                    str(work / crop.path), _cut(image, crop.box), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
                )
        for part, place in FOLDERS.items():
            rows = ((Path(crop.path).name, crop.box.visibility) for crop in crops if crop.part == part)
            write_csv(work / place / "metadata.csv", ("file", "visibility"), rows)
        work.replace(output)


def _cut(image: np.ndarray, box: Box) -> np.ndarray:
    """The part of a box that lies in the image; annotations start at pixel 1 and may leave the image."""
    height, width = image.shape[:2]
    left, top = max(round(box.left) - 1, 0), max(round(box.top) - 1, 0)
    right, bottom = round(box.left + box.width) - 1, round(box.top + box.height) - 1
    return image[min(top, height - 1) : max(bottom, 1), min(left, width - 1) : max(right, 1)]


def _summary(crops: Sequence[Crop], output: Path) -> str:
    lines = []
    for part, folder in FOLDERS.items():
        inside = [crop.identity for crop in crops if crop.part == part]
        lines.append(f"{output / folder}: {len(inside)} crops of {len(set(inside))} identities")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 2 after a mistake of the user."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.prepare_mot", description=__doc__.split("\n")[0]
    )
    defaults = BoxFilter()
    parser.add_argument("sequences", nargs="+", type=Path, metavar="SEQUENCE")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--min-visibility", type=float, default=defaults.min_visibility)
    parser.add_argument("--min-height", type=int, default=defaults.min_height, help="pixels")
    parser.add_argument("--classes", type=int, nargs="+", default=defaults.classes, help="1 is a pedestrian")
    parser.add_argument("--every", type=int, default=defaults.every, help="take each n-th frame")
    parser.add_argument("--min-images", type=int, default=defaults.min_images, help="crops of an identity")
    parser.add_argument("--train-share", type=float, default=0.6, help="share of the identities")
    parser.add_argument("--queries", type=int, default=2, help="query images of a test identity")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
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
    boxes = BoxFilter(
        options.min_visibility, options.min_height, tuple(options.classes), options.every, options.min_images
    )
    try:
        sequences = [read_sequence(folder) for folder in options.sequences]
        crops = choose_crops(sequences, boxes, options.train_share, options.queries, options.seed)
        write_crops(sequences, crops, options.output)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    print(_summary(crops, options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
