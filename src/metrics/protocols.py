"""The protocols by their names in the YAML: each takes the images of the query and of the gallery folder."""

from pathlib import Path

import numpy as np

from src.metrics._images import Images
from src.metrics.cuhk03_metrics import cuhk03_metrics
from src.metrics.llcm_metrics import llcm_metrics
from src.metrics.regdb_metrics import regdb_metrics
from src.metrics.retrieval import RetrievalMetrics, retrieval_metrics
from src.metrics.sysu_mm01_draws import sysu_mm01_draws
from src.metrics.sysu_mm01_metrics import sysu_mm01_metrics
from src.metrics.trial_metrics import TrialMetrics
from src.metrics.vehicleid_metrics import vehicleid_metrics


def market1501(query: Images, gallery: Images, distance: str, max_rank: int) -> RetrievalMetrics:
    """Market-1501: gallery images of the query's identity from the query's camera, and junk, are taken out."""
    return _one_gallery(query, gallery, distance, max_rank, "market1501")


def no_camera(query: Images, gallery: Images, distance: str, max_rank: int) -> RetrievalMetrics:
    """DeepSportradar: every gallery image counts, whatever its camera."""
    return _one_gallery(query, gallery, distance, max_rank, "no_camera")


def msmt17(query: Images, gallery: Images, distance: str, max_rank: int) -> RetrievalMetrics:
    """MSMT17: as Market-1501."""
    return _one_gallery(query, gallery, distance, max_rank, "msmt17")


def veri776(query: Images, gallery: Images, distance: str, max_rank: int) -> RetrievalMetrics:
    """VeRi-776, image to image: as Market-1501."""
    return _one_gallery(query, gallery, distance, max_rank, "veri776")


def cuhk03(query: Images, gallery: Images, distance: str, max_rank: int, trials: int = 10) -> TrialMetrics:
    """CUHK03, classic: one drawn gallery image of each identity, repeated."""
    return cuhk03_metrics(
        query.features, gallery.features, query.ids, gallery.ids, query.cameras, gallery.cameras, gallery.names,
        distance, max_rank, trials,
    )  # fmt: skip


def vehicleid(query: Images, gallery: Images, distance: str, max_rank: int, trials: int = 10) -> TrialMetrics:
    """VehicleID: one drawn image of each identity is the gallery, all others of both folders are queries."""
    images = query + gallery
    return vehicleid_metrics(images.features, images.ids, images.names, distance, max_rank, trials)


def sysu_mm01(
    query: Images,
    gallery: Images,
    distance: str,
    max_rank: int,
    mode: str = "all",
    shots: int = 1,
    draws: str | None = None,
    trials: int = 10,
) -> TrialMetrics:
    """SYSU-MM01: infrared queries search drawn visible galleries; `draws` is the authors' rand_perm_cam.mat, if any."""
    return sysu_mm01_metrics(
        query.features, gallery.features, query.ids, gallery.ids, query.cameras, gallery.cameras,
        _frames(gallery), mode, shots, None if draws is None else sysu_mm01_draws(Path(draws)),
        distance, max_rank, trials,
    )  # fmt: skip


def regdb(
    query: Images, gallery: Images, distance: str, max_rank: int, direction: str = "visible_to_thermal"
) -> RetrievalMetrics:
    """RegDB: all test images of one modality search those of the other, whichever folder they are in."""
    visible, thermal = _by_modality(query + gallery)
    return regdb_metrics(
        visible.features, thermal.features, visible.ids, thermal.ids, direction, distance, max_rank
    )


def llcm(
    query: Images,
    gallery: Images,
    distance: str,
    max_rank: int,
    direction: str = "infrared_to_visible",
    variant: str = "paper",
    trials: int = 10,
) -> TrialMetrics:
    """LLCM: one modality searches one drawn image of each identity and camera of the other."""
    visible, infrared = _by_modality(query + gallery)
    return llcm_metrics(
        visible.features, infrared.features, visible.ids, infrared.ids, visible.cameras, infrared.cameras,
        visible.names, infrared.names, direction, variant, distance, max_rank, trials,
    )  # fmt: skip


def _one_gallery(
    query: Images, gallery: Images, distance: str, max_rank: int, protocol: str
) -> RetrievalMetrics:
    return retrieval_metrics(
        query.features, gallery.features, query.ids, gallery.ids, query.places, gallery.places,
        protocol, distance, max_rank,
    )  # fmt: skip


def _by_modality(images: Images) -> tuple[Images, Images]:
    """Visible and thermal images.

    Raises:
        ValueError: one of the modalities is missing.
    """
    visible, thermal = (images[images.modalities == name] for name in ("visible", "thermal"))
    if not len(visible.ids) or not len(thermal.ids):
        raise ValueError(
            f"a cross-modal protocol needs visible and thermal images, got {len(visible.ids)} and {len(thermal.ids)}: "
            "dataset.dataset_name names a layout without modalities"
        )
    return visible, thermal


def _frames(images: Images) -> np.ndarray:
    """The number of each image within its identity and camera, which is its file's name in SYSU-MM01."""
    if not all(name.isdecimal() for name in images.names):
        odd = next(name for name in images.names if not name.isdecimal())
        raise ValueError(
            f"protocol sysu_mm01 needs files named by their number, such as 0001.jpg, got '{odd}'"
        )
    return images.names.astype(int)
