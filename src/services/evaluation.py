"""Evaluation: retrieval on the test set of every file of a model, float and INT8 through one code path."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import keras
import numpy as np

from common.artifacts import Model, Report, Table, write_csv
from common.config import Component, ConfigError
from common.html_report import html_report
from common.run import Run
from common.runtime.htp_emulator import HtpEmulator
from common.runtime.keras_file import load_network
from src.data.metadata import metadata_of
from src.data.pipeline import load_pixels
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.selection import Data, preprocessing_for
from src.metrics._images import Images
from src.metrics.matrix_metrics import matrix_metrics
from src.metrics.operating_point import OperatingPoint
from src.metrics.retrieval import RetrievalMetrics
from src.metrics.trial_metrics import TrialMetrics
from src.metrics.verification import Verification
from src.registries import BASELINES, PROTOCOLS, RERANKING
from src.schema import Config
from src.services._analysis import (
    breakdowns,
    images_of,
    intervals,
    modality_numbers,
    open_set_numbers,
    verification_numbers,
    verification_of,
)
from src.services._embed import embed, embed_with, l2_normalize
from src.services._pictures.evaluation_pictures import Scored, evaluation_pictures
from src.services._target import Part, check_modalities, check_target, emulates, open_on, parts_of
from src.training.validation import default_protocol, routes_of, split_query_gallery

_LOGGER = logging.getLogger(__name__)
_RUNNABLE = ("keras", "onnx", "tflite", "qnn_context")
_SHOWN = ("rank1", "rank5", "rank10", "mAP", "mINP")
_CHUNK = 512
_GIVES_DISTANCES = "k_reciprocal_distances"
_EACH_SIDE_ALONE = "neighbor_feature_centralization"
_ONE_GALLERY = ("market1501", "no_camera", "msmt17", "veri776")
_OTHER_DIRECTION = {"regdb": "thermal_to_visible", "llcm": "visible_to_infrared"}
_NUMBER_TABLES = {
    "Certainty: 95 % intervals over identities, or deviation over trials, %": {
        "rank1 from": "rank1_low",
        "rank1 to": "rank1_high",
        "mAP from": "mAP_low",
        "mAP to": "mAP_high",
        "rank1 +-": "rank1_deviation",
        "mAP +-": "mAP_deviation",
        "mINP +-": "mINP_deviation",
    },
    "Verification: is it the same person? %": {
        "EER": "eer",
        "TAR at FMR 0.01 %": "tar_at_fmr_0.0001",
        "TAR at FMR 0.1 %": "tar_at_fmr_0.001",
        "TAR at FMR 1 %": "tar_at_fmr_0.01",
        "threshold": "threshold",
        "FMR there": "false_match_rate",
        "FNMR there": "false_non_match_rate",
    },
    "Half of the people unknown to the gallery, %": {
        "DIR at FPIR 1 %": "dir_at_fpir_0.01",
        "DIR at FPIR 10 %": "dir_at_fpir_0.1",
    },
}

Metrics = RetrievalMetrics | TrialMetrics


@dataclass(frozen=True)
class _Score:
    """One row of the comparison.

    Attributes:
        name: The model's file, or the baseline.
        precision: `float32`, `int8` or `baseline`.
        runtime: Where it was measured.
        metrics: Of the protocol that the configuration asks for.
        size: Of its files, in bytes.
        variant: What corrected the ranking, or the other direction of the protocol; empty for the plain row.
        people: Of how many people's images alone it is; 0 for the whole test set.
        after: The service that made the model, of the row that stands for the model; empty for further rows of it.
        scored: Embeddings and what pictures are made of; of plain rows only.
        numbers: Metrics beyond `_SHOWN`, by name.
    """

    name: str
    precision: str
    runtime: str
    metrics: Metrics
    size: int | None = None
    variant: str = ""
    people: int = 0
    after: str = ""
    scored: Scored | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The first part of the names of its metrics."""
        name = f"{self.precision}/{self.name if self.precision == 'baseline' else self.runtime}"
        name += f"/{self.people}_people" if self.people else ""
        return f"{name}/{self.variant}" if self.variant else name

    @property
    def title(self) -> str:
        """Its name in tables."""
        name = f"{self.name}, {self.people} people" if self.people else self.name
        if self.variant in _OTHER_DIRECTION.values():
            return f"{name}, {self.variant.replace('_', ' ')}"
        return f"{name} + {self.variant}" if self.variant else name

    @property
    def values(self) -> tuple[float, ...]:
        """What `_SHOWN` names."""
        cmc = self.metrics.cmc
        ranks = [float(cmc[min(rank, len(cmc)) - 1]) for rank in (1, 5, 10)]
        return (*ranks, float(self.metrics.mAP), float(self.metrics.mINP))


