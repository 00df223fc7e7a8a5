"""Evaluation: retrieval on the test set of every file of a model, float and INT8 through one code path."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from common import plotting
from common.artifacts import Model, Report, Table
from common.config import ConfigError
from common.run import Run
from common.runtime.htp_emulator import HtpEmulator
from src.data.pipeline import load_pixels
from src.data.preprocessing import Preprocessing
from src.data.selection import Data, preprocessing_for
from src.metrics.retrieval import RetrievalMetrics
from src.registries import BASELINES
from src.schema import Config
from src.services._embed import embed, embed_with, l2_normalize
from src.services._target import check_target, emulates, open_on
from src.training.validation import embedder, score

_LOGGER = logging.getLogger(__name__)
_RUNNABLE = ("keras", "onnx", "tflite", "qnn_context")
_SHOWN = ("rank1", "rank5", "rank10", "mAP", "mINP")
_PAIRS = 20_000
_CHUNK = 512


@dataclass(frozen=True)
class _Score:
    """One row of the comparison."""

    name: str
    precision: str
    runtime: str
    metrics: RetrievalMetrics
    size: int | None = None

    @property
    def values(self) -> tuple[float, ...]:
        cmc = self.metrics.cmc
        ranks = [float(cmc[min(rank, len(cmc)) - 1]) for rank in (1, 5, 10)]
        return (*ranks, float(self.metrics.mAP), float(self.metrics.mINP))


def preflight(config: Config, data: Data, model: Model | None) -> None:
    """Check that the test set can be scored.

    Raises:
        ConfigError: no query has its identity in the gallery, or the preprocessing or the target does not fit
            the model.
    """
    if not {s.identity for s in data.query} & {s.identity for s in data.gallery}:
        raise ConfigError(
            "no query identity is in the gallery, so nothing can be scored: dataset.test_query_path holds "
            f"{len(data.query)} images, dataset.test_gallery_path {len(data.gallery)}; are they of one test set?"
        )
    if model is not None:
        preprocessing_for(config, model)
    check_target(config, "evaluation", model)


def run(config: Config, data: Data, model: Model | None, run: Run) -> Report:
    """Score a model, the model that it was made from, and the baselines that the configuration asks for."""
    assert model is not None
    folder = run.make("evaluation")
    preprocessing = preprocessing_for(config, model)
    scores, figures = [], []
    rows = [(*row, "host") for row in _files(model)]
    if emulates(config.evaluation.target, model):
        rows.append((model, model.path, config.evaluation.target))
    for file_model, path, target in rows:
        query, gallery, result = _score_file(config, data, file_model, path, target, preprocessing)
        scores.append(result)
        figures.append(_histogram(folder, result, query, gallery, data))
    scores += _baselines(config, data, preprocessing, model)
    figures.append(_cmc_curves(folder, scores))
    return _report(scores, figures)


def _files(model: Model) -> Iterator[tuple[Model, Path]]:
    """The float source first, then every file of the model that runs on this machine."""
    if model.source is not None:
        yield from _files(model.source)
    for role, path in model.files.items():
        if role in _RUNNABLE:
            yield model, path


def _score_file(
    config: Config, data: Data, model: Model, path: Path, target: str, preprocessing: Preprocessing
) -> tuple[np.ndarray, np.ndarray, _Score]:
    batch = config.evaluation.batch_size
    with open_on(target, path, config) as runtime:
        query = embed_with(runtime, data.query, preprocessing, batch, f"{path.name}: query")
        gallery = embed_with(runtime, data.gallery, preprocessing, batch, f"{path.name}: gallery")
        name = runtime.name
    metrics = _score(config, query, gallery, data)
    return query, gallery, _Score(path.name, model.precision, name, metrics, path.stat().st_size)


def _score(config: Config, query: np.ndarray, gallery: np.ndarray, data: Data) -> Any:
    evaluation = config.evaluation
    return score(
        query, gallery, data.query, data.gallery,
        evaluation.protocol, evaluation.reid_distance_metric, evaluation.max_rank,
    )  # fmt: skip


def _baselines(config: Config, data: Data, preprocessing: Preprocessing, model: Model) -> list[_Score]:
    """What trivial embeddings reach on the same images: a model that does not beat them has learned nothing."""
    functions = {name: BASELINES.get(name) for name in config.evaluation.baselines}
    scores = []
    for name, function in functions.items():
        query, gallery = (
            _features(function, samples, preprocessing) for samples in (data.query, data.gallery)
        )
        scores.append(_Score(name, "baseline", "numpy", _score(config, query, gallery, data)))
    if config.evaluation.random_network:
        scores += _random_network(config, data, preprocessing, model)
    return scores


def _random_network(config: Config, data: Data, preprocessing: Preprocessing, model: Model) -> list[_Score]:
    """The same network before any training, from the float file that the model comes from."""
    source = model
    while "keras" not in source.files and source.source is not None:
        source = source.source
    if "keras" not in source.files:
        _LOGGER.warning("evaluation.random_network needs a .keras file, %s is none: left out", model.path)
        return []
    network = keras.models.clone_model(
        keras.saving.load_model(source.files["keras"], compile=False, safe_mode=True)
    )
    random, batch = embedder(network), config.evaluation.batch_size
    query, gallery = (
        embed(random, part, preprocessing, batch, f"random {network.name}")
        for part in (data.query, data.gallery)
    )
    return [_Score(f"random {network.name}", "baseline", "keras", _score(config, query, gallery, data))]


def _features(function: Any, samples: Any, preprocessing: Preprocessing) -> np.ndarray:
    chunks = [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)]
    return l2_normalize(np.concatenate([function(load_pixels(chunk, preprocessing)) for chunk in chunks]))


def _report(scores: list[_Score], figures: list[Path]) -> Report:
    models = [s for s in scores if s.precision != "baseline"]
    rows = [(s.name, s.precision, s.runtime, *_percent(s.values), _megabytes(s.size)) for s in scores]
    reference = models[0]
    for other in models[1:]:
        difference = [b - a for a, b in zip(reference.values, other.values, strict=True)]
        same_file = other.name == reference.name
        title = " - ".join(s.runtime if same_file else s.name for s in (other, reference))
        rows.append((title, "difference", other.runtime, *_percent(difference, sign=True), None))
    table = Table(
        "Retrieval on the test set, %", ("model", "precision", "measured on", *_SHOWN, "MB"), tuple(rows)
    )
    metrics = {
        f"{s.precision}/{s.name if s.precision == 'baseline' else s.runtime}/{key}": value
        for s in scores
        for key, value in zip(_SHOWN, s.values, strict=True)
    }
    return Report("evaluation", metrics, (table,), tuple(figures), (reference.metrics.sentence,))


def _percent(values: Any, sign: bool = False) -> list[str]:
    return [f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}" for value in values]


def _megabytes(size: int | None) -> float | None:
    return None if size is None else size / 1e6


def _cmc_curves(folder: Path, scores: list[_Score]) -> Path:
    curves = {
        f"{s.name} ({s.runtime})": (list(range(1, len(s.metrics.cmc) + 1)), 100 * s.metrics.cmc)
        for s in scores
    }
    path = folder / "cmc.png"
    plotting.line_curves(
        path, curves, xlabel="rank", ylabel="queries matched, %", title="Cumulative match characteristic"
    )
    return path


def _histogram(folder: Path, result: _Score, query: np.ndarray, gallery: np.ndarray, data: Data) -> Path:
    """Cosine distances of pairs of the same and of different people, a seeded sample of each."""
    random = np.random.default_rng(0)
    ids_q, ids_g = (np.array([str(s.identity) for s in part]) for part in (data.query, data.gallery))
    rows, columns = np.nonzero(ids_q[:, None] == ids_g[None, :])
    chosen = random.permutation(len(rows))[:_PAIRS]
    same = 1 - np.sum(query[rows[chosen]] * gallery[columns[chosen]], axis=1)
    rows, columns = random.integers(len(query), size=_PAIRS), random.integers(len(gallery), size=_PAIRS)
    different = ids_q[rows] != ids_g[columns]
    others = 1 - np.sum(query[rows[different]] * gallery[columns[different]], axis=1)
    name = result.name.replace(".", "_") + ("_emulator" if result.runtime == HtpEmulator.name else "")
    path = folder / f"{name}_distance_histogram.png"
    plotting.histogram(
        path, {"same identity": same, "different identities": others},
        xlabel="cosine distance", title=f"{result.name} ({result.runtime})",
    )  # fmt: skip
    return path
