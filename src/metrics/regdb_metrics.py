import numpy as np

from src.metrics._score import Ids, RetrievalMetrics
from src.metrics.retrieval import retrieval_metrics

_DIRECTIONS = ("visible_to_thermal", "thermal_to_visible")


def regdb_metrics(
    visible: np.ndarray,
    thermal: np.ndarray,
    visible_ids: Ids,
    thermal_ids: Ids,
    direction: str = "visible_to_thermal",
    distance: str = "cosine",
    max_rank: int = 20,
) -> RetrievalMetrics:
    """Score one of RegDB's ten splits (Nguyen et al., Sensors 2017): all test images of one modality search the other.

    A split has its own training identities, so it needs its own model; gather the ten with `TrialMetrics.of`. An
    image goes through the branch of its own modality, whichever its role.

    Args:
        visible: Embeddings of the visible test images (N, D), 2,060 in RegDB.
        thermal: Embeddings of the thermal test images (M, D).
        visible_ids: Identities (N,).
        thermal_ids: Identities (M,).
        direction: `visible_to_thermal` (visible queries) or `thermal_to_visible`.
        distance: `cosine` or `euclidean`.
        max_rank: Length of the CMC curve.

    Raises:
        ValueError: an unknown direction, or as `retrieval_metrics`.
    """
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(_DIRECTIONS)}, got '{direction}'")
    sides = (visible, visible_ids), (thermal, thermal_ids)
    (query, query_ids), (gallery, gallery_ids) = (
        sides if direction == "visible_to_thermal" else reversed(sides)
    )
    return retrieval_metrics(
        query, gallery, query_ids, gallery_ids, protocol="regdb", distance=distance, max_rank=max_rank
    )
