"""Dividing one folder into training and validation, and telling who is in two folders."""

from collections.abc import Sequence

import numpy as np

from common.config import ConfigError
from src.data.labels import identity_labels
from src.data.sample import Sample


def split_by_image(
    samples: Sequence[Sample], fraction: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Hold out a share of the images of every identity, so that training and validation know the same people.

    Every identity keeps at least one image for training. The order of `samples` is kept in both parts.

    Args:
        samples: What to divide.
        fraction: Share for validation, 0 < fraction < 1.
        seed: The same seed gives the same parts.

    Returns:
        Training and validation samples.

    Raises:
        ConfigError: a part would be empty.
    """
    _check_fraction(fraction)
    labels, _ = identity_labels(samples)
    random = np.random.default_rng([seed, 0])
    order = random.permutation(len(samples))
    order = order[np.argsort(labels[order], kind="stable")]
    is_first = np.diff(labels[order], prepend=-1) != 0
    eligible = order[~is_first]
    # Systematic sampling: each identity gives its share rounded up or down, and the total is right.
    rate = min(1.0, fraction * len(samples) / max(1, len(eligible)))
    marks = np.floor(np.arange(len(eligible) + 1) * rate + random.random())
    held_out = np.zeros(len(samples), dtype=bool)
    held_out[eligible[np.diff(marks) > 0]] = True
    return _parts(samples, held_out, fraction)


def split_by_identity(
    samples: Sequence[Sample], fraction: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Hold out a share of the identities with all their images, so that validation sees unknown people.

    Args and errors as in `split_by_image`.
    """
    _check_fraction(fraction)
    labels, names = identity_labels(samples)
    count = max(1, round(fraction * len(names)))
    chosen = np.random.default_rng([seed, 1]).permutation(len(names))[:count]
    return _parts(samples, np.isin(labels, chosen), fraction)


def overlap(first: Sequence[Sample], second: Sequence[Sample]) -> tuple[int | str, ...]:
    """Return the identities that are in both sets, sorted as text; junk and distractors are not people."""
    identities = {s.identity for s in first if s.is_person} & {s.identity for s in second if s.is_person}
    return tuple(sorted(identities, key=str))


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ConfigError(f"the share for validation must lie between 0 and 1, got {fraction}")


def _parts(
    samples: Sequence[Sample], held_out: np.ndarray, fraction: float
) -> tuple[list[Sample], list[Sample]]:
    if held_out.all() or not held_out.any():
        raise ConfigError(
            f"{len(samples)} images cannot be divided with a share of {fraction} for validation: a part "
            "would be empty. Change `dataset.validation_split`, or give a `dataset.validation_path`"
        )
    training = [sample for sample, out in zip(samples, held_out, strict=True) if not out]
    validation = [sample for sample, out in zip(samples, held_out, strict=True) if out]
    return training, validation
