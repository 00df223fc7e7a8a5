"""What each evaluation protocol takes out of the gallery, and how it counts: one entry per protocol."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Protocol:
    """A protocol of retrieval on a given query set and gallery.

    Attributes:
        rule: How it counts, as the end of a sentence.
        needs_cameras: Whether cameras must be known.
        drops_junk: Whether gallery images of identity -1 are taken out for all queries.
        drops_same_camera: Whether gallery images of the query's identity from the query's camera are taken out.
        hidden: Camera of a query to the cameras whose gallery images, of whomever, it does not see.
        identities_ranked: Whether CMC ranks identities, by their closest image, instead of images.
    """

    rule: str
    needs_cameras: bool = False
    drops_junk: bool = False
    drops_same_camera: bool = False
    hidden: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    identities_ranked: bool = False


def _across_cameras(rule: str) -> Protocol:
    return Protocol(rule, needs_cameras=True, drops_junk=True, drops_same_camera=True)


_SAME_CAMERA = (
    "gallery images of the query's identity from the query's camera or room, and junk, are taken out"
)

PROTOCOLS: dict[str, Protocol] = {
    "market1501": _across_cameras(_SAME_CAMERA),
    "no_camera": Protocol("every gallery image counts, whatever its camera"),
    "msmt17": _across_cameras(f"{_SAME_CAMERA}, as for Market-1501"),
    "veri776": _across_cameras(f"{_SAME_CAMERA}; image to image, not image to track"),
    "vehicleid": Protocol("the gallery holds one image of each identity, and every one counts"),
    "sysu_mm01": Protocol(
        "queries of camera 3 do not see camera 2, which shares its room; CMC ranks identities by their closest "
        "image, mAP and mINP rank images",
        needs_cameras=True,
        hidden={3: (2,)},
        identities_ranked=True,
    ),
    "regdb": Protocol("every gallery image counts; query and gallery are of different modalities"),
    "llcm": Protocol(
        "gallery images of the query's identity from the query's camera are taken out; CMC ranks identities by "
        "their closest image, mAP and mINP rank images",
        needs_cameras=True,
        drops_same_camera=True,
        identities_ranked=True,
    ),
}
"""`cuhk03`, whose gallery differs from query to query, has a function of its own: `cuhk03_metrics`."""
