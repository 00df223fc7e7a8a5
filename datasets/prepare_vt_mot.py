"""Cut people out of synchronised visible and thermal videos into a cross-modal re-identification data set.

``python -m datasets.prepare_vt_mot SEQUENCE... --output DIR`` reads sequences as VT-MOT has them: frames in
``visible/`` and ``infrared/`` (or ``rgb/`` and ``thermal/``), aligned and as many in both, and boxes in one of three
forms:

- ``gt/gt.txt``, the columns of MOTChallenge; visibility may be missing;
- ``annotations.json``: ``{"17": {"boxes": {"0": [left, top, right, bottom]}}}``, track to frame, counted from 0;
- ``--coco FILE``: one COCO file for all sequences, whose ``videos`` are named as their folders.

An identity is sequence and track, because track numbers restart in every sequence. Whole sequences are for training,
validation or test: neighbouring frames are near copies. ``train/``, ``val/``, ``query/`` and ``gallery/`` hold
``visible/`` and ``thermal/`` crops under one name a moment, ``<sequence>x<track>_<frame>.jpg``; a moment of a test
person is query or gallery in both modalities. ``--sequence-info TABLE.csv`` (a column ``sequence``, and ``altitude`` in
metres or whatever else is known) goes to ``metadata.csv`` beside the crops, by which evaluation breaks its score down.
``dataset.dataset_name: vt_mot`` reads the result.

Zhu et al., "Visible-Thermal Multiple Object Tracking: Large-scale Video Dataset and Progressive Fusion Approach", 2024.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.artifacts import read_csv
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

_COLUMNS = "frame, id, left, top, width, height, flag, class"
_SIDES = {"visible": ("visible", "rgb"), "thermal": ("infrared", "thermal")}
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
_PARTS = ("train", "val", "query", "gallery")
_FORMS = "gt/gt.txt, annotations.json, or a COCO file of all sequences by --coco"


@dataclass(frozen=True)
class PairedSequence:
    """A sequence on disk.

    Attributes:
        name: Name of the folder, free of underscores.
        visible: Frames in order.
        thermal: As many; those at one place are of one moment.
        boxes: In pixels of either modality.
        info: What a table says of the sequence.
    """

    name: str
    visible: tuple[Path, ...]
    thermal: tuple[Path, ...]
    boxes: tuple[Box, ...]
    info: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """A box that is cut out of both frames of its moment, and the part of the data set that it goes to."""

    sequence: PairedSequence
    box: Box
    part: str

    @property
    def identity(self) -> str:
        """Sequence and track."""
        return f"{self.sequence.name}x{self.box.track}"

    @property
    def name(self) -> str:
        """File name of both crops."""
        return f"{self.identity}_{self.box.frame:06d}.jpg"


def read_sequence(
    folder: Path, coco: Mapping[str, tuple[Box, ...]] | None = None, info: Mapping[str, str] | None = None
) -> PairedSequence:
    """Read a sequence.

    Args:
        folder: With a folder of frames for each modality, and boxes unless `coco` has them.
        coco: Of `read_coco`.
        info: What is known of the sequence.

    Raises:
        ConfigError: frames or boxes are missing or malformed, or the modalities do not go together.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is no folder; expected a sequence with frames in visible/ and infrared/."
        )
    visible, thermal = (_frames(folder, names) for names in _SIDES.values())
    _check_pairs(folder, visible, thermal)
    boxes = tuple(_boxes(folder) if coco is None else _of_video(folder.name, coco))
    beyond = next((box for box in boxes if not 1 <= box.frame <= len(visible)), None)
    if beyond is not None:
        raise ConfigError(
            f"{folder}: a box of track {beyond.track} is in frame {beyond.frame}, but there are {len(visible)} frames."
        )
    return PairedSequence(folder.name.replace("_", "-"), visible, thermal, boxes, info or {})


