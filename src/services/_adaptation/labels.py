"""Pseudo labels as the configuration asks for them: of clusters, of tracks alone, or of a file."""

from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from common.artifacts import read_csv, write_csv
from common.config import Component, ConfigError
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
        return given_by(section.pseudo_labels, target, section.cross_modal_weight)
    cluster, method = clustering_of(section)
    return found_labels(
        features,
        target.modalities,
        target.groups,
        target.apart,
        cluster,
        method,
        section.k1,
        section.k2,
        least_points(section.clustering),
        target.cameras if section.center_cameras else None,
    )


def least_points(clustering: Component | None) -> int:
    """Points of the smallest cluster that is asked for; 1 where every point is one, or where nothing is asked."""
    if clustering is None:
        return 1
    parameters = signature(CLUSTERING.get(clustering.name)).parameters
    for key in ("min_cluster_size", "min_samples"):
        if key in parameters:
            return int(clustering.arguments.get(key, parameters[key].default))
    return 1


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
        cluster(jaccard_distance(points, k1=8, k2=2))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"adaptation.clustering: {section.clustering.name}: {error}") from error


def given_by(path: Path, target: Target, cross_modal_weight: float) -> PseudoLabels:
    """Labels of a file for the images of the target, such as `write_labels` writes it.

    Raises:
        ConfigError: the file cannot be read, names too few images of the target, or, with a weight above 0, connects no
            image with the other modality.
    """
    try:
        rows = read_csv(path, "file", "label")
    except ConfigError as error:
        raise ConfigError(f"adaptation.pseudo_labels: {error}") from error
    told = {
        Path(row["file"]).resolve(): (row["label"] or None, row.get("label_across") or None) for row in rows
    }
    nobody = {other for _, other in told.values() if other} - {label for label, _ in told.values()}
    if nobody:
        raise ConfigError(
            f"adaptation.pseudo_labels: in {path}, label_across names {sorted(nobody)[0]!r}, which no image has for "
            "its label: name one that images of the other modality have, or leave the cell empty"
        )
    labels, across = zip(
        *(told.get(sample.path.resolve(), (None, None)) for sample in target.samples), strict=True
    )
    if not any(labels):
        raise ConfigError(f"adaptation.pseudo_labels: {path} names none of the target's images")
    try:
        found = given_labels(labels, target.modalities, across)
    except NothingToLearnError as error:
        raise ConfigError(f"adaptation.pseudo_labels: {path}: {error}") from error
    if len(target.names) > 1 and cross_modal_weight > 0 and (found.across < 0).all():
        raise ConfigError(
            f"adaptation.pseudo_labels: nothing in {path} says who is one person in visible and thermal images, which "
            f"adaptation.cross_modal_weight {cross_modal_weight} needs: give images of both one label, name that of "
            "the other modality in the column label_across, or set the weight to 0"
        )
    return found


def labels_file(folder: Path, number: int) -> Path:
    """Where the pseudo labels of a round are kept, of the first one with number 1."""
    return folder / "pseudo_labels" / f"round_{number}.csv"


def write_labels(path: Path, target: Target, labels: PseudoLabels) -> None:
    """The pseudo labels of a round; `label` and `label_across` name clusters among those of both modalities."""
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
