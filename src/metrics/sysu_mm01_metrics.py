"""SYSU-MM01: infrared queries, a drawn visible gallery, ten times (Wu et al., "RGB-Infrared Cross-Modality Person
Re-Identification", ICCV 2017).
"""

from collections.abc import Sequence

import numpy as np

from src.metrics._closeness import FeatureCloseness, checked_features
from src.metrics._draws import by_identity_and_camera, checked_names, choose_from_each
from src.metrics._score import DISTANCES, Ids, checked_labels, one_of, score
from src.metrics.sysu_mm01_draws import Draws
from src.metrics.trial_metrics import TrialMetrics

_INFRARED = (3, 6)
_GALLERY = {"all": (1, 2, 4, 5), "indoor": (1, 2)}


def sysu_mm01_metrics(
    query: np.ndarray,
    gallery: np.ndarray,
    query_ids: Ids,
    gallery_ids: Ids,
    query_cameras: np.ndarray | Sequence[int],
    gallery_cameras: np.ndarray | Sequence[int],
    gallery_frames: np.ndarray | Sequence[int],
    mode: str = "all",
    shots: int = 1,
    draws: Draws | None = None,
    distance: str = "cosine",
    max_rank: int = 20,
    trials: int = 10,
) -> TrialMetrics:
    """Score infrared queries against drawn galleries of visible images.

    Two ways to draw are in use and give different numbers: the authors' `rand_perm_cam.mat`, and
    `random.seed(trial)` with one `random.choice` per identity and camera (AGW, CAJ, DEEN). The result names which.

    Args:
        query: Embeddings of all images of cameras 3 and 6 of the test identities (queries, D).
        gallery: Embeddings of all images of cameras 1, 2, 4 and 5 (images, D); the galleries are drawn from them.
        query_ids: Identities (queries,).
        gallery_ids: Identities (images,).
        query_cameras: 3 or 6 (queries,).
        gallery_cameras: 1, 2, 4 or 5 (images,).
        gallery_frames: Number of each image within its identity and camera, from 1 as in the file names (images,).
        mode: `all` searches cameras 1, 2, 4 and 5; `indoor` 1 and 2.
        shots: Gallery images per identity and camera, 1 or 10.
        draws: Of `sysu_mm01_draws`; None draws with seeds.
        distance: `cosine` or `euclidean`.
        max_rank: Length of the CMC curve.
        trials: Number of galleries, 1 to 10.

    Raises:
        ValueError: an argument is out of its range, a camera is not among those above, a drawn frame is missing, or
            as `retrieval_metrics`.
    """
    one_of("distance", distance, DISTANCES)
    cameras = one_of("mode", mode, _GALLERY)
    if shots not in (1, 10) or not 1 <= trials <= 10:
        raise ValueError(f"shots must be 1 or 10 and trials 1 to 10, got {shots} and {trials}")
    query, gallery = checked_features(query=query, gallery=gallery)
    labels = checked_labels(
        len(query), len(gallery), query_ids, gallery_ids, query_cameras, gallery_cameras, "sysu_mm01"
    )
    frames = checked_names(len(gallery), gallery_frames, "gallery_frames")
    _check_cameras("query", labels.query_cameras, _INFRARED)
    _check_cameras("gallery", labels.gallery_cameras, _GALLERY["all"])
    groups = by_identity_and_camera(np.asarray(gallery_ids), labels.gallery_cameras, frames)
    groups = {(identity, camera): group for (identity, camera), group in groups.items() if camera in cameras}
    if not groups:
        raise ValueError(f"mode '{mode}' searches cameras {cameras}, but no gallery image is of them")
    closeness = FeatureCloseness(query, gallery, distance)
    results = []
    for trial in range(trials):
        if draws is None:
            images = choose_from_each(list(groups.values()), shots, trial)
        else:
            images = np.concatenate(
                [_drawn(draws, key, group, frames, trial, shots) for key, group in groups.items()]
            )
        results.append(score(closeness, labels, "sysu_mm01", distance, max_rank, images=images))
    how = f"random.seed(0) to {trials - 1}" if draws is None else "the official rand_perm_cam"
    shot = "single-shot" if shots == 1 else "10-shot"
    return TrialMetrics.of(
        results,
        f"{mode}-search, {shot}, galleries drawn by {how}",
    )


def _drawn(
    draws: Draws, key: tuple[int, int], group: np.ndarray, frames: np.ndarray, trial: int, shots: int
) -> np.ndarray:
    """Return the images of one identity and camera that a trial draws."""
    if key not in draws:
        raise ValueError(f"the draws know no image of identity {key[0]} in camera {key[1]}: other data set?")
    index = dict(zip(frames[group].tolist(), group.tolist(), strict=True))
    wanted = draws[key][trial][:shots].tolist()
    missing = [frame for frame in wanted if frame not in index]
    if missing:
        raise ValueError(
            f"the draw of trial {trial} needs frame {missing[0]} of identity {key[0]} in camera {key[1]}, which is not "
            "among gallery_frames: give all test images of the visible cameras, frames counted from 1"
        )
    return np.array([index[frame] for frame in wanted])


def _check_cameras(name: str, cameras: np.ndarray, allowed: tuple[int, ...]) -> None:
    others = sorted(set(cameras.tolist()) - set(allowed))
    if others:
        raise ValueError(f"{name}_cameras of SYSU-MM01 must be among {allowed}, got {others}")
