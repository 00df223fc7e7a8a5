"""CMC, mAP and mINP of a query set against a gallery, by counting instead of sorting (see `_ranking`)."""

import numpy as np

from src.metrics._closeness import FeatureCloseness, checked_features
from src.metrics._score import (
    DISTANCES,
    Cameras,
    Ids,
    RetrievalMetrics,
    checked_labels,
    one_of,
    score,
)

__all__ = ["RetrievalMetrics", "retrieval_metrics"]


def retrieval_metrics(
    query: np.ndarray,
    gallery: np.ndarray,
    query_ids: Ids,
    gallery_ids: Ids,
    query_cameras: Cameras = None,
    gallery_cameras: Cameras = None,
    protocol: str = "market1501",
    distance: str = "cosine",
    max_rank: int = 50,
) -> RetrievalMetrics:
    """Score a query set against a gallery.

    Ties are pessimistic: another person at the same distance as a positive, to within the accuracy of
    float32, comes before it. A collapsed network, whose embeddings are all equal, thus scores what it
    deserves.

    Args:
        query: Embeddings, numbers of any precision (queries, D); need not be normalised. The zero point of int8
            embeddings must be 0 (or have been subtracted); their scale does not matter.
        gallery: Embeddings (images, D).
        query_ids: Identities, integers or text (queries,).
        gallery_ids: Identities (images,); the integer -1 is junk.
        query_cameras: Camera numbers (queries,), for protocols that need them.
        gallery_cameras: Camera numbers (images,).
        protocol: `market1501`, `no_camera`, `msmt17`, `veri776`, `vehicleid`, `sysu_mm01`, `regdb` or `llcm`. Those
            that draw their gallery several times score one drawn gallery here; `sysu_mm01_metrics`, `llcm_metrics`,
            `vehicleid_metrics` and `cuhk03_metrics` draw.
        distance: `cosine` or `euclidean`.
        max_rank: Length of the CMC curve.

    Raises:
        ValueError: empty or not matching arrays, values that are not finite, an unknown protocol or distance,
            missing cameras, or no query with a positive.
    """
    one_of("distance", distance, DISTANCES)
    query, gallery = checked_features(query=query, gallery=gallery)
    labels = checked_labels(
        len(query), len(gallery), query_ids, gallery_ids, query_cameras, gallery_cameras, protocol
    )
    return score(FeatureCloseness(query, gallery, distance), labels, protocol, distance, max_rank)