def preflight(config: Config, data: Data, model: Model | None) -> None:
    """Check that the test set can be scored.

    Raises:
        ConfigError: no query has its identity in the gallery, the protocol does not fit the images, their metadata
            cannot be read, or the preprocessing, the modalities or the target do not fit the model.
    """
    if not {s.identity for s in data.query} & {s.identity for s in data.gallery}:
        raise ConfigError(
            "no query identity is in the gallery, so nothing can be scored: dataset.test_query_path holds "
            f"{len(data.query)} images, dataset.test_gallery_path {len(data.gallery)}; are they of one test set?"
        )
    _check_protocol(config, data)
    metadata_of(data.query)
    some = _of_some_people(data, config.evaluation.emulated_identities)
    if some.query is not data.query:
        _check_protocol(config, some)
    if model is not None:
        held_out = _threshold_samples(data)
        check_modalities(config, model, query=data.query, gallery=data.gallery, validation=held_out)
    check_target(config, "evaluation", model)


def _check_protocol(config: Config, data: Data) -> None:
    protocol = _protocol(config)
    if protocol is None:
        return
    # Random vectors show at once what the protocol misses in the images.
    random = np.random.default_rng(0)
    query, gallery = (
        images_of(random.normal(size=(len(part), 2)), part) for part in (data.query, data.gallery)
    )
    try:
        metrics = _retrieval(config, query, gallery)
    except (ValueError, OSError) as error:
        stated = "" if config.evaluation.protocol else f" (that of {config.dataset.dataset_name})"
        raise ConfigError(f"evaluation.protocol{stated}: {error}") from error
    _check_reranking(config, metrics)


def _check_reranking(config: Config, metrics: Metrics) -> None:
    reranking = config.evaluation.reranking
    if reranking is not None and reranking.name == _GIVES_DISTANCES and not _is_plain(metrics):
        raise ConfigError(
            f"evaluation.reranking {_GIVES_DISTANCES} needs one gallery for all queries, which evaluation.protocol "
            f"does not have: use average_query_expansion or {_EACH_SIDE_ALONE}"
        )


def run(config: Config, data: Data, model: Model | None, run: Run) -> Report:
    """Score a model, the model that it was made from, and the baselines that the configuration asks for."""
    assert model is not None
    preprocessing = preprocessing_for(config, model)
    files = list(_files(model))
    count = Counter(file_model.files[role].name for file_model, role in files)
    scores = [
        score
        for file_model, role in files
        for score in _score_file(
            config, data, file_model, role, "host", run.seed,
            prefix=file_model.made_by if count[file_model.files[role].name] > 1 else "",
        )
    ]  # fmt: skip
    if emulates(config.evaluation.target, model):
        scores += _emulated(config, data, model, run.seed)
    baselines = _baselines(config, data, preprocessing, model)
    return _report(config, data, model, scores, baselines, preprocessing, run)


def _files(model: Model) -> Iterator[tuple[Model, str]]:
    """The float source first, then the role of every file of the model that runs on this machine."""
    if model.source is not None:
        yield from _files(model.source)
    for role in model.files:
        if role in _RUNNABLE:
            yield model, role


