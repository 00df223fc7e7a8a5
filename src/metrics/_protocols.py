"""Which gallery images count for a query: one entry per evaluation protocol."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Excluded = Callable[[int, int, np.ndarray, np.ndarray], np.ndarray]
"""(identity and camera of a query, identities and cameras of the gallery) -> mask of what does not count."""


@dataclass(frozen=True)
class Protocol:
    """A protocol of retrieval.

    Attributes:
        rule: What is taken out of the gallery, as the end of a sentence.
        needs_cameras: Whether cameras must be known.
        drops_junk: Whether gallery images of identity -1 are taken out for all queries.
        excluded: The mask of what is taken out for one query, or None.
    """

    rule: str
    needs_cameras: bool = False
    drops_junk: bool = False
    excluded: Excluded | None = None


def _same_identity_and_camera(
    identity: int, camera: int, gallery_identities: np.ndarray, gallery_cameras: np.ndarray
) -> np.ndarray:
    return (gallery_identities == identity) & (gallery_cameras == camera)


PROTOCOLS: dict[str, Protocol] = {
    "market1501": Protocol(
        rule="gallery images of the query's identity from the query's camera, and junk, are taken out",
        needs_cameras=True,
        drops_junk=True,
        excluded=_same_identity_and_camera,
    ),
    "no_camera": Protocol(rule="every gallery image counts, whatever its camera"),
}
