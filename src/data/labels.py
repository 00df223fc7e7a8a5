"""From identities to the numbers that a classifier is trained on."""

from collections.abc import Sequence

import numpy as np

from common.config import ConfigError
from src.data.sample import Sample


def people(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples that can be trained on: all but junk and distractors."""
    return [sample for sample in samples if sample.is_person]


def identity_labels(samples: Sequence[Sample]) -> tuple[np.ndarray, tuple[int | str, ...]]:
    """Number the identities 0, 1, 2 ... in sorted order.

    Returns:
        Labels, int32 (len(samples),), and the identities by label.

    Raises:
        ConfigError: some identities are numbers and others text, so that they come from different layouts.
    """
    identities = {sample.identity for sample in samples}
    if len({type(identity) for identity in identities}) > 1:
        raise ConfigError(
            "identities must be all numbers or all text, got both: the folders have different layouts, "
            "use one `dataset.dataset_name` for all of them"
        )
    names: tuple[int | str, ...] = tuple(sorted(identities))
    label = {name: index for index, name in enumerate(names)}
    return np.array([label[sample.identity] for sample in samples], dtype=np.int32), names