def _emulated(config: Config, data: Data, model: Model, seed: int) -> Iterator[_Score]:
    """The rows of the emulator; of some people only, where it is told so, behind the host's of the same images."""
    role, target = next(iter(model.files)), config.evaluation.target
    some = _of_some_people(data, config.evaluation.emulated_identities)
    if some.query is data.query:
        yield from _score_file(config, some, model, role, target, seed)
        return
    people = len({sample.identity for sample in some.query})
    for where in ("host", target):
        for score in _score_file(config, some, model, role, where, seed):
            yield replace(score, people=people, scored=None)


def _of_some_people(data: Data, count: int | None) -> Data:
    """The test images of `count` people who are both sought and to be found, evenly spread; None means all images."""
    if count is None:
        return data
    found = sorted({s.identity for s in data.query} & {s.identity for s in data.gallery}, key=str)
    if count >= len(found):
        return replace(data, validation=[])
    kept = {found[index * len(found) // count] for index in range(count)}
    query, gallery = ([s for s in part if s.identity in kept] for part in (data.query, data.gallery))
    return replace(data, query=query, gallery=gallery, validation=[])


def _names(parts: Mapping[str, Part]) -> tuple[str, str]:
    """What people call the files, and what the names of files about them begin with."""
    paths = {modality: part.path for modality, part in parts.items()}
    (modality, path), *_ = paths.items()
    stem = path.stem.removesuffix(f"_{modality}") if len(set(paths.values())) > 1 else path.stem
    return " + ".join(dict.fromkeys(path.name for path in paths.values())), f"{stem}_{path.suffix[1:]}"


def _score_file(
    config: Config, data: Data, model: Model, role: str, target: str, seed: int, prefix: str = ""
) -> Iterator[_Score]:
    """The row of a file, or of one for each modality; then those of the other direction and of re-ranking, if any.

    `prefix` tells models apart whose files have one name.
    """
    held_out = _threshold_samples(data)
    parts = parts_of(config, model, role)
    title, stem = (f"{prefix}_{name}" if prefix else name for name in _names(parts))
    with open_on(target, parts, config) as opened:
        where, batch = opened.name, config.evaluation.batch_size

        def embedded(samples: Sequence[Sample], part: str) -> Images:
            return images_of(embed_with(opened, samples, batch, f"{title}: {part}"), samples)

        query, gallery = embedded(data.query, "query"), embedded(data.gallery, "gallery")
        validation = embedded(held_out, "validation") if held_out else None
    metrics = _retrieval(config, query, gallery)
    plain = metrics if _is_plain(metrics) else _plain(config, query, gallery)
    verification = verification_of(query, gallery, plain.protocol, plain.distance)
    point = None
    if verification is not None and validation is not None:
        point = _operating_point(config, validation, held_out, verification)
    stem += "_emulator" if where == HtpEmulator.name else ""
    name = f"{title} ({where})"
    scored = Scored(name, stem, query.features, gallery.features, plain, verification, point, metrics.cmc)
    numbers = (
        intervals(metrics)
        | open_set_numbers(query, gallery, plain, seed)
        | modality_numbers(query, gallery, plain)
    )
    if verification is not None:
        numbers |= verification_numbers(verification, point)
    size = sum(path.stat().st_size for path in {part.path for part in parts.values()})
    stands_for_model = target == "host" and role == next(name for name in model.files if name in _RUNNABLE)
    after = model.made_by if stands_for_model else ""
    yield _Score(title, model.precision, where, metrics, size, after=after, scored=scored, numbers=numbers)
    if (other := _other_direction(config)) is not None:
        turned = _retrieval(config, query, gallery, direction=other)
        yield _Score(title, model.precision, where, turned, size, other)
    if (reranking := config.evaluation.reranking) is not None:
        reranked = _reranked(config, query, gallery, plain)
        yield _Score(title, model.precision, where, reranked, size, reranking.name)


def _threshold_samples(data: Data) -> list[Sample]:
    """Validation images of people who are neither trained on nor tested, queries first, to choose a threshold on."""
    tested = {sample.identity for sample in data.query}
    if not data.validation_is_retrieval or any(sample.identity in tested for sample in data.validation):
        return []
    query, gallery = split_query_gallery(data.validation)
    return [*query, *gallery]


def _operating_point(
    config: Config, images: Images, samples: Sequence[Sample], test: Verification
) -> OperatingPoint | None:
    count = len(split_query_gallery(samples)[0])
    order = np.arange(len(samples))
    query, gallery = images[order < count], images[order >= count]
    distance = config.evaluation.reid_distance_metric
    validation = verification_of(
        query, gallery, default_protocol(sample.place for sample in samples), distance
    )
    if validation is None:
        return None
    try:
        return OperatingPoint.chosen(validation, test, config.evaluation.false_match_rate)
    except ValueError as error:
        _LOGGER.warning("evaluation.false_match_rate: no threshold is suggested: %s", error)
        return None


def _protocol(config: Config) -> Component | None:
    """The protocol that the configuration names, else the data set's own, if it has one."""
    name = config.dataset.dataset_name
    if config.evaluation.protocol is None and config.dataset.has_lists and name in PROTOCOLS:
        return Component(name=name)
    return config.evaluation.protocol


def _other_direction(config: Config) -> str | None:
    """The second direction of the data set's own protocol, unless the configuration states one."""
    stated = config.evaluation.protocol
    return _OTHER_DIRECTION.get(config.dataset.dataset_name) if stated is None else None


def _retrieval(config: Config, query: Images, gallery: Images, **changes: str) -> Metrics:
    """Apply the protocol, with arguments that differ."""
    section, protocol = config.evaluation, _protocol(config)
    if protocol is None:
        return _plain(config, query, gallery)
    arguments = {**protocol.arguments, **changes}
    metrics: Metrics = PROTOCOLS.get(protocol.name)(
        query, gallery, section.reid_distance_metric, section.max_rank, **arguments
    )
    return metrics


def _plain(config: Config, query: Images, gallery: Images) -> RetrievalMetrics:
    """All queries against the whole gallery, by the default protocol of the layout."""
    name = default_protocol((*query.places.tolist(), *gallery.places.tolist()))
    section = config.evaluation
    metrics: RetrievalMetrics = PROTOCOLS.get(name)(
        query, gallery, section.reid_distance_metric, section.max_rank
    )
    return metrics


def _is_plain(metrics: Metrics) -> TypeGuard[RetrievalMetrics]:
    """Whether the query folder searched the gallery folder once, so that queries and metrics are in one order."""
    return isinstance(metrics, RetrievalMetrics) and metrics.protocol in _ONE_GALLERY


def _reranked(config: Config, query: Images, gallery: Images, plain: RetrievalMetrics) -> Metrics:
    assert config.evaluation.reranking is not None
    name, arguments = config.evaluation.reranking.name, config.evaluation.reranking.arguments
    function = RERANKING.get(name)
    if name == _GIVES_DISTANCES:
        return matrix_metrics(
            function(query.features, gallery.features, **arguments),
            query.ids, gallery.ids, query.places, gallery.places,
            plain.protocol, f"{plain.distance}, corrected by {name},", config.evaluation.max_rank,
        )  # fmt: skip
    if name == _EACH_SIDE_ALONE:
        query, gallery = (
            replace(side, features=function(side.features, **arguments)) for side in (query, gallery)
        )
    else:
        query = replace(query, features=function(query.features, gallery.features, **arguments))
    return _retrieval(config, query, gallery)


def _baselines(config: Config, data: Data, preprocessing: Preprocessing, model: Model) -> list[_Score]:
    """What trivial embeddings reach on the same images: a model that does not beat them has learned nothing."""
    scores = []
    for name in config.evaluation.baselines:
        embedding = partial(_features, BASELINES.get(name), preprocessing)
        scores.append(_baseline(config, data, name, "numpy", embedding))
    if config.evaluation.random_network:
        scores += _random_network(config, data, preprocessing, model)
    return scores


def _baseline(config: Config, data: Data, name: str, where: str, embedding: Any) -> _Score:
    query, gallery = (
        images_of(embedding(part, what), part)
        for part, what in ((data.query, "query"), (data.gallery, "gallery"))
    )
    metrics = _retrieval(config, query, gallery)
    plain = metrics if _is_plain(metrics) else _plain(config, query, gallery)
    numbers = modality_numbers(query, gallery, plain)
    return _Score(name, "baseline", where, metrics, numbers=numbers)


def _random_network(config: Config, data: Data, preprocessing: Preprocessing, model: Model) -> list[_Score]:
    """The same network before any training, from the float file that the model comes from."""
    network = _keras_network(model)
    if network is None:
        _LOGGER.warning("evaluation.random_network needs a .keras file, %s is none: left out", model.path)
        return []
    name, batch = f"random {network.name}", config.evaluation.batch_size
    random = routes_of(keras.models.clone_model(network), preprocessing)
    return [
        _baseline(
            config, data, name, "keras", lambda part, what: embed(random, part, batch, f"{name}: {what}")
        )
    ]


def _keras_network(model: Model) -> keras.Model | None:
    """The Keras model that a model is or was made from; None where its file is not at hand."""
    source: Model | None = model
    while source is not None and "keras" not in source.files:
        source = source.source
    if source is None:
        return None
    return load_network(source.files["keras"])


def _features(function: Any, preprocessing: Preprocessing, samples: Sequence[Sample], _: str) -> np.ndarray:
    chunks = [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)]
    return l2_normalize(np.concatenate([function(load_pixels(chunk, preprocessing)) for chunk in chunks]))


def _report(
    config: Config,
    data: Data,
    model: Model,
    scores: Sequence[_Score],
    baselines: Sequence[_Score],
    preprocessing: Preprocessing,
    run: Run,
) -> Report:
    """Tables, pictures and files; the last model is the one that matters."""
    folder = run.make("evaluation")
    models = [score for score in scores if score.scored is not None]
    shown = [score.scored for score in models if score.scored is not None]
    last = shown[-1]
    query, gallery = images_of(last.query, data.query), images_of(last.gallery, data.gallery)
    tables = [
        _retrieval_table([*scores, *baselines]),
        *_number_tables(models),
        *breakdowns(last.metrics, query, gallery, data.query, preprocessing),
    ]
    notes = [models[0].metrics.sentence, *_notes(config, data, models)]
    notes += [
        f"Rows of {people} people are of their images alone, in which they are easier to find: compare these rows with "
        "one another only."
        for people in sorted({score.people for score in scores} - {0})
    ]
    pictures = evaluation_pictures(
        folder, shown, data.query, data.gallery, run.seed, _keras_network(model), preprocessing
    )
    page = html_report(
        folder / "report.html", f"{config.general.project_name}: evaluation of {model.path.name}",
        notes, tables, pictures,
    )  # fmt: skip
    files = [
        page,
        *(_queries(folder, score, data.query) for score in models),
        *(path for path, _ in pictures),
    ]
    metrics = {
        f"{score.key}/{name}": value
        for score in [*scores, *baselines]
        for name, value in {**dict(zip(_SHOWN, score.values, strict=True)), **score.numbers}.items()
    }
    metrics |= {
        f"after_{score.after}/{name}": value
        for score in scores
        if score.after and not score.people
        for name, value in {**dict(zip(_SHOWN, score.values, strict=True)), **_across(score.numbers)}.items()
    }
    return Report("evaluation", metrics, tuple(tables), tuple(files), tuple(notes))


def _across(numbers: Mapping[str, float]) -> dict[str, float]:
    """Those of thermal queries in a visible gallery, where there are any."""
    return {name: value for name, value in numbers.items() if name.startswith("thermal_to_visible_")}


def _retrieval_table(scores: Sequence[_Score]) -> Table:
    rows = [(s.title, s.precision, s.runtime, *_percent(s.values), _megabytes(s.size)) for s in scores]
    models = [s for s in scores if s.precision != "baseline" and not s.variant]
    for other in models[1:]:
        reference = next(s for s in models if s.people == other.people)
        if other is reference:
            continue
        difference = [b - a for a, b in zip(reference.values, other.values, strict=True)]
        same_file = other.name == reference.name
        title = " - ".join(s.runtime if same_file else s.name for s in (other, reference))
        title += f", {other.people} people" if other.people else ""
        rows.append((title, "difference", other.runtime, *_percent(difference, sign=True), None))
    columns = ("model", "precision", "measured on", *_SHOWN, "MB")
    return Table("Retrieval on the test set, %", columns, tuple(rows))


def _number_tables(models: Sequence[_Score]) -> Iterator[Table]:
    """The further numbers of each model; a column that no model has is left out."""
    for title, columns in _NUMBER_TABLES.items():
        known = {name: key for name, key in columns.items() if any(key in s.numbers for s in models)}
        if known:
            rows = [
                (s.name, s.runtime, *(_cell(s.numbers.get(key), key) for key in known.values()))
                for s in models
            ]
            yield Table(title, ("model", "measured on", *known), tuple(rows))


def _cell(value: float | None, key: str) -> str | None:
    if value is None:
        return None
    return f"{value:.4f}" if key == "threshold" else f"{100 * value:.2f}"


def _notes(config: Config, data: Data, models: Sequence[_Score]) -> Iterator[str]:
    """What must be known to read the tables."""
    plain = models[-1].scored.metrics if models[-1].scored is not None else None
    if plain is not None and not _is_plain(models[-1].metrics):
        yield f"Verification, breakdowns and pictures use one gallery: {plain.sentence}"
    if config.evaluation.reranking is not None:
        yield (
            f"Rows with {config.evaluation.reranking.name} look at many images of the test set at once, which a "
            "product that answers one query cannot: do not compare them with rows without."
        )
    point = next(
        (s.scored.operating_point for s in reversed(models) if s.scored and s.scored.operating_point), None
    )
    if point is not None:
        yield f"The suggested thresholds are those of the {point.rule}."
    elif not _threshold_samples(data):
        yield (
            "No threshold is suggested: that takes validation images of people who are neither trained on nor tested "
            "(dataset.validation_path, or validation_split_by: identity)."
        )


def _queries(folder: Path, score: _Score, samples: Sequence[Sample]) -> Path:
    """One line for each query: who it is and how early the gallery answers; also in the drawn galleries, if any."""
    assert score.scored is not None
    columns = {
        "average_precision": score.scored.metrics.average_precision,
        "rank_of_first_match": score.scored.metrics.first_match,
        **_over_trials(score.metrics, samples),
    }
    rows = (
        (sample.path, sample.identity, sample.camera, *(None if np.isnan(v) else v for v in values))
        for sample, *values in zip(samples, *columns.values(), strict=True)
    )
    path = folder / f"{score.scored.stem}_queries.csv"
    return write_csv(path, ("file", "identity", "camera", *columns), rows)


def _over_trials(metrics: Metrics, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """Means of each query over the trials of a protocol whose queries are the query folder's."""
    if not isinstance(metrics, TrialMetrics):
        return {}
    codes = metrics.trials[0].query_codes
    if len(codes) != len(samples):
        return {}
    pairs = {(int(code), sample.identity) for code, sample in zip(codes, samples, strict=True)}
    if len(pairs) != len({sample.identity for sample in samples}):
        return {}
    first = np.array([trial.first_match for trial in metrics.trials])
    return {
        "average_precision_in_trials": np.mean([t.average_precision for t in metrics.trials], axis=0),
        "rank1_in_trials": np.where(np.isnan(first), np.nan, first == 1).mean(axis=0),
    }


def _percent(values: Any, sign: bool = False) -> list[str]:
    return [f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}" for value in values]


def _megabytes(size: int | None) -> float | None:
    return None if size is None else size / 1e6