def _frames(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    side = next((folder / name for name in names if (folder / name).is_dir()), None)
    frames = [path for path in side.iterdir() if path.suffix.lower() in _SUFFIXES] if side else []
    if not frames:
        raise ConfigError(f"{folder} has no frames in {' or '.join(f'{name}/' for name in names)}.")
    return tuple(sorted(frames, key=lambda path: (list(map(int, re.findall(r"\d+", path.stem))), path.name)))


def _check_pairs(folder: Path, visible: Sequence[Path], thermal: Sequence[Path]) -> None:
    """The modalities must have as many frames, under the same names if any name is in both, of one size."""
    one, other = ({path.stem for path in side} for side in (visible, thermal))
    if len(visible) != len(thermal) or (one & other and one != other):
        alone = ", ".join(sorted(one ^ other)[:3])
        raise ConfigError(
            f"{folder} is not synchronised: {len(visible)} visible and {len(thermal)} thermal frames, without partner "
            f"are for example {alone}."
        )
    images = [cv2.imread(str(side[0])) for side in (visible, thermal)]
    shapes = [None if image is None else image.shape[:2] for image in images]
    if None in shapes or shapes[0] != shapes[1]:
        raise ConfigError(
            f"{folder} is not aligned: {visible[0].name} is {shapes[0]} and {thermal[0].name} {shapes[1]} (height, "
            "width); expected the same size, since one box is cut out of both."
        )


def _boxes(folder: Path) -> Iterator[Box]:
    table, tracks = folder / "gt" / "gt.txt", folder / "annotations.json"
    if table.is_file():
        return read_mot_boxes(table, _COLUMNS)
    if tracks.is_file():
        return _json_boxes(tracks)
    raise ConfigError(f"{folder} has no boxes: expected {_FORMS}.")


def _json_boxes(path: Path) -> Iterator[Box]:
    for track, content in _load(path).items():
        try:
            for frame, (left, top, right, bottom) in content["boxes"].items():
                yield Box(
                    int(frame) + 1, int(track), left + 1, top + 1, right - left, bottom - top, True, 1, None
                )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f'{path}, track {track!r}: expected {{"boxes": {{"<frame from 0>": [left, top, right, bottom]}}}}; '
                f"{error!r}."
            ) from error


def read_coco(path: Path) -> dict[str, tuple[Box, ...]]:
    """Read a COCO file of tracks: name of the video to its boxes.

    Needed are `videos` (`id`, `file_name` or `name`), `images` (`id`, `video_id`, `frame_id` from 1) and `annotations`
    (`image_id`, `track_id`, `category_id`, `bbox` as left, top, width, height).

    Raises:
        ConfigError: the file is missing or holds something else.
    """
    content = _load(path)
    found: dict[str, list[Box]] = {}
    try:
        videos = {
            video["id"]: Path(video.get("file_name") or video["name"]).name for video in content["videos"]
        }
        images = {
            image["id"]: (videos[image["video_id"]], int(image["frame_id"])) for image in content["images"]
        }
        found = {name: [] for name in videos.values()}
        for annotation in content["annotations"]:
            name, frame = images[annotation["image_id"]]
            left, top, width, height = (float(value) for value in annotation["bbox"])
            considered = not annotation.get("iscrowd") and annotation.get("conf", 1) != 0
            category, track = int(annotation["category_id"]), int(annotation["track_id"])
            found[name].append(
                Box(
                    frame,
                    track,
                    left + 1,
                    top + 1,
                    width,
                    height,
                    considered,
                    category,
                    annotation.get("visibility"),
                )
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no COCO file of tracks: expected videos, images with video_id and frame_id, and annotations "
            f"with image_id, track_id, category_id and bbox; {error!r}."
        ) from error
    return {name: tuple(boxes) for name, boxes in found.items()}


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected an object, received a {type(content).__name__}.")
    return content


def _of_video(name: str, coco: Mapping[str, tuple[Box, ...]]) -> tuple[Box, ...]:
    if name not in coco:
        raise ConfigError(
            f"the COCO file has no video '{name}'; it has {', '.join(sorted(coco)[:5]) or 'none'} and so on."
        )
    return coco[name]


def read_sequence_info(path: Path) -> dict[str, dict[str, str]]:
    """Read a table of sequences: name to its other columns.

    Raises:
        ConfigError: the file is missing or has no column `sequence`.
    """
    rows = read_csv(path, "sequence")
    others = ("sequence", "file", "visibility")
    return {
        row["sequence"]: {name: value for name, value in row.items() if name not in others} for row in rows
    }


def in_band(sequence: PairedSequence, band: tuple[float, float] | None) -> bool:
    """Whether the stated altitude of a sequence, in metres, lies in a band; False where none is stated."""
    if band is None:
        return True
    stated = sequence.info.get("altitude", "")
    try:
        return band[0] <= float(stated) <= band[1] if stated else False
    except ValueError as error:
        raise ConfigError(
            f"--sequence-info: the altitude of {sequence.name} must be a number of metres, received {stated!r}."
        ) from error


