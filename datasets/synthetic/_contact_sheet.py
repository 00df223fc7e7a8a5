from pathlib import Path

import cv2
import numpy as np

from common.artifacts import whole_file
from common.images import encoded
from datasets.synthetic._generate import render_shot, shots
from datasets.synthetic.layouts import Shot
from datasets.synthetic.presets import PRESETS


def contact_sheet(preset: str, path: Path, seed: int = 0, identities: int = 6, views: int = 12) -> Path:
    """Write a PNG of some test identities of a preset, one row each, visible before thermal.

    Args:
        preset: A name in `PRESETS`.
        path: The PNG to write.
        seed: Another seed gives other people.
        identities: Number of rows.
        views: Number of images in a row, spread over the cameras.

    Returns:
        `path`.
    """
    settings = PRESETS[preset]
    by_identity: dict[int, list[Shot]] = {}
    for shot in shots(settings):
        if shot.split == "test":
            by_identity.setdefault(shot.identity, []).append(shot)
    rows = []
    for own in list(by_identity.values())[:identities]:
        chosen = [own[round(index)] for index in np.linspace(0, len(own) - 1, views)]
        chosen.sort(key=lambda shot: settings.cameras[shot.camera - 1][0] == "thermal")
        rows.append(np.hstack([_thumbnail(render_shot(settings, seed, shot)) for shot in chosen]))
    sheet = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
    with whole_file(path) as unfinished:
        unfinished.write_bytes(encoded(sheet, "the sheet", ".png", (cv2.IMWRITE_PNG_COMPRESSION, 9)))
    return path


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """Return an image as 128 x 64 RGB."""
    image = np.broadcast_to(image, (*image.shape[:2], 3))
    return cv2.resize(image, (64, 128), interpolation=cv2.INTER_AREA)
