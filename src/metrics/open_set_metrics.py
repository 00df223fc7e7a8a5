from dataclasses import dataclass

import numpy as np

from src.metrics._closeness import FeatureCloseness, checked_features
from src.metrics._error_rates import supports, threshold_at
from src.metrics._protocols import PROTOCOLS
from src.metrics._ranking import rank
from src.metrics._score import (
    DISTANCES,
    Cameras,
    Ids,
    checked_labels,
    no_match,
    not_junk,
    one_of,
)


@dataclass(frozen=True)
class OpenSetMetrics:
    """Identification where some queries show people that the gallery does not hold.

    Attributes:
        known: Distance of the closest image to each query whose person is in the gallery, where that image is right,
            else infinity; float64 (known queries,), ascending.
        unknown: Distance of the closest image to each other query, float64 (unknown queries,), ascending.
        sentence: How it was measured, for the report.
    """

    known: np.ndarray
    unknown: np.ndarray
    sentence: str

    def supports(self, fpir: float) -> bool:
        """Whether there are enough unknown queries for a false positive identification rate: ten expected errors."""
        return supports(fpir, len(self.unknown))

    def threshold_at(self, fpir: float) -> float:
        """Return the largest threshold at which at most that share of unknown people is taken for someone.

        Raises:
            ValueError: fpir is not in 0..1, or there are too few unknown queries to know (ten expected errors).
        """
        return threshold_at(self.unknown, fpir, "queries of unknown people")

    def dir(self, fpir: float) -> float:
        """Return the detection and identification rate of known people at a false positive identification rate.

        The share of known queries whose closest image is right and within the threshold; raises as `threshold_at`.
        """
        return float(np.searchsorted(self.known, self.threshold_at(fpir), side="right") / len(self.known))


def open_set_metrics(
    query: np.ndarray,
    gallery: np.ndarray,
    query_ids: Ids,
    gallery_ids: Ids,
    query_cameras: Cameras = None,
    gallery_cameras: Cameras = None,
    protocol: str = "market1501",
    distance: str = "cosine",
    left_out: float = 0.5,
    seed: int = 0,
) -> OpenSetMetrics:
    """Measure identification and the rejection of unknown people (DIR at FPIR, ISO/IEC 19795-1).

    Args:
        query: Embeddings (queries, D).
        gallery: Embeddings (images, D).
        query_ids: Identities (queries,).
        gallery_ids: Identities (images,).
        query_cameras: Camera numbers (queries,), for protocols that need them.
        gallery_cameras: Camera numbers (images,).
        protocol: As for `retrieval_metrics`; who is in the gallery, but only where a query does not see it, counts on
            neither side.
        distance: `cosine` or `euclidean`.
        left_out: Share of the identities in both sets whose gallery images are left out, so that there are unknown
            people; 0 where the gallery lacks people already.
        seed: Of that choice.

    Raises:
        ValueError: left_out is not in 0..1, or no known or no unknown query remains; or as `retrieval_metrics`.
    """
    one_of("distance", distance, DISTANCES)
    if not 0 <= left_out < 1:
        raise ValueError(f"left_out must be in 0..1 and not 1, got {left_out}")
    query, gallery = checked_features(query=query, gallery=gallery)
    labels = checked_labels(
        len(query), len(gallery), query_ids, gallery_ids, query_cameras, gallery_cameras, protocol
    )
    rules = PROTOCOLS[protocol]
    images = not_junk(labels, rules)
    people = np.intersect1d(labels.query_codes, labels.gallery_codes[images])
    absent = np.random.default_rng(seed).permutation(people)[: round(left_out * len(people))]
    images = images[~np.isin(labels.gallery_codes[images], absent)]
    if not len(images):
        raise ValueError(f"no gallery image remains with left_out={left_out}")
    closeness = FeatureCloseness(query, gallery, distance)
    queries = np.arange(len(query))
    ranking = rank(closeness, labels, rules, queries, images)
    known = ~np.isnan(ranking.first)
    unknown = ~np.isin(labels.query_codes, labels.gallery_codes[images]) & np.isfinite(ranking.other)
    if not known.any():
        raise ValueError(no_match(len(query), len(images), protocol))
    if not unknown.any():
        raise ValueError("every query's person is in the gallery: leave identities out with left_out")
    right = ranking.own > ranking.other
    found = np.where(right, closeness.as_distance(queries, ranking.own), np.inf)[known]
    others = closeness.as_distance(queries[unknown], ranking.other[unknown])
    return OpenSetMetrics(
        np.sort(found),
        np.sort(others),
        f"{known.sum()} queries of people in the gallery and {unknown.sum()} of unknown people ({len(absent)} of "
        f"{len(people)} identities left out, seed {seed}) against {len(images)} images by {distance} distance; "
        f"protocol {protocol}: {rules.rule}.",
    )
