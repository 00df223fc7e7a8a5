import numpy as np

from src.metrics._closeness import MatrixCloseness
from src.metrics._score import Cameras, Ids, RetrievalMetrics, checked_labels, score


def matrix_metrics(
    distances: np.ndarray,
    query_ids: Ids,
    gallery_ids: Ids,
    query_cameras: Cameras = None,
    gallery_cameras: Cameras = None,
    protocol: str = "market1501",
    distance: str = "given",
    max_rank: int = 50,
) -> RetrievalMetrics:
    """Score a matrix of distances, such as re-ranked ones; for the rest see `retrieval_metrics`.

    Args:
        distances: Float (queries, images), smaller is closer. Only equal numbers are ties.
        query_ids: Identities (queries,).
        gallery_ids: Identities (images,).
        query_cameras: Camera numbers (queries,), for protocols that need them.
        gallery_cameras: Camera numbers (images,).
        protocol: As for `retrieval_metrics`.
        distance: What the distances are, for the report's sentence: "k-reciprocal re-ranked".
        max_rank: Length of the CMC curve.

    Raises:
        ValueError: as `retrieval_metrics`.
    """
    distances = np.asarray(distances)
    if distances.ndim != 2 or distances.size == 0 or distances.dtype.kind != "f":
        raise ValueError(
            f"distances must be floats of shape (queries, images), got {distances.dtype} {distances.shape}"
        )
    if not np.isfinite([distances.min(), distances.max()]).all():
        raise ValueError("distances hold NaN or infinity")
    queries, images = distances.shape
    labels = checked_labels(queries, images, query_ids, gallery_ids, query_cameras, gallery_cameras, protocol)
    return score(MatrixCloseness(distances), labels, protocol, distance, max_rank)
