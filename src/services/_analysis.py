"""What an evaluation says beyond CMC and mAP: certainty, verification, unknown people, and where the errors are."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from common.artifacts import Table
from src.data.metadata import metadata_of
from src.data.pipeline import load_pixels
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.metrics._images import Images
from src.metrics._protocols import PROTOCOLS
from src.metrics.bootstrap_interval import bootstrap_interval
from src.metrics.breakdown import breakdown
from src.metrics.open_set_metrics import open_set_metrics
from src.metrics.operating_point import OperatingPoint
from src.metrics.pair_breakdown import pair_breakdown
from src.metrics.retrieval import RetrievalMetrics
from src.metrics.trial_metrics import TrialMetrics
from src.metrics.value_bins import value_bins
from src.metrics.verification import Verification
from src.metrics.verification_pairs import verification_pairs

_FALSE_MATCH_RATES = (1e-4, 1e-3, 1e-2)
_FALSE_POSITIVE_IDENTIFICATION_RATES = (0.01, 0.1)
_CHUNK = 512
_MOST_PAIRS = 36


def images_of(embeddings: np.ndarray, samples: Sequence[Sample]) -> Images:
    """Embeddings (N, D) with what is known of their N samples."""
    return Images(
        embeddings,
        np.array([sample.identity for sample in samples]),
        np.array([sample.camera for sample in samples]),
        np.array([sample.modality for sample in samples]),
        np.array([sample.path.stem for sample in samples]),
        np.array([sample.place for sample in samples]),
    )


def intervals(metrics: RetrievalMetrics | TrialMetrics) -> dict[str, float]:
    """How certain Rank-1 and mAP are: a 95 % interval over identities, or the spread over trials."""
    if isinstance(metrics, TrialMetrics):
        return {f"{name}_deviation": value for name, value in metrics.spread.items()}
    if len(np.unique(metrics.query_codes[~np.isnan(metrics.first_match)])) < 2:
        return {}
    first = np.where(np.isnan(metrics.first_match), np.nan, metrics.first_match == 1)
    result = {}
    for name, values in (("rank1", first), ("mAP", metrics.average_precision)):
        result[f"{name}_low"], result[f"{name}_high"] = bootstrap_interval(values, metrics.query_codes)
    return result


def verification_of(query: Images, gallery: Images, protocol: str, distance: str) -> Verification | None:
    """Distances of the pairs that the protocol counts; None where there are none of one kind."""
    try:
        return Verification(
            *verification_pairs(**_sides(query, gallery), protocol=protocol, distance=distance)
        )
    except ValueError:
        return None


def verification_numbers(verification: Verification, point: OperatingPoint | None) -> dict[str, float]:
    """EER, TAR at the rates that the number of pairs supports, and what the suggested threshold does."""
    numbers = {"eer": verification.equal_error_rate}
    for rate in _FALSE_MATCH_RATES:
        if verification.supports(rate):
            numbers[f"tar_at_fmr_{rate:g}"] = verification.tar(rate)
    if point is not None:
        numbers["threshold"] = point.threshold
        numbers["false_match_rate"] = point.false_match_rate
        numbers["false_non_match_rate"] = point.false_non_match_rate
    return numbers


def open_set_numbers(
    query: Images, gallery: Images, metrics: RetrievalMetrics, seed: int
) -> dict[str, float]:
    """DIR when half of the people are not in the gallery, at the rates that the number of unknown queries supports."""
    try:
        found = open_set_metrics(
            **_sides(query, gallery), protocol=metrics.protocol, distance=metrics.distance, seed=seed
        )
    except ValueError:  # too few people to leave some out
        return {}
    supported = (rate for rate in _FALSE_POSITIVE_IDENTIFICATION_RATES if found.supports(rate))
    return {f"dir_at_fpir_{rate:g}": found.dir(rate) for rate in supported}


def modality_numbers(query: Images, gallery: Images, metrics: RetrievalMetrics) -> dict[str, float]:
    """Rank-1 and mAP from each modality to each, where there are several: `thermal_to_visible_rank1` and so on."""
    return {
        f"{first}_to_{second}_{name}": getattr(found, name)
        for (first, second), (found, _) in _directions(query, gallery, metrics).items()
        for name in ("rank1", "mAP")
    }


def _directions(
    query: Images, gallery: Images, metrics: RetrievalMetrics
) -> dict[tuple[str, str], tuple[RetrievalMetrics, str]]:
    """Scores from each modality to each, and which images were taken; nothing where there is one modality.

    The folders decide who asks. A direction that they do not have takes the images of both: all of one modality search
    all of the other; within one, those of other cameras where the protocol asks for that, else the first image of each
    person and camera searches the rest.
    """
    pool = query + gallery
    modalities = [str(name) for name in np.unique(pool.modalities)]
    if len(modalities) < 2:
        return {}
    pairs = _pairs(query, gallery, query.modalities, gallery.modalities, metrics)
    found = {(str(a), str(b)): (scores, "queries") for (a, b), scores in pairs.items()}
    missing = [pair for pair in itertools.product(modalities, modalities) if pair not in found]
    if missing:
        everything = _pairs(pool, pool, pool.modalities, pool.modalities, metrics)
        itself_counts = not PROTOCOLS[metrics.protocol].drops_same_camera
    for first, second in missing:
        if (first, second) in everything and not (first == second and itself_counts):
            found[first, second] = everything[first, second], "all test images"
        elif first == second:
            own = pool[pool.modalities == first]
            asks = _first_of_each(own)
            sides = own[asks], own[~asks], own.modalities[asks], own.modalities[~asks]
            alone = _pairs(*sides, replace(metrics, protocol="no_camera")) if not asks.all() else {}
            for scores in alone.values():
                found[first, second] = scores, "first image of each person"
    return found


def _first_of_each(images: Images) -> np.ndarray:
    """Which images are the first of their identity and camera, booleans (N,)."""
    keys = list(zip(images.ids.tolist(), images.cameras.tolist(), strict=True))
    first = {key: number for number, key in reversed(list(enumerate(keys)))}
    return np.isin(np.arange(len(keys)), list(first.values()))


def breakdowns(
    metrics: RetrievalMetrics,
    query: Images,
    gallery: Images,
    query_samples: Sequence[Sample],
    preprocessing: Preprocessing,
) -> Iterator[Table]:
    """Tables of the score by what is known of the images, %: only where it differs between them."""
    rows: list[tuple[Any, ...]]
    if by_modality := _directions(query, gallery, metrics):
        rows = [
            (*pair, who, m.num_valid_queries, m.num_gallery, *_percent(m.rank1, m.mAP))
            for pair, (m, who) in sorted(by_modality.items())
        ]
        yield Table(
            f"By modality of query and gallery, % (each pair is searched alone{_counted(query + gallery, metrics)})",
            ("query modality", "gallery modality", "who asks", "queries", "gallery images", "rank1", "mAP"),
            tuple(rows),
        )
    cameras = np.unique(query.cameras), np.unique(gallery.cameras)
    if len(np.union1d(*cameras)) > 1 and len(cameras[0]) * len(cameras[1]) <= _MOST_PAIRS:
        pairs = _pairs(query, gallery, query.cameras, gallery.cameras, metrics)
        rows = [
            (str(a), str(b), m.num_valid_queries, m.num_gallery, *_percent(m.rank1, m.mAP))
            for (a, b), m in pairs.items()
        ]
        yield Table(
            "By camera of query and gallery, % (each pair is searched alone)",
            ("query camera", "gallery camera", "queries", "gallery images", "rank1", "mAP"),
            tuple(rows),
        )
    for what, groups in _properties(query_samples, preprocessing):
        if len(set(groups)) > 1:
            parts = breakdown(metrics, groups)
            rows = [(str(name), s.num_queries, *_percent(s.rank1, s.mAP)) for name, s in parts.items()]
            yield Table(f"By {what} of the query, %", (what, "queries", "rank1", "mAP"), tuple(rows))


def _counted(images: Images, metrics: RetrievalMetrics) -> str:
    """By which rule, as the end of a title: the protocol, and which cameras it takes for one."""
    shared = images.places != images.cameras
    rooms = sorted(set(zip(images.places[shared].tolist(), images.cameras[shared].tolist(), strict=True)))
    return "".join([f"; protocol {metrics.protocol}", *(f", cameras {a} and {b} as one" for a, b in rooms)])


def _properties(samples: Sequence[Sample], preprocessing: Preprocessing) -> Iterator[tuple[str, np.ndarray]]:
    """Groups of the samples by brightness, by height, and by the columns of their metadata."""
    chunks = [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)]
    luma = np.concatenate([load_pixels(chunk, preprocessing).mean(axis=(1, 2, 3)) / 255 for chunk in chunks])
    yield "brightness (mean of the pixels)", value_bins(luma)
    yield "image height in pixels", value_bins([_height(sample) for sample in samples])
    for column, values in metadata_of(samples).items():
        numbers = _numbers(values)
        yield column, np.array(values) if numbers is None else value_bins(numbers)


def _height(sample: Sample) -> int:
    with Image.open(sample.path) as image:
        return image.height


def _numbers(values: Sequence[str]) -> np.ndarray | None:
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _pairs(
    query: Images, gallery: Images, first: np.ndarray, second: np.ndarray, metrics: RetrievalMetrics
) -> dict[tuple[int | str, int | str], RetrievalMetrics]:
    sides = _sides(query, gallery) | {"query_groups": first, "gallery_groups": second}
    return pair_breakdown(**sides, protocol=metrics.protocol, distance=metrics.distance)


def _sides(query: Images, gallery: Images) -> dict[str, Any]:
    """Both sides as the metrics take them."""
    return {
        "query": query.features, "gallery": gallery.features, "query_ids": query.ids, "gallery_ids": gallery.ids,
        "query_cameras": query.places, "gallery_cameras": gallery.places,
    }  # fmt: skip


def _percent(*values: float) -> list[str]:
    return [f"{100 * value:.1f}" for value in values]
