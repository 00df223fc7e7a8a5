from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import plotting
from common.artifacts import write_csv
from src.data.sample import Sample

_IDENTITIES = 16
_IMAGES = 10


def similarity_matrix(
    path: Path, embeddings: np.ndarray, samples: Sequence[Sample], title: str, seed: int
) -> tuple[Path, str] | None:
    """Draw the cosine similarity of some images of some identities, sorted by identity and camera.

    Args:
        path: The PNG; the matrix is written to a CSV of the same name.
        embeddings: (N, D) of length 1.
        samples: N samples.
        title: Title of the figure.
        seed: Of the choice: at most 16 identities with several images, at most 10 images of each.

    Returns:
        (PNG, caption); None where no identity has several images.
    """
    images: dict[int | str, list[int]] = {}
    for number, sample in enumerate(samples):
        if sample.is_person:
            images.setdefault(sample.identity, []).append(number)
    several = [identity for identity, numbers in images.items() if len(numbers) > 1]
    if not several:
        return None
    random = np.random.default_rng(seed)
    drawn = sorted(random.permutation(len(several))[:_IDENTITIES])
    groups = {several[n]: random.permutation(images[several[n]])[:_IMAGES] for n in drawn}
    rows = [n for numbers in groups.values() for n in sorted(numbers, key=lambda n: samples[n].camera)]
    matrix = embeddings[rows] @ embeddings[rows].T
    write_csv(
        path.with_suffix(".csv"),
        ("identity", "camera", "file", *range(len(rows))),
        (
            (samples[n].identity, samples[n].camera, samples[n].path, *(f"{value:.4f}" for value in values))
            for n, values in zip(rows, matrix, strict=True)
        ),
    )
    sizes = {str(identity): len(numbers) for identity, numbers in groups.items()}
    return plotting.heat_map(path, matrix, sizes, "cosine similarity", title), (
        f"Similarity of {len(rows)} test images of {len(groups)} identities (seed {seed}), sorted by identity, within "
        "it by camera. A good model shows bright squares on the diagonal and nothing else."
    )