def choose_moments(
    sequences: Sequence[PairedSequence],
    boxes: BoxFilter,
    shares: tuple[float, float],
    queries: int,
    seed: int,
) -> list[Moment]:
    """Filter boxes and divide sequences into training, validation and test, where a few moments become queries.

    Args:
        sequences: Their names differ.
        boxes: The filter.
        shares: Of the sequences for training and for validation.
        queries: Query moments of a test identity, spread over its track.
        seed: Decides which sequences are for what.

    Raises:
        ConfigError: a sequence is given twice, or too few boxes, identities or sequences are left.
    """
    tracks = tracks_of([(sequence.name, sequence.boxes) for sequence in sequences], boxes, least=3)
    by_name = {sequence.name: sequence for sequence in sequences}
    used = sorted({identity.rsplit("x", 1)[0] for identity in tracks})
    if len(used) < 2:
        raise ConfigError(
            f"{len(used)} of {len(sequences)} sequences have people who pass the filter; expected 2 or more, one to "
            "train on and one to test: within a sequence, frames are near copies of one another."
        )
    order = [used[index] for index in np.random.default_rng(seed).permutation(len(used))]
    train = min(max(round(shares[0] * len(order)), 1), len(order) - 1)
    val = min(round(shares[1] * len(order)), len(order) - 1 - train)
    part_of = {
        name: "train" if i < train else "val" if i < train + val else "test" for i, name in enumerate(order)
    }
    moments = []
    for identity, found in tracks.items():
        sequence = by_name[identity.rsplit("x", 1)[0]]
        asked = query_positions(len(found), queries)
        for index, box in enumerate(found):
            test = "query" if index in asked else "gallery"
            part = part_of[sequence.name]
            moments.append(Moment(sequence, box, test if part == "test" else part))
    return moments


def write_moments(moments: Sequence[Moment], output: Path) -> None:
    """Cut the moments out of both modalities and write them below `output`, which appears only when all are written.

    Raises:
        ConfigError: `output` holds files, or a frame is damaged.
    """
    frames: dict[Path, list[tuple[Box, str]]] = defaultdict(list)
    for moment in moments:
        for side in _SIDES:
            frame = getattr(moment.sequence, side)[moment.box.frame - 1]
            frames[frame].append((moment.box, f"{moment.part}/{side}/{moment.name}"))
    known = list(dict.fromkeys(column for moment in moments for column in moment.sequence.info))
    columns = ("file", "visibility", *known)
    tables: dict[str, tuple[Sequence[str], list[tuple[Any, ...]]]] = {}
    for part in dict.fromkeys(moment.part for moment in moments):
        rows = [
            (moment.name, moment.box.visibility, *(moment.sequence.info.get(column) for column in known))
            for moment in moments
            if moment.part == part
        ]
        tables |= {f"{part}/{side}": (columns, rows) for side in _SIDES}
    write_data_set(frames, tables, output)


def _summary(moments: Sequence[Moment], left_out: int, output: Path) -> str:
    lines = [f"{left_out} sequences left out: altitude not stated or outside the band"] if left_out else []
    for part in _PARTS:
        inside = [moment for moment in moments if moment.part == part]
        people = len({moment.identity for moment in inside})
        sequences = len({moment.sequence.name for moment in inside})
        lines.append(f"{output / part}: {len(inside)} pairs of {people} identities in {sequences} sequences")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 2 after a mistake of the user."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.prepare_vt_mot", description=__doc__.split("\n")[0]
    )
    add_options(parser)
    parser.add_argument("--train-share", type=float, default=0.6, help="share of the sequences")
    parser.add_argument("--val-share", type=float, default=0.1, help="share of the sequences")
    parser.add_argument("--coco", type=Path, metavar="FILE", help="boxes of all sequences")
    parser.add_argument(
        "--sequence-info", type=Path, metavar="TABLE.csv", help="what is known of each sequence"
    )
    parser.add_argument(
        "--altitude", type=float, nargs=2, metavar=("LOW", "HIGH"), help="metres, by the table"
    )
    options = parser.parse_args(arguments)
    boxes = filter_of(parser, options)
    if not 0 <= options.val_share < 1 - options.train_share:
        parser.error("--val-share is out of range: something must be left to test")
    if options.altitude and not options.sequence_info:
        parser.error("--altitude needs --sequence-info: a table with the columns sequence and altitude")
    try:
        coco = read_coco(options.coco) if options.coco else None
        info = read_sequence_info(options.sequence_info) if options.sequence_info else {}
        found = [read_sequence(folder, coco, info.get(folder.name)) for folder in options.sequences]
        sequences = [sequence for sequence in found if in_band(sequence, options.altitude)]
        shares = (options.train_share, options.val_share)
        moments = choose_moments(sequences, boxes, shares, options.queries, options.seed)
        write_moments(moments, options.output)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    print(_summary(moments, len(found) - len(sequences), options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
