"""LLCM: visible and near-infrared images in low light, both directions, ten drawn sets (Zhang and Wang, "Diverse
Embedding Expansion Network and Low-Light Cross-Modality Benchmark", CVPR 2023).
"""

from collections.abc import Sequence

import numpy as np

from src.metrics._closeness import FeatureCloseness, checked_features
from src.metrics._draws import by_identity_and_camera, checked_names, choose_from_each
from src.metrics._score import DISTANCES, Ids, checked_labels, one_of, score
from src.metrics.trial_metrics import TrialMetrics

_DIRECTIONS = ("infrared_to_visible", "visible_to_infrared")
_VARIANTS = ("paper", "published_code")


def llcm_metrics(
    visible: np.ndarray,
    infrared: np.ndarray,
    visible_ids: Ids,
    infrared_ids: Ids,
    visible_cameras: np.ndarray | Sequence[int],
    infrared_cameras: np.ndarray | Sequence[int],
    visible_names: np.ndarray | Sequence[int | str] | None = None,
    infrared_names: np.ndarray | Sequence[int | str] | None = None,
    direction: str = "infrared_to_visible",
    variant: str = "paper",
    distance: str = "cosine",
    max_rank: int = 20,
    trials: int = 10,
) -> TrialMetrics:
    """Score one modality against the other, one image per identity and camera of which is drawn.

    Numbers from visible to infrared are published in two variants that cannot be compared. `paper`: all visible images
    search a drawn infrared gallery. `published_code`: the code of DEEN transposes the similarities and swaps the
    labels, so that the drawn infrared images search all visible ones. The result's sentence names the variant.

    Args:
        visible: Embeddings of the visible test images (N, D).
        infrared: Embeddings of the near-infrared test images (M, D).
        visible_ids: Identities (N,).
        infrared_ids: Identities (M,).
        visible_cameras: Camera numbers (N,).
        infrared_cameras: Camera numbers (M,).
        visible_names: What orders the images of an identity and camera: file names (N,); None for the order given.
        infrared_names: As `visible_names` (M,).
        direction: `infrared_to_visible` (infrared queries) or `visible_to_infrared`.
        variant: `paper` or `published_code`; from infrared to visible they are one.
        distance: `cosine` or `euclidean`.
        max_rank: Length of the CMC curve.
        trials: Number of draws, with seeds 0, 1 ...

    Raises:
        ValueError: an argument is out of its range, or as `retrieval_metrics`.
    """
    one_of("distance", distance, DISTANCES)
    if direction not in _DIRECTIONS or variant not in _VARIANTS or trials < 1:
        raise ValueError(
            f"direction must be one of {', '.join(_DIRECTIONS)}, variant one of {', '.join(_VARIANTS)} and trials 1 or "
            f"more, got '{direction}', '{variant}' and {trials}"
        )
    to_visible = direction == "infrared_to_visible"
    swapped = not to_visible and variant == "published_code"
    visible, infrared = checked_features(visible=visible, infrared=infrared)
    sides = (visible, visible_ids, visible_cameras), (infrared, infrared_ids, infrared_cameras)
    (gallery, gallery_ids, gallery_cameras), (query, query_ids, query_cameras) = (
        sides if to_visible or swapped else reversed(sides)
    )
    labels = checked_labels(
        len(query), len(gallery), query_ids, gallery_ids, query_cameras, gallery_cameras, "llcm"
    )
    closeness = FeatureCloseness(query, gallery, distance)
    names = (
        checked_names(len(visible), visible_names, "visible_names")
        if to_visible
        else checked_names(len(infrared), infrared_names, "infrared_names")
    )
    ids, cameras = (query_ids, query_cameras) if swapped else (gallery_ids, gallery_cameras)
    groups = list(by_identity_and_camera(np.asarray(ids), np.asarray(cameras), names).values())
    results = []
    for trial in range(trials):
        chosen = choose_from_each(groups, 1, trial)
        some = {"queries" if swapped else "images": chosen}
        results.append(score(closeness, labels, "llcm", distance, max_rank, **some))
    what = "queries drawn, labels swapped as in the published code" if swapped else "galleries drawn"
    return TrialMetrics.of(
        results, f"{direction.replace('_', ' ')}, {what} by random.seed(0) to {trials - 1}"
    )
