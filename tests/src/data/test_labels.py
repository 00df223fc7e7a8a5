from pathlib import Path

import numpy as np
import pytest

from common.config import ConfigError
from src.data.labels import identity_labels, people
from src.data.sample import Sample


def samples_of(*identities):
    return [Sample(Path(f"{i}.jpg"), identity, 1) for i, identity in enumerate(identities)]


def test_labels_are_contiguous_in_sorted_order():
    labels, names = identity_labels(samples_of(30, 4, 30, 7))
    np.testing.assert_array_equal(labels, [2, 0, 2, 1])
    assert names == (4, 7, 30)
    assert labels.dtype == np.int32


def test_text_identities_are_sorted_as_text():
    assert identity_labels(samples_of("10", "9", "ada"))[1] == ("10", "9", "ada")


def test_mixed_identities_are_refused():
    with pytest.raises(ConfigError, match="all numbers or all text"):
        identity_labels(samples_of(3, "ada"))


def test_junk_and_distractors_are_not_people():
    assert [s.identity for s in people(samples_of(-1, 0, 1, "0", "-1"))] == [1, "0", "-1"]
