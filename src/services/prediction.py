"""Prediction: the nearest gallery images of each query, as contact sheets and tables."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import faiss
import numpy as np

from common.artifacts import Model, Report, Table, write_csv, write_json
from common.config import ConfigError
from common.run import Run, progress
from common.runtime.htp_emulator import HtpEmulator
from src.data.sample import UNKNOWN, Sample
from src.data.selection import Data
from src.schema import Config
from src.services._contact_sheet import Match, contact_sheet, same_person
from src.services._embed import embed_with
from src.services._target import check_modalities, check_target, open_on, parts_of

_LOGGER = logging.getLogger(__name__)
_LONGEST_NAME = 60
_DISTANCES = {
    "cosine": lambda similarity: max(0.0, 1 - similarity),
    "euclidean": lambda similarity: float(np.sqrt(max(0.0, 2 - 2 * similarity))),
}


_Found = list[tuple[Sample, list[Match]]]


def preflight(config: Config, data: Data, model: Model | None) -> None:
    """Check that there is something to find, and that the model runs where it is asked to.

    Raises:
        ConfigError: query or gallery is empty, the gallery holds nothing but a query, or the preprocessing, the
            modalities or the target do not fit the model.
    """
    query, gallery = data.prediction_query, data.prediction_gallery
    if not query or not gallery:
        raise ConfigError(
            f"prediction needs query and gallery images, received {len(query)} and {len(gallery)}: set "
            "dataset.prediction_query_path and dataset.prediction_gallery_path"
        )
    if len(gallery) == 1 and gallery[0].path.resolve() in {sample.path.resolve() for sample in query}:
        raise ConfigError(
            f"dataset.prediction_gallery_path holds one image, the query {gallery[0].path}, which is not compared "
            "with itself: expected at least one other image"
        )
    identities = {sample.identity for sample in (*query, *gallery)}
    if len(identities) == 1 and UNKNOWN not in identities:
        _LOGGER.warning(
            "all images to predict are of identity '%s' by their names; if the names mean something else, set "
            "dataset.dataset_name to a layout that they do not follow, such as market1501",
            *identities,
        )
    if model is not None:
        check_modalities(config, model, query=query, gallery=gallery)
    check_target(config, "prediction", model)


def run(config: Config, data: Data, model: Model | None, run: Run) -> Report:
    """Find the nearest gallery images of each query with the model's first file."""
    assert model is not None
    section, folder = config.prediction, run.make("prediction")
    query, gallery = data.prediction_query, data.prediction_gallery
    parts, batch = parts_of(config, model, next(iter(model.files))), section.batch_size
    with open_on(section.target, parts, config) as opened:
        start = perf_counter()
        sought = embed_with(opened, query, batch, f"{model.path.name}: query")
        offered = embed_with(opened, gallery, batch, f"{model.path.name}: gallery")
        seconds, where = perf_counter() - start, opened.name
    found = _matches(query, gallery, *_nearest(sought, offered, section.top_k + 1), section.top_k)
    plain = [_plain(sample, matches, section.reid_distance_metric) for sample, matches in found]
    described = {
        "model": str(model.path),
        "measured_on": where,
        "distance_metric": section.reid_distance_metric,
        "queries": plain,
    }
    files = [write_json(folder / "matches.json", described), _write_csv(folder / "matches.csv", plain)]
    files += _sheets(folder, found, section.sheets, f"{model.path.name} on {where}")
    speed = None if where == HtpEmulator.name else (len(query) + len(gallery)) / seconds
    return _report(model, where, found, len(gallery), speed, files)


def _nearest(query: np.ndarray, gallery: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Inner products with the `count` nearest rows of the gallery and their numbers, (Q, count) each."""
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    return index.search(query, min(count, len(gallery)))


def _matches(
    query: Sequence[Sample],
    gallery: Sequence[Sample],
    similarities: np.ndarray,
    numbers: np.ndarray,
    top_k: int,
) -> _Found:
    """The first `top_k` for each query; its own file, which one more was searched for, is left out."""
    files = [sample.path.resolve() for sample in gallery]
    found = []
    for sample, values, columns in zip(query, similarities, numbers, strict=True):
        own = sample.path.resolve()
        others = [
            (gallery[i], float(value)) for i, value in zip(columns, values, strict=True) if files[i] != own
        ]
        matches = [
            Match(rank, match, value, same_person(sample, match))
            for rank, (match, value) in enumerate(others[:top_k], start=1)
        ]
        found.append((sample, matches))
    return found


def _plain(sample: Sample, matches: Sequence[Match], metric: str) -> dict[str, Any]:
    """A query with its matches as plain data."""
    return {
        "query": str(sample.path),
        **_who(sample),
        "matches": [
            {
                "rank": match.rank,
                "gallery": str(match.sample.path),
                "similarity": round(match.similarity, 6),
                "distance": round(_DISTANCES[metric](match.similarity), 6),
                **_who(match.sample),
                "correct": match.correct,
            }
            for match in matches
        ],
    }


def _who(sample: Sample) -> dict[str, Any]:
    identity = None if sample.identity == UNKNOWN else sample.identity
    return {"identity": identity, "camera": sample.camera or None}


def _write_csv(path: Path, queries: Sequence[dict[str, Any]]) -> Path:
    """A row per match; what is unknown is an empty cell."""
    columns = (
        "query", "rank", "gallery", "similarity", "distance", "query_identity", "gallery_identity", "query_camera",
        "gallery_camera", "correct",
    )  # fmt: skip
    rows = (
        (
            query["query"], match["rank"], match["gallery"], match["similarity"], match["distance"], query["identity"],
            match["identity"], query["camera"], match["camera"], match["correct"],
        )
        for query in queries
        for match in query["matches"]
    )  # fmt: skip
    return write_csv(path, columns, rows)


def _sheets(folder: Path, found: _Found, most: int, model: str) -> Iterator[Path]:
    """Draw contact sheets of queries at equal distances, so that many identities are among them."""
    chosen = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).astype(int))
    with progress("contact sheets", len(chosen), "sheets") as advance:
        for number in chosen:
            sample, matches = found[number]
            name = sample.path.name[-_LONGEST_NAME:]
            yield contact_sheet(
                folder / f"{number + 1:05d}_{sample.path.stem[:_LONGEST_NAME]}.png",
                [("query", sample, matches)],
                title=f"{name}: nearest by cosine similarity, {model}",
            )
            advance()


def _report(
    model: Model, where: str, found: _Found, gallery: int, speed: float | None, files: Sequence[Path]
) -> Report:
    name = f"{model.precision}/{where}"
    first = [matches[0].correct for _, matches in found if matches and matches[0].correct is not None]
    metrics = {"queries": float(len(found)), "gallery_images": float(gallery)}
    notes = [f"{len(found)} queries, {gallery} gallery images: see {files[0].parent}"]
    if first:
        metrics[f"{name}/first_match_correct"] = sum(first) / len(first)
        notes.append(
            f"first_match_correct is over the {len(first)} queries whose identity is known, with every gallery image "
            "but the query's own file, those of its own camera too: it is not Rank-1 of a protocol, which "
            "operation_mode evaluation measures."
        )
    if speed is not None:
        metrics[f"{where}/host/images_per_second"] = speed
    row = (model.path.name, model.precision, where, metrics.get(f"{name}/first_match_correct"), speed)
    columns = ("model", "precision", "measured on", "first match correct", "images/s on this host")
    return Report("prediction", metrics, (Table("Prediction", columns, (row,)),), tuple(files), tuple(notes))
