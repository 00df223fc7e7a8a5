"""The data sets that can be generated, by name."""

from dataclasses import dataclass
from typing import Literal

Modality = Literal["visible", "thermal"]


@dataclass(frozen=True)
class Preset:
    """How many people are seen by which cameras, and how hard it is to tell them apart."""

    cameras: tuple[tuple[Modality, int], ...]
    """Modality and scene of camera 1, 2, ..."""
    train: int
    """Identities of a split; no identity is in two splits."""
    val: int
    test: int
    train_images: int
    """Images of one training identity by one camera."""
    query_images: int
    """Query images of one validation or test identity by one camera."""
    gallery_images: int
    lighting: float = 1.0
    """How far light and white balance move between cameras and images, 0 to 1."""
    occlusion: float = 0.25
    """Share of images in which something stands in front of the person."""
    elevation: tuple[float, float] = (2, 22)
    """From where cameras look down, in degrees."""
    detail: tuple[float, float] = (0.5, 0.9)
    """Pixels resolved per pixel saved."""
    height: int = 256
    width: int = 128
    track: int = 1
    """Frames of one walk; when above 1, cameras of one scene see the same walk at the same time."""
    population: int = 0
    """With one seed, person, place and camera of a number are the same in all presets of a population."""


_SIX_CAMERAS: tuple[tuple[Modality, int], ...] = (
    ("visible", 0),
    ("visible", 1),
    ("thermal", 1),
    ("visible", 2),
    ("visible", 3),
    ("thermal", 4),
)

PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        cameras=(("visible", 0), ("visible", 1), ("thermal", 1)),
        train=8,
        val=4,
        test=6,
        train_images=4,
        query_images=1,
        gallery_images=2,
        height=128,
        width=64,
    ),
    "demo": Preset(
        cameras=(("visible", 0), ("visible", 1), ("visible", 2), ("visible", 3)),
        train=330,
        val=30,
        test=100,
        train_images=3,
        query_images=2,
        gallery_images=3,
        lighting=0.12,
        occlusion=0.08,
        detail=(0.65, 0.95),
    ),
    "bench": Preset(
        cameras=_SIX_CAMERAS, train=300, val=100, test=100, train_images=4, query_images=1, gallery_images=3
    ),
    "drone": Preset(
        cameras=(("visible", 0), ("thermal", 0), ("visible", 1), ("thermal", 1)),
        train=150,
        val=30,
        test=60,
        train_images=12,
        query_images=4,
        gallery_images=8,
        elevation=(35, 60),
        detail=(0.45, 0.75),
        height=128,
        width=64,
        track=4,
        population=1,  # a second domain: nobody whom `bench` trains on may be tested on here
    ),
}
