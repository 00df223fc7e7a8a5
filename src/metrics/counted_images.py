from collections.abc import Sequence

import numpy as np

from src.metrics._protocols import PROTOCOLS
from src.metrics._score import one_of


def counted_images(
    protocol: str,
    identity: int | str,
    camera: int,
    gallery_ids: Sequence[int | str],
    gallery_cameras: Sequence[int],
) -> np.ndarray:
    """Tell which gallery images a protocol counts for one query, for those who show them.

    Args:
        protocol: As for `retrieval_metrics`.
        identity: The query's identity.
        camera: The query's camera.
        gallery_ids: Identities (images,); the integer -1 is junk.
        gallery_cameras: Camera numbers (images,).

    Returns:
        Booleans (images,).
    """
    rules = one_of("protocol", protocol, PROTOCOLS)
    same = np.array([other == identity for other in gallery_ids], bool)
    cameras = np.asarray(gallery_cameras)
    counted = ~np.isin(cameras, rules.hidden.get(camera, ()))
    if rules.drops_junk:
        counted &= np.array([other != -1 for other in gallery_ids], bool)
    if rules.drops_same_camera:
        counted &= ~(same & (cameras == camera))
    return counted
