"""Where an image goes in the folder layout of a real data set."""

from collections.abc import Callable
from typing import NamedTuple


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


LAYOUTS: dict[str, Callable[[Shot], str]] = {"market1501": market1501, "deepsportradar": deepsportradar}
