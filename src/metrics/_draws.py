"""Draw a gallery: the same images whatever their order in the arrays, and whatever the model."""

import random
from collections.abc import Sequence

import numpy as np


def by_identity_and_camera(
    ids: np.ndarray, cameras: np.ndarray, names: np.ndarray
) -> dict[tuple[int, int], np.ndarray]:
    """Return (identity, camera) -> indices in the order of their names; the keys ascend."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index in np.lexsort((names, cameras, ids)).tolist():
        groups.setdefault((ids[index].item(), cameras[index].item()), []).append(index)
    return {key: np.array(indices) for key, indices in groups.items()}


def choose_from_each(groups: Sequence[np.ndarray], shots: int, seed: int) -> np.ndarray:
    """Return up to `shots` indices of each group.

    One shot repeats what the published code of SYSU-MM01 and LLCM draws: `random.seed(trial)`, then one
    `random.choice` per group in turn.
    """
    generator = random.Random(seed)
    chosen: list[int] = []
    for group in groups:
        members = group.tolist()
        if shots == 1:
            chosen.append(generator.choice(members))
        else:
            chosen += generator.sample(members, min(shots, len(members)))
    return np.array(chosen, dtype=np.int64)


def checked_names(n: int, names: np.ndarray | Sequence[int | str] | None, what: str) -> np.ndarray:
    """Return names as an array (n,); the positions where there are none."""
    values = np.arange(n) if names is None else np.asarray(names)
    if values.shape != (n,):
        raise ValueError(f"{what} must have shape ({n},), got {values.shape}")
    return values
