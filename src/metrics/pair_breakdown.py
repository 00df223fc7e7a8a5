from collections.abc import Sequence

import numpy as np

from src.metrics._closeness import FeatureCloseness, checked_features
from src.metrics._protocols import PROTOCOLS
from src.metrics._score import (
    DISTANCES,
    Cameras,
    Ids,
    RetrievalMetrics,
    checked_labels,
    not_junk,
    one_of,
    score_if_any,
)

Groups = np.ndarray | Sequence[int | str]


def pair_breakdown(
    query: np.ndarray,
    gallery: np.ndarray,
    query_ids: Ids,
    gallery_ids: Ids,
    query_cameras: Cameras,
    gallery_cameras: Cameras,
    query_groups: Groups,
    gallery_groups: Groups,
    protocol: str = "market1501",
    distance: str = "cosine",
    max_rank: int = 50,
) -> dict[tuple[int | str, int | str], RetrievalMetrics]:
    """Score each group of queries against each group of gallery images alone: camera pairs, modality pairs.

    A smaller gallery is an easier one: compare pairs with one another where their galleries are about as large
    (`num_gallery`), and not with the score of the whole.

    Args:
        query: Embeddings (queries, D).
        gallery: Embeddings (images, D).
        query_ids: Identities (queries,).
        gallery_ids: Identities (images,).
        query_cameras: Camera numbers (queries,), or None for protocols that need none.
        gallery_cameras: Camera numbers (images,), or None.
        query_groups: Group of each query (queries,): cameras, modalities, altitudes.
        gallery_groups: Group of each image (images,).
        protocol: As for `retrieval_metrics`.
        distance: `cosine` or `euclidean`.
        max_rank: Length of the CMC curves.

    Returns:
        (group of the queries, group of the gallery) to scores, in order; a pair without a valid query is absent.

    Raises:
        ValueError: as `retrieval_metrics`, or the number of groups is not that of the embeddings.
    """
    one_of("distance", distance, DISTANCES)
    query, gallery = checked_features(query=query, gallery=gallery)
    labels = checked_labels(
        len(query), len(gallery), query_ids, gallery_ids, query_cameras, gallery_cameras, protocol
    )
    groups = np.asarray(query_groups), np.asarray(gallery_groups)
    for name, values, n in zip(("query", "gallery"), groups, (len(query), len(gallery)), strict=True):
        if values.shape != (n,):
            raise ValueError(f"{name}_groups must have shape ({n},), got {values.shape}")
    kept = not_junk(labels, PROTOCOLS[protocol])
    closeness = FeatureCloseness(query, gallery, distance)
    scores = {}
    for first in np.unique(groups[0]):
        queries = np.flatnonzero(groups[0] == first)
        for second in np.unique(groups[1][kept]):
            images = kept[groups[1][kept] == second]
            metrics = score_if_any(closeness, labels, protocol, distance, max_rank, queries, images)
            if metrics is not None:
                scores[first.item(), second.item()] = metrics
    return scores
