"""Examine the images of a configuration: `python -m src.tools.doctor --config-name NAME.yaml`.

Counts them against what is published of the data set, decodes every file, and looks for people and files that are both
trained on and tested, exact copies, and people of one modality. A data set that is missing is not downloaded: the
doctor says where it is and on which terms. The exit code is 0, 1 where something is wrong, and 2 for a mistake in the
configuration.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import ConfigError, compose, validate
from common.run import progress
from src.data.checks import check_images
from src.data.readers._lists import PARTS
from src.data.sample import Sample
from src.data.samplers import one_modality_identities
from src.data.selection import data_set_name, folders, read_folder_of
from src.data.splits import overlap
from src.schema import Config
from src.tools._known_data_sets import KNOWN_DATA_SETS, KnownDataSet, Parts

_MANIFEST = "synthetic.json"
_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """What the doctor says: `ok`, `note` or `problem`, and one sentence."""

    level: str
    text: str


def examine(config: Config) -> tuple[Parts, list[Finding]]:
    """Read and examine every part of the data set that the configuration names.

    Returns:
        The images by part, and the findings. Parts that are not named, or cannot be read, are empty.
    """
    parts: dict[str, list[Sample]] = {part: [] for part in PARTS}
    findings: list[Finding] = []
    for part in PARTS:
        path = folders(config)[part]
        try:
            parts[part] = read_folder_of(config, part, path) if path is not None else []
        except ConfigError as error:
            findings.append(Finding("problem", str(error)))
    if findings or not any(parts.values()):
        if not findings:
            findings = [
                Finding("problem", "the configuration names no images: set the paths of the section dataset")
            ]
        # One sentence about a missing folder is enough for all parts that would lie in it.
        return parts, [*dict.fromkeys(findings), *_how_to_obtain(config)]
    for check in (_counts, _files, _leaks, _copies, _pairs, _matches):
        findings += check(config, parts)
    return parts, findings


def _how_to_obtain(config: Config) -> Iterator[Finding]:
    known = KNOWN_DATA_SETS.get(config.dataset.dataset_name)
    if known is not None:
        yield Finding("note", f"how to obtain {known.title}: {known.obtain}")
    if config.dataset.has_lists:
        yield Finding(
            "note",
            "to try without it: python -m datasets.synthetic --preset tiny --layout "
            f"{config.dataset.dataset_name} --root DIR",
        )


def _counts(config: Config, parts: Parts) -> Iterator[Finding]:
    manifest = _manifest(parts)
    if manifest is not None:
        yield from _rendered_counts(config, manifest, parts)
        return
    known = KNOWN_DATA_SETS.get(config.dataset.dataset_name, KnownDataSet("", ""))
    wrong = False
    for count in known.counts:
        found = count.counted(parts)
        if not found:  # of a part that this configuration does not name
            continue
        wrong |= found != count.published
        text = f"{found:,} {count.what}"
        if found == count.published:
            yield Finding("ok", f"{text}, as published of {known.title}")
        else:
            yield Finding("problem", f"{text}, but {known.title} has {count.published:,} by its publication")
    if wrong and known.remark:
        yield Finding("note", known.remark)


def _manifest(parts: Parts) -> Path | None:
    """The description of a rendered data set above its images, if that is what they are."""
    first = next(sample.path for samples in parts.values() for sample in samples)
    return next((up / _MANIFEST for up in first.absolute().parents if (up / _MANIFEST).is_file()), None)


def _rendered_counts(config: Config, manifest: Path, parts: Parts) -> Iterator[Finding]:
    name = data_set_name(config) if config.dataset.has_lists else "synthetic people"
    yield Finding("note", f"these are {name}: counts of a public data set do not apply")
    content = json.loads(manifest.read_text(encoding="utf-8"))
    if remark := content.get("note"):
        yield Finding("note", remark)
    if not all(parts[part] for part in ("training", "query", "gallery")) or not config.dataset.has_lists:
        return
    everything = [sample for samples in parts.values() for sample in samples]
    for what, found, rendered in (
        ("images", len({sample.path for sample in everything}), sum(content["images"].values())),
        ("people", len({sample.identity for sample in everything}), sum(content["identities"].values())),
    ):
        level, relation = ("ok", "as") if found == rendered else ("problem", f"but {rendered:,}")
        yield Finding(level, f"{found:,} {what}, {relation} were rendered")


def _files(_config: Config, parts: Parts) -> Iterator[Finding]:
    everything = list({sample.path: sample for samples in parts.values() for sample in samples}.values())
    try:
        check_images(everything)
    except ConfigError as error:
        yield Finding("problem", str(error).rpartition("\nReplace or delete them")[0] or str(error))
    else:
        yield Finding("ok", f"{len(everything):,} files can be decoded")


def _leaks(_config: Config, parts: Parts) -> Iterator[Finding]:
    shared = overlap([*parts["training"], *parts["validation"]], [*parts["query"], *parts["gallery"]])
    if shared:
        yield Finding(
            "problem",
            f"{len(shared)} people are both trained on and tested: {_some(shared)}; a score would not measure people "
            "never seen",
        )
    elif parts["training"] and parts["query"]:
        yield Finding("ok", "nobody is both trained on and tested")
    known = overlap(parts["training"], parts["validation"])
    others = {sample.identity for sample in parts["validation"] if sample.is_person} - set(known)
    if known and others:
        yield Finding(
            "problem",
            f"{len(known)} of {len(known) + len(others)} validation people are trained on: {_some(known)}; validation "
            "would classify these alone, in place of retrieval of people never seen",
        )


def _copies(_config: Config, parts: Parts) -> Iterator[Finding]:
    """Files of equal bytes, by what they do harm to."""
    by_content: dict[bytes, list[tuple[str, Sample]]] = defaultdict(list)
    images = [
        (part, sample) for part, samples in parts.items() for sample in samples if sample.path.is_file()
    ]
    with progress("Comparing files", len(images), "images") as advance:
        for part, sample in images:
            by_content[hashlib.sha256(sample.path.read_bytes()).digest()].append((part, sample))
            advance()
    kinds: Counter[str] = Counter()
    example: dict[str, str] = {}
    for same in by_content.values():
        if len(same) == 1:
            continue
        inside = {part for part, _ in same}
        if inside & {"training", "validation"} and inside & {"query", "gallery"}:
            kind = "are both trained on and tested"
        elif len({sample.identity for _, sample in same}) > 1:
            kind = "are under more than one identity"
        elif {"query", "gallery"} <= inside:
            kind = "are both query and gallery, so that the query finds itself"
        else:
            kind = "are there more than once"
        kinds[kind] += 1
        example.setdefault(kind, " = ".join(str(sample.path) for _, sample in same[:2]))
    for kind, number in kinds.items():
        level = "note" if kind == "are there more than once" else "problem"
        yield Finding(level, f"{number} images {kind}, for example {example[kind]}")
    if not kinds:
        yield Finding("ok", "no two files are the same image")


def _pairs(config: Config, parts: Parts) -> Iterator[Finding]:
    """What cross-modal training and evaluation need of both modalities."""
    training = [sample for sample in parts["training"] if sample.is_person]
    if len({sample.modality for samples in parts.values() for sample in samples}) < 2:
        return
    if training:
        labels = np.array([str(sample.identity) for sample in training])
        thermal = np.array([sample.modality == "thermal" for sample in training])
        alone = one_modality_identities(labels, thermal).tolist()
        people = len(set(labels.tolist()))
        level, who = ("note", f": {_some(alone)}") if alone else ("ok", "")
        yield Finding(
            level, f"{people - len(alone)} of {people} people to train on have images of both modalities{who}"
        )
    everything = [sample for samples in parts.values() for sample in samples]
    if config.dataset.dataset_name == "regdb":
        yield from _equal_sides(everything)
    if config.dataset.dataset_name == "vt_mot":
        yield from _moments(parts)


def _equal_sides(samples: Sequence[Sample]) -> Iterator[Finding]:
    counts = Counter((sample.identity, sample.modality) for sample in samples)
    people = sorted({sample.identity for sample in samples}, key=str)
    unequal = [who for who in people if counts[who, "visible"] != counts[who, "thermal"]]
    if unequal:
        yield Finding("note", f"{len(unequal)} people have more images of one modality: {_some(unequal)}")
    else:
        yield Finding("ok", "everybody has as many visible as thermal images")


def _moments(parts: Parts) -> Iterator[Finding]:
    names: dict[str, set[tuple[str, str]]] = {"visible": set(), "thermal": set()}
    for part, samples in parts.items():
        for sample in samples:
            names[sample.modality].add((part, sample.path.name))
    alone = sorted(name for _, name in names["visible"] ^ names["thermal"])
    both = len(names["visible"] & names["thermal"])
    if alone:
        yield Finding(
            "note",
            f"{both} moments are in both modalities, {len(alone)} images without partner: {_some(alone)}",
        )
    else:
        yield Finding("ok", f"{both} moments, each in both modalities")


def _matches(_config: Config, parts: Parts) -> Iterator[Finding]:
    if not parts["query"]:
        return
    there = {sample.identity for sample in parts["gallery"]}
    alone = [sample for sample in parts["query"] if sample.identity not in there]
    if alone:
        people = sorted({sample.identity for sample in alone}, key=str)
        yield Finding(
            "note",
            f"{len(alone)} queries have no match in the gallery, people {_some(people)}: they do not count",
        )
    else:
        yield Finding("ok", "every query has a match in the gallery")


def _some(values: Sequence[object]) -> str:
    shown = ", ".join(str(value) for value in values[:_SHOWN])
    return f"{shown} and so on" if len(values) > _SHOWN else shown


def table(parts: Parts) -> str:
    """Parts with their numbers of people, images and cameras, as text."""
    lines = [f"{'part':12}{'people':>8}{'visible':>9}{'thermal':>9}  cameras"]
    for part, samples in parts.items():
        people = len({sample.identity for sample in samples if sample.is_person})
        sides = [
            sum(sample.modality == modality for sample in samples) for modality in ("visible", "thermal")
        ]
        cameras = ", ".join(str(camera) for camera in sorted({sample.camera for sample in samples}))
        lines.append(f"{part:12}{people:>8,}{sides[0]:>9,}{sides[1]:>9,}  {cameras or '-'}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m src.tools.doctor", description=__doc__, allow_abbrev=False
    )
    _, rest = parser.parse_known_args(arguments)
    try:
        config = validate(Config, compose(rest))
        if config.dataset.is_rendered and not all(path.is_dir() for path in folders(config).values() if path):
            print("note: the synthetic people of this configuration are rendered when it first runs")
            return 0
        parts, findings = examine(config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if any(parts.values()):
        print(table(parts))
    for finding in findings:
        print(f"{finding.level}: {finding.text}")
    return int(any(finding.level == "problem" for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
