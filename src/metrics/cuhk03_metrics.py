from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from src.metrics._closeness import QUERIES_AT_ONCE, FeatureCloseness, checked_features
from src.metrics._draws import checked_names
from src.metrics._ranking import Labels
from src.metrics._score import DISTANCES, Ids, checked_labels, one_of, score
from src.metrics.trial_metrics import TrialMetrics

_RULE = (
    "CMC ranks one drawn gallery image of each identity, that of the query's own not from its camera; mAP and mINP "
    "rank the whole gallery but the query's identity in its camera"
)


def cuhk03_metrics(
    query: np.ndarray,
    gallery: np.ndarray,
    query_ids: Ids,
    gallery_ids: Ids,
    query_cameras: np.ndarray | Sequence[int],
    gallery_cameras: np.ndarray | Sequence[int],
    gallery_names: np.ndarray | Sequence[int | str] | None = None,
    distance: str = "cosine",
    max_rank: int = 50,
    trials: int = 10,
) -> TrialMetrics:
    """Score the classic single-gallery-shot protocol of CUHK03 (Li et al., "DeepReID", CVPR 2014).

    Each trial draws one gallery image per identity, with seeds 0, 1 ... As in the usual implementations, the draw
    shapes CMC only. The newer split, CUHK03-NP, is scored with `retrieval_metrics` as Market-1501 is.

    Args:
        query: Embeddings (queries, D).
        gallery: Embeddings (images, D).
        query_ids: Identities (queries,).
        gallery_ids: Identities (images,).
        query_cameras: Camera numbers (queries,).
        gallery_cameras: Camera numbers (images,).
        gallery_names: What orders the images, so that the draws do not depend on the order of the arrays: file names
            (images,); None for the order given.
        distance: `cosine` or `euclidean`.
        max_rank: Length of the CMC curve.
        trials: Number of draws.

    Raises:
        ValueError: as `retrieval_metrics`.
    """
    one_of("distance", distance, DISTANCES)
    if trials < 1:
        raise ValueError(f"trials must be 1 or more, got {trials}")
    query, gallery = checked_features(query=query, gallery=gallery)
    labels = checked_labels(
        len(query), len(gallery), query_ids, gallery_ids, query_cameras, gallery_cameras, "market1501"
    )
    names = checked_names(len(gallery), gallery_names, "gallery_names")
    closeness = FeatureCloseness(query, gallery, distance)
    whole = score(closeness, labels, "market1501", distance, max_rank)
    images = np.flatnonzero(~labels.junk)
    images = images[np.argsort(names[images], kind="stable")]
    results = []
    for trial in range(trials):
        turn = np.random.default_rng(trial).permutation(images)
        first = _first_match(closeness, labels, turn, ~np.isnan(whole.first_match))
        cmc = (first[~np.isnan(first), None] <= np.arange(1, max_rank + 1)).mean(axis=0)
        results.append(replace(whole, cmc=cmc, first_match=first, protocol="cuhk03", rule=_RULE))
    return TrialMetrics.of(results, f"single-shot galleries drawn with seeds 0 to {trials - 1}")


def _first_match(
    closeness: FeatureCloseness, labels: Labels, turn: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Return the rank of each query's own image among the first image, in turn, of each identity."""
    first = np.full(len(labels.query_codes), np.nan)
    people, where = np.unique(labels.gallery_codes[turn], return_index=True)
    others = closeness.against(turn[where])
    for camera in np.unique(labels.query_cameras[valid]):
        allowed = turn[labels.gallery_cameras[turn] != camera]
        own_people, where = np.unique(labels.gallery_codes[allowed], return_index=True)
        own = closeness.against(allowed[where])
        queries = np.flatnonzero(valid & (labels.query_cameras == camera))
        for part in np.array_split(queries, np.ceil(len(queries) / QUERIES_AT_ONCE)):
            codes = labels.query_codes[part]
            threshold = (
                own(part)[np.arange(len(part)), np.searchsorted(own_people, codes)] - closeness.tie[part]
            )
            block = others(part)
            block[people == codes[:, None]] = -np.inf
            first[part] = 1 + np.count_nonzero(block >= threshold[:, None], axis=1)
    return first
