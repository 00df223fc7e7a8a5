from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import ConfigError
from src.data.sample import Sample
from src.data.splits import overlap, split_by_identity, split_by_image


def people_with(*counts, folder="x"):
    return [
        Sample(Path(folder) / f"{identity}_{i}.jpg", identity, 1)
        for identity, n in enumerate(counts, start=1)
        for i in range(n)
    ]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=3, max_size=12).filter(lambda counts: max(counts) > 5),
    fraction=st.floats(0.1, 0.6),
    seed=st.integers(0, 1000),
)
def test_split_by_image_divides_each_identity(counts, fraction, seed):
    samples = people_with(*counts)
    try:
        training, validation = split_by_image(samples, fraction, seed)
    except ConfigError:
        assert fraction * len(samples) < 1 + 1e-9
        return
    assert sorted(training + validation, key=samples.index) == samples
    assert [s for s in samples if s in set(training)] == training
    kept, held_out = (Counter(s.identity for s in part) for part in (training, validation))
    assert set(kept) == set(range(1, len(counts) + 1))
    eligible = len(samples) - len(counts)
    rate = min(1.0, fraction * len(samples) / eligible)
    for identity, n in enumerate(counts, start=1):
        assert abs(held_out[identity] - (n - 1) * rate) < 1 + 1e-6
    assert abs(len(validation) - rate * eligible) < 1 + 1e-6


def test_split_depends_on_the_seed_only():
    samples = people_with(10, 10, 10)
    assert split_by_image(samples, 0.3, 5) == split_by_image(samples, 0.3, 5)
    assert split_by_image(samples, 0.3, 5) != split_by_image(samples, 0.3, 6)
    assert split_by_identity(samples, 0.4, 5) == split_by_identity(samples, 0.4, 5)


def test_split_by_identity_holds_out_whole_people():
    training, validation = split_by_identity(people_with(*[4] * 10), 0.3, 0)
    known, unknown = ({s.identity for s in part} for part in (training, validation))
    assert len(known) == 7 and len(unknown) == 3 and not known & unknown
    assert len(validation) == 12


@pytest.mark.parametrize("split", [split_by_image, split_by_identity])
@pytest.mark.parametrize("fraction", [0, 1, -0.2, 1.5])
def test_share_outside_its_range_is_refused(split, fraction):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split(people_with(4, 4), fraction, 0)


def test_a_set_that_cannot_be_divided_is_refused():
    with pytest.raises(ConfigError, match="1 images cannot be divided"):
        split_by_identity(people_with(1), 0.5, 0)
    with pytest.raises(ConfigError, match="3 images cannot be divided"):
        split_by_image(people_with(1, 1, 1), 0.5, 0)


def test_overlap_tells_people():
    first = [*people_with(1, 1, 1, folder="a"), Sample(Path("a/-1.jpg"), -1, 1)]
    second = [Sample(Path("b/1.jpg"), 3, 1), Sample(Path("b/2.jpg"), 9, 1), Sample(Path("b/-1.jpg"), -1, 2)]
    assert overlap(first, second) == (3,)
    assert overlap(first, people_with(folder="b")) == ()
