"""Clusters as pictures: how they change from round to round, and whom they hold."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import plotting
from src.adaptation.pseudo_labels import PseudoLabels
from src.data.sample import Sample
from src.services._contact_sheet import thumbnail

_ROWS, _COLUMNS = 24, 5
_EMPTY = np.full((2, 1, 3), 255, np.uint8)
_COLOURS = {"visible": "#2563eb", "thermal": "#dc2626"}


def draw_history(history: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[tuple[Path, str]]:
    """Draw number of clusters, and noise and agreement, by round.

    Args:
        history: A row for each modality and round.
        folder: Of the PNGs.

    Yields:
        PNG and caption.
    """
    modalities = list(dict.fromkeys(row["modality"] for row in history))

    def curve(modality: str, name: str) -> tuple[list[float], list[float]]:
        rows = [row for row in history if row["modality"] == modality and row[name] is not None]
        return [row["round"] for row in rows], [row[name] for row in rows]

    numbers = {modality: curve(modality, "clusters") for modality in modalities}
    yield (
        plotting.line_curves(folder / "clusters.png", numbers, "round", "clusters", "Clusters by round"),
        "Number of clusters by round.",
    )
    shares = {
        f"{modality}, {name}": curve(modality, name)
        for modality in modalities
        for name in ("noise", "agreement")
    }
    yield (
        plotting.line_curves(
            folder / "cluster_shares.png", shares, "round", "", "Noise and agreement by round"
        ),
        "Share of the images that are in no cluster, and agreement of the clusters with those of the round before "
        "(adjusted Rand index).",
    )


def draw_clusters(path: Path, samples: Sequence[Sample], labels: PseudoLabels) -> tuple[Path, str]:
    """Draw images of some clusters, a row each: those of a modality, then those of the matched one of the other.

    Args:
        path: The PNG.
        samples: N images of the target.
        labels: Their pseudo labels.

    Returns:
        PNG and caption.
    """
    modalities = [name for name in _COLOURS if any(sample.modality == name for sample in samples)]
    number = labels.own.copy()
    if len(modalities) > 1:
        # Thermal images are shown beside the visible cluster that shows the same person.
        thermal = np.array([sample.modality == "thermal" for sample in samples])
        number[thermal] = labels.across[thermal]
    clusters, sizes = np.unique(number[number >= 0], return_counts=True)
    clusters = clusters[np.argsort(-sizes, kind="stable")]
    shown = clusters[np.unique(np.linspace(0, len(clusters) - 1, _ROWS).round().astype(int))]
    images: list[np.ndarray] = []
    titles: list[str] = []
    colours: list[str | None] = []
    for cluster in shown:
        for modality in modalities:
            own = [int(n) for n in np.flatnonzero(number == cluster) if samples[int(n)].modality == modality]
            spread = np.linspace(0, max(0, len(own) - 1), _COLUMNS).round().astype(int)
            chosen = [own[place] for place in dict.fromkeys(spread.tolist())] if own else []
            empty = _COLUMNS - len(chosen)
            images += [thumbnail(samples[n].path) for n in chosen] + [_EMPTY] * empty
            titles += [f"{cluster}: {len(own)} images, c{samples[n].camera}" for n in chosen] + [""] * empty
            colours += [_COLOURS[modality]] * len(chosen) + [None] * empty
    plotting.image_grid(path, images, _COLUMNS * len(modalities), titles, colours, "Clusters")
    return path, (
        f"{len(shown)} of {len(clusters)} clusters, the largest first, with up to {_COLUMNS} images of each modality; "
        "visible images are framed blue, thermal ones, of the matched cluster, red."
    )
