from collections.abc import Sequence

import numpy as np

from src.metrics._closeness import FeatureCloseness, checked_features
from src.metrics._draws import by_identity_and_camera, checked_names, choose_from_each
from src.metrics._score import DISTANCES, Ids, checked_labels, one_of, score
from src.metrics.trial_metrics import TrialMetrics


def vehicleid_metrics(
    features: np.ndarray,
    ids: Ids,
    names: np.ndarray | Sequence[int | str] | None = None,
    distance: str = "cosine",
    max_rank: int = 50,
    trials: int = 10,
) -> TrialMetrics:
    """Score VehicleID (Liu et al., "Deep Relative Distance Learning", CVPR 2016).

    One image of each identity is drawn into the gallery; all others are queries.

    Args:
        features: Embeddings of all images of a test set (images, D).
        ids: Identities (images,).
        names: What orders the images of an identity, so that the draws do not depend on the order of the arrays: file
            names (images,); None for the order given.
        distance: `cosine` or `euclidean`.
        max_rank: Length of the CMC curve.
        trials: Number of draws, with seeds 0, 1 ...

    Raises:
        ValueError: no identity has two images, or as `retrieval_metrics`.
    """
    one_of("distance", distance, DISTANCES)
    if trials < 1:
        raise ValueError(f"trials must be 1 or more, got {trials}")
    (features,) = checked_features(features=features)
    labels = checked_labels(len(features), len(features), ids, ids, None, None, "vehicleid")
    ordered = checked_names(len(features), names, "names")
    groups = list(by_identity_and_camera(np.asarray(ids), labels.query_cameras, ordered).values())
    closeness = FeatureCloseness(features, features, distance)
    results = []
    for trial in range(trials):
        images = choose_from_each(groups, 1, trial)
        queries = np.setdiff1d(np.arange(len(features)), images)
        if not len(queries):
            raise ValueError(
                f"each of {len(groups)} identities has one image only: nothing is left to search with"
            )
        results.append(score(closeness, labels, "vehicleid", distance, max_rank, queries, images))
    return TrialMetrics.of(
        results, f"galleries drawn by random.seed(0) to {trials - 1}, all other images search"
    )
