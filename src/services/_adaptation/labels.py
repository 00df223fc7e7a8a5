"""Pseudo labels as the configuration asks for them: of clusters, of tracks alone, or of a file."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.artifacts import write_csv
from common.config import ConfigError
from src.adaptation.guards import NothingToLearnError
from src.adaptation.jaccard import jaccard_distance
from src.adaptation.pseudo_labels import Cluster, PseudoLabels, found_labels, given_labels
from src.models._two_stems import MODALITIES
from src.registries import CLUSTERING
from src.schema import Adaptation
from src.services._adaptation.target import Target


def labels_of(section: Adaptation, target: Target, features: np.ndarray) -> PseudoLabels:
    """What the images are taken for.

    Raises:
        NothingToLearnError: there is nothing to learn from.
    """
    if section.pseudo_labels is not None:
        return given_by(section.pseudo_labels, target)
    cluster, method = clustering_of(section)
    least = 4 if section.clustering is None else section.clustering.arguments.get("min_samples", 4)
    return found_labels(
        features,
        target.modalities,
        target.groups,
        target.apart,
        cluster,
        method,
        section.k1,
        section.k2,
        least,
    )


def clustering_of(section: Adaptation) -> tuple[Cluster | None, str]:
    """The function that clusters, and what it is called in messages."""
    if section.clustering is None:
        return None, "taking every track for a cluster"
    name, arguments = section.clustering.name, section.clustering.arguments
    function: Any = CLUSTERING.get(name)
    told = "".join(f" {key} {value}," for key, value in arguments.items()).rstrip(",")
    return partial(function, **arguments), f"{name}{f' with{told}' if told else ''}"


def try_clustering(section: Adaptation) -> None:
    """Cluster some made-up points, which shows arguments that are refused.

    Raises:
        ConfigError: an argument has such a value.
    """
    cluster, _ = clustering_of(section)
    if cluster is None or section.clustering is None:
        return
    random = np.random.default_rng(0)
    points = np.repeat(random.normal(size=(32, 8)), 8, axis=0) + 0.1 * random.normal(size=(256, 8))
    try:
        cluster(jaccard_distance(points, k1=8, k2=2), np.ones(len(points), int))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"adaptation.clustering: {section.clustering.name}: {error}") from error


def given_by(path: Path, target: Target) -> PseudoLabels:
    """Labels of a file for the images of the target.

    Raises:
        ConfigError: the file cannot be read, or names too few images of the target.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            label_of = {Path(row["file"]).resolve(): row["label"] for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError) as error:
        raise ConfigError(
            f"adaptation.pseudo_labels: {path} needs the columns file and label: {error!r}"
        ) from error
    labels = [label_of.get(sample.path.resolve()) or None for sample in target.samples]
    if not any(labels):
        raise ConfigError(f"adaptation.pseudo_labels: {path} names none of the target's images")
    try:
        return given_labels(labels, target.modalities)
    except NothingToLearnError as error:
        raise ConfigError(f"adaptation.pseudo_labels: {path}: {error}") from error


def write_labels(path: Path, target: Target, labels: PseudoLabels) -> None:
    """The pseudo labels of a round; `label` names the cluster among those of both modalities."""
    rows = (
        (
            sample.path, sample.modality, sample.camera, sample.track,
            f"{sample.modality}-{own}" if own >= 0 else None,
            f"{_other(sample.modality)}-{across}" if across >= 0 else None,
        )
        for sample, own, across in zip(target.samples, labels.own, labels.across, strict=True)
    )  # fmt: skip
    write_csv(path, ("file", "modality", "camera", "track", "label", "label_across"), rows)


def _other(modality: str) -> str:
    return MODALITIES[1 - MODALITIES.index(modality)]
