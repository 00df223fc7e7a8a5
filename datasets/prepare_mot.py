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
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import ConfigError
from datasets._crops import (
    Box,
    BoxFilter,
    add_options,
    filter_of,
    query_positions,
    read_mot_boxes,
    tracks_of,
    write_data_set,
)

_COLUMNS = "frame, id, left, top, width, height, flag, class, visibility"
# MOT17 holds every video three times, once a detector, with the same ground truth
_DETECTOR = re.compile(r"-(DPM|FRCNN|SDP)$")
FOLDERS = {"train": "reid_train", "query": "reid_test/query", "gallery": "reid_test/gallery"}


@dataclass(frozen=True)
class MotSequence:
    """A sequence on disk; ``name`` is free of underscores and of the detector's suffix."""

    name: str
    images: Path
    extension: str
    boxes: tuple[Box, ...]


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
    return MotSequence(plain, images, extension, tuple(read_mot_boxes(folder / "gt" / "gt.txt", _COLUMNS)))


def choose_crops(
    sequences: Sequence[MotSequence], boxes: BoxFilter, train_share: float, queries: int, seed: int
) -> list[Crop]:
    """Filter boxes and split identities into train and test; of a test identity, a few crops become queries.

    Queries are spread over the track, the other crops are the gallery.

    Raises:
        ConfigError: A sequence is given twice, or too few boxes or identities are left.
    """
    tracks = tracks_of([(sequence.name, sequence.boxes) for sequence in sequences], boxes, least=3)
    identities = list(tracks)
    order = np.random.default_rng(seed).permutation(len(identities))
    train_count = min(max(round(train_share * len(order)), 1), len(order) - 2)
    train = {identities[index] for index in order[:train_count]}
    crops: list[Crop] = []
    for identity in identities:
        asked = query_positions(len(tracks[identity]), queries)
        for index, box in enumerate(tracks[identity]):
            part = "train" if identity in train else "query" if index in asked else "gallery"
            crops.append(Crop(identity, box, part))
    return crops


def write_crops(sequences: Sequence[MotSequence], crops: Sequence[Crop], output: Path) -> None:
    """Cut the crops out and write them below ``output``, which appears only when all are written.

    Raises:
        ConfigError: ``output`` holds files, or a frame is missing or damaged.
    """
    by_name = {sequence.name: sequence for sequence in sequences}
    frames: dict[Path, list[tuple[Box, str]]] = defaultdict(list)
    for crop in crops:
        sequence = by_name[crop.identity.rsplit("x", 1)[0]]
        frame = sequence.images / f"{crop.box.frame:06d}{sequence.extension}"
        frames[frame].append((crop.box, crop.path))
    tables = {
        place: (
            ("file", "visibility"),
            [(Path(crop.path).name, crop.box.visibility) for crop in crops if crop.part == part],
        )
        for part, place in FOLDERS.items()
    }
    write_data_set(frames, tables, output)


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
    add_options(parser)
    parser.add_argument("--train-share", type=float, default=0.6, help="share of the identities")
    options = parser.parse_args(arguments)
    boxes = filter_of(parser, options)
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
