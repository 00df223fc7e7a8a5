"""Where an image goes in the folder layout of a real data set, and the lists that such a data set brings."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from datasets.synthetic.presets import Modality

_SYSU_CAMERAS = {"visible": (1, 2, 4, 5), "thermal": (3, 6)}
_TRIALS = range(1, 11)


class Shot(NamedTuple):
    """One image to be made. Identity, camera, track and frame number it within the whole data set."""

    split: str
    """`train`, `val` or `test`."""
    role: str
    """`train`, `query` or `gallery`."""
    identity: int
    camera: int
    scene: int
    track: int
    """Walk of this identity; cameras of one scene share it. 0 when every image is a moment of its own."""
    frame: int
    modality: Modality
    sensor: int
    """Number of the camera among those of its modality, from 1."""
    number: int
    """Number of the image among those of its identity and camera, from 1."""
    party: int
    """Those who walk together, from 1: people of one party are in one frame. 0 when nobody walks."""


def market1501(shot: Shot) -> str:
    """Return a path like `bounding_box_train/0002_c1s1_000451_00.jpg`.

    The frame field is 100 x track + frame. Validation identities have `bounding_box_val_query` and
    `bounding_box_val`, which Market-1501 itself does not have.
    """
    folder = {
        ("train", "train"): "bounding_box_train",
        ("val", "query"): "bounding_box_val_query",
        ("val", "gallery"): "bounding_box_val",
        ("test", "query"): "query",
        ("test", "gallery"): "bounding_box_test",
    }[shot.split, shot.role]
    frame = f"{100 * shot.track + shot.frame:06d}"
    return f"{folder}/{shot.identity:04d}_c{shot.camera}s{shot.scene + 1}_{frame}_00.jpg"


def deepsportradar(shot: Shot) -> str:
    """Return a path like `reid_test/query/0002_c1_000451.jpg`; validation goes to `reid_val`."""
    folder = "reid_train" if shot.split == "train" else f"reid_{shot.split}/{shot.role}"
    return f"{folder}/{shot.identity:04d}_c{shot.camera}_{100 * shot.track + shot.frame:06d}.jpg"


def sysu_mm01(shot: Shot) -> str:
    """Return a path like `cam3/0002/0001.jpg`; visible cameras are 1, 2, 4 and 5, the others 3 and 6."""
    return f"cam{_SYSU_CAMERAS[shot.modality][shot.sensor - 1]}/{shot.identity:04d}/{shot.number:04d}.jpg"


def regdb(shot: Shot) -> str:
    """Return a path like `Thermal/2/c3_000451_2.jpg`."""
    frame = f"{100 * shot.track + shot.frame:06d}"
    return f"{shot.modality.capitalize()}/{shot.identity}/c{shot.camera}_{frame}_{shot.identity}.jpg"


def llcm(shot: Shot) -> str:
    """Return a path like `test_nir/cam2/0002/0002_c02_s0_f000451_nir.jpg`; a camera is a place with its sensors."""
    side = "vis" if shot.modality == "visible" else "nir"
    who, camera = f"{shot.identity:04d}", shot.scene + 1
    folder = f"test_{side}/cam{camera}" if shot.split == "test" else side
    return f"{folder}/{who}/{who}_c{camera:02d}_s{shot.track}_f{shot.frame:06d}_{side}.jpg"


def vt_mot(shot: Shot) -> str:
    """Return a path like `query/thermal/syntheticx2_c1_t3_g17_000001.jpg`, the same for both sensors of a moment.

    What follows the identity is the same for all people in the frame. Validation identities have one folder, `val`.
    """
    folder = shot.role if shot.split == "test" else shot.split
    walk = f"c{shot.scene + 1}_t{shot.track}" + (f"_g{shot.party}" if shot.party else "")
    return f"{folder}/{shot.modality}/syntheticx{shot.identity}_{walk}_{shot.frame:06d}.jpg"


LAYOUTS: dict[str, Callable[[Shot], str]] = {
    "market1501": market1501,
    "deepsportradar": deepsportradar,
    "sysu_mm01": sysu_mm01,
    "regdb": regdb,
    "llcm": llcm,
    "vt_mot": vt_mot,
}


def sysu_mm01_lists(shots: Sequence[Shot]) -> dict[str, str]:
    """Return `exp/train_id.txt` and so on: path to text."""
    return {f"exp/{split}_id.txt": _numbers(shots, split) for split in ("train", "val", "test")}


def regdb_lists(shots: Sequence[Shot]) -> dict[str, str]:
    """Return the lists of ten trials, each with its own people to test: path to text."""
    people = sorted({shot.identity for shot in shots})
    tested = len({shot.identity for shot in shots if shot.split == "test"})
    lists = {}
    for trial in _TRIALS:
        order = np.random.default_rng(trial).permutation(people).tolist()
        for half, chosen in (("train", sorted(order[tested:])), ("test", sorted(order[:tested]))):
            label = {identity: number for number, identity in enumerate(chosen)}
            for modality in ("visible", "thermal"):
                inside = [shot for shot in shots if shot.modality == modality and shot.identity in label]
                lines = [f"{regdb(shot)} {label[shot.identity]}\n" for shot in inside]
                lists[f"idx/{half}_{modality}_{trial}.txt"] = "".join(lines)
    return lists


def llcm_lists(shots: Sequence[Shot]) -> dict[str, str]:
    """Return the lists of training images and of test people: path to text. All who are not tested are trained on."""
    trained = [shot for shot in shots if shot.split != "test"]
    label = {identity: number for number, identity in enumerate(sorted({shot.identity for shot in trained}))}
    lists = {"idx/test_id.txt": _numbers(shots, "test")}
    for side, modality in (("vis", "visible"), ("nir", "thermal")):
        lines = [f"{llcm(shot)} {label[shot.identity]}\n" for shot in trained if shot.modality == modality]
        lists[f"idx/train_{side}.txt"] = "".join(lines)
    return lists


def _numbers(shots: Sequence[Shot], split: str) -> str:
    return ",".join(map(str, sorted({shot.identity for shot in shots if shot.split == split}))) + "\n"


LISTS: dict[str, Callable[[Sequence[Shot]], dict[str, str]]] = {
    "sysu_mm01": sysu_mm01_lists,
    "regdb": regdb_lists,
    "llcm": llcm_lists,
}
"""The files beside the images, of layouts that have some."""

CROSS_MODAL = ("sysu_mm01", "regdb", "llcm", "vt_mot")
"""Layouts of two modalities."""

LAYOUT_ONLY = {"sysu_mm01": "SYSU-MM01", "llcm": "LLCM"}
"""Layouts of data sets whose second modality is near-infrared light, which a picture of heat does not resemble."""
