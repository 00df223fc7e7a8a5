from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from common import plotting
from common.artifacts import write_csv
from common.run import progress
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.metrics.operating_point import OperatingPoint
from src.metrics.retrieval import RetrievalMetrics
from src.metrics.verification import Verification
from src.services._pictures.activation_maps import activation_maps
from src.services._pictures.cross_modal_lists import cross_modal_lists
from src.services._pictures.embedding_map import embedding_map
from src.services._pictures.ranked_lists import ranked_lists
from src.services._pictures.similarity_matrix import similarity_matrix

_BINS = 60
_ACTIVATIONS = 10
_OTHERS = 8  # pictures that do not grow with the number of models

Picture = tuple[Path, str]


@dataclass(frozen=True)
class Scored:
    """What one model made of the test set, and its scores.

    Attributes:
        name: Model and where it was measured, for people; different for each.
        stem: The same for the names of its files.
        query: Embeddings of length 1, (Q, D).
        gallery: Embeddings of length 1, (G, D).
        metrics: Of retrieval.
        verification: Distances of genuine and impostor pairs; None where there are none.
        operating_point: The suggested threshold, if validation data gave one.
        cmc: The curve to draw, (max_rank,), where the protocol that is reported has another one than `metrics`.
    """

    name: str
    stem: str
    query: np.ndarray
    gallery: np.ndarray
    metrics: RetrievalMetrics
    verification: Verification | None = None
    operating_point: OperatingPoint | None = None
    cmc: np.ndarray | None = None


def evaluation_pictures(
    folder: Path,
    scored: Sequence[Scored],
    query: Sequence[Sample],
    gallery: Sequence[Sample],
    seed: int,
    network: keras.Model | None = None,
    preprocessing: Preprocessing | None = None,
) -> list[Picture]:
    """Draw what an evaluation found: all models in the curves, the last one in everything that shows images.

    Args:
        folder: Receives the PNG files, and their numbers as CSV of the same name.
        scored: One or more models on the same test set, the one that matters last.
        query: Q samples.
        gallery: G samples.
        seed: Of every choice of images.
        network: A Keras model for the activation maps, with its `preprocessing`; None draws none.
        preprocessing: Of the network.

    Returns:
        (PNG, caption) in the order of a report. A picture for which there is too little data is left out.
    """
    pictures = []
    with progress("pictures", len(scored) + _OTHERS) as advance:
        for picture in _drawn(folder, scored, query, gallery, seed, network, preprocessing):
            if picture is not None:
                path, caption = picture
                pictures.append((path, f"{caption} Numbers: {path.stem}.csv."))
            advance()
    return pictures


def _drawn(
    folder: Path,
    scored: Sequence[Scored],
    query: Sequence[Sample],
    gallery: Sequence[Sample],
    seed: int,
    network: keras.Model | None,
    preprocessing: Preprocessing | None,
) -> Iterator[Picture | None]:
    last = scored[-1]
    yield _cmc(folder / "cmc.png", scored)
    yield _roc(folder / "roc.png", scored)
    for model in scored:
        yield _histogram(folder / f"{model.stem}_distance_histogram.png", model)
    yield from ranked_lists(folder, last.query, last.gallery, query, gallery, last.metrics, seed)
    embeddings, samples = np.concatenate([last.query, last.gallery]), [*query, *gallery]
    lists = folder / "cross_modal_lists.png"
    yield cross_modal_lists(lists, embeddings, samples, last.metrics.protocol, seed)
    yield similarity_matrix(folder / "similarity_matrix.png", embeddings, samples, last.name, seed)
    yield embedding_map(folder / "embedding_map.png", embeddings, samples, last.name, seed)
    if network is None or preprocessing is None:
        yield None
    else:
        chosen = np.random.default_rng(seed).permutation(len(query))[:_ACTIVATIONS]
        shown = [query[n] for n in chosen]
        yield activation_maps(folder / "activation_maps.png", network, shown, preprocessing)


def _cmc(path: Path, scored: Sequence[Scored]) -> Picture:
    found = {model.name: model.metrics.cmc if model.cmc is None else model.cmc for model in scored}
    ranks = np.arange(1, 1 + min(len(cmc) for cmc in found.values()))
    curves = {name: 100 * cmc[: len(ranks)] for name, cmc in found.items()}
    write_csv(path.with_suffix(".csv"), ("rank", *curves), zip(ranks, *curves.values(), strict=True))
    plotting.line_curves(
        path, {name: (ranks, share) for name, share in curves.items()},
        xlabel="rank", ylabel="queries matched, %", title="Cumulative match characteristic",
    )  # fmt: skip
    return path, "CMC: share of the queries with an image of the same identity among the first images found."


def _roc(path: Path, scored: Sequence[Scored]) -> Picture | None:
    curves = {
        model.name: model.verification.roc()
        for model in scored
        if model.verification is not None and model.verification.supports(1.0)
    }
    if not curves:
        return None
    write_csv(
        path.with_suffix(".csv"),
        ("model", "false_match_rate", "true_acceptance_rate"),
        ((name, *rates) for name, curve in curves.items() for rates in zip(*curve, strict=True)),
    )
    plotting.line_curves(
        path, {name: (fmr, 100 * tar) for name, (fmr, tar) in curves.items()},
        xlabel="false match rate (share of impostor pairs)", ylabel="true acceptance rate, %",
        title="Receiver operating characteristic", xscale="log",
    )  # fmt: skip
    return path, (
        "ROC: share of the pairs of one person that are accepted when a share of the pairs of different people is "
        "accepted too. Each curve begins where ten such errors are expected: below, there are too few pairs to know."
    )


def _histogram(path: Path, model: Scored) -> Picture | None:
    if model.verification is None:
        return None
    pairs = {
        "same identity": model.verification.genuine, "different identities": model.verification.impostor
    }  # fmt: skip
    edges = np.histogram_bin_edges(np.concatenate(list(pairs.values())), _BINS)
    counts = [np.histogram(distances, edges)[0] for distances in pairs.values()]
    write_csv(
        path.with_suffix(".csv"), ("from", "to", *pairs), zip(edges[:-1], edges[1:], *counts, strict=True)
    )
    point = model.operating_point
    plotting.histogram(
        path, pairs, xlabel=f"{model.metrics.distance} distance", title=model.name, bins=_BINS,
        vline=None if point is None else point.threshold, vlabel="suggested threshold",
    )  # fmt: skip
    caption = (
        f"Distances of pairs that protocol {model.metrics.protocol} counts, {model.name}: each area is 1."
    )
    if point is not None:
        caption += (
            f" The line is the suggested threshold {point.threshold:.4g}, chosen for the {point.rule}; here it accepts "
            f"{100 * point.false_match_rate:.3g} % of the pairs of different people and rejects "
            f"{100 * point.false_non_match_rate:.3g} % of those of one person."
        )
    return path, caption
