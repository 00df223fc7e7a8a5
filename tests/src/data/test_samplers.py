from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import ConfigError
from src.data.samplers import pk_batches, steps_per_epoch

CASES = {
    "counts": st.lists(st.integers(1, 30), min_size=2, max_size=14),
    "k": st.integers(1, 6),
    "seed": st.integers(0, 10**6),
    "epoch": st.integers(0, 1000),
    "data": st.data(),
}


def draw_case(counts, k, seed, epoch, data):
    p = data.draw(st.integers(1, len(counts)))
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 3 + 1, counts))
    return labels, p, pk_batches(labels, p, k, seed, epoch)


@settings(max_examples=150, deadline=None)
@given(**CASES)
def test_every_batch_has_exactly_p_identities_with_k_images(counts, k, seed, epoch, data):
    labels, p, batches = draw_case(counts, k, seed, epoch, data)
    assert batches.shape == (steps_per_epoch(len(labels), p, k), p * k)
    for batch in batches:
        groups = labels[batch].reshape(p, k)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == p


@settings(max_examples=150, deadline=None)
@given(**CASES)
def test_images_repeat_only_when_their_identity_is_used_up(counts, k, seed, epoch, data):
    labels, p, batches = draw_case(counts, k, seed, epoch, data)
    drawn = Counter(batches.ravel().tolist())
    for label in np.unique(labels):
        times = [drawn[i] for i in np.flatnonzero(labels == label)]
        assert max(times) - min(times) <= 1
        for group in batches.reshape(-1, k):
            if labels[group[0]] == label:
                own = Counter(group.tolist())
                assert max(own.values()) <= -(-k // len(times))


@settings(max_examples=150, deadline=None)
@given(**CASES)
def test_identities_are_drawn_in_proportion_to_their_images(counts, k, seed, epoch, data):
    labels, p, batches = draw_case(counts, k, seed, epoch, data)
    steps = len(batches)
    draws = Counter(labels[batches[:, ::k]].ravel().tolist())
    names, sizes = np.unique(labels, return_counts=True)
    # The share per image, found by bisection so that the capped shares fill all places.
    low, high = 0.0, float(steps)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(sizes * middle, steps).sum() < steps * p else (low, middle)
    for name, share in zip(names, np.minimum(sizes * high, steps), strict=True):
        assert abs(draws[name] - share) < 1 + 1e-6


def test_equal_identities_come_about_n_over_k_times():
    labels = np.repeat(np.arange(40), 12)
    batches = pk_batches(labels, p=8, k=4, seed=0, epoch=0)
    assert batches.shape == (15, 32)
    assert set(Counter(labels[batches[:, ::4]].ravel().tolist()).values()) == {3}
    assert sorted(batches.ravel().tolist()) == list(range(480))


def test_identities_with_few_images_come_over_the_epochs():
    labels = np.array([0] * 40 + [1] * 40 + [2])
    seen = sum(bool((labels[pk_batches(labels, 2, 4, 3, epoch)] == 2).any()) for epoch in range(400))
    expected = 400 * 11 * 2 / 81  # its share of the draws, at most one an epoch
    assert expected * 0.75 < seen < expected * 1.25


def test_company_changes():
    """Two identities should not keep meeting: over an epoch, a pair meets about as often as chance says."""
    labels = np.repeat(np.arange(60), 20)
    batches = labels[pk_batches(labels, 6, 4, 0, 0)][:, ::4]
    meetings = Counter((a, b) for batch in batches.tolist() for a in batch for b in batch if a < b)
    assert max(meetings.values()) <= 4


def test_the_draw_depends_on_seed_and_epoch_only():
    labels = np.repeat(np.arange(10), 7)
    one = pk_batches(labels, 4, 2, seed=1, epoch=5)
    np.random.default_rng().random(100)
    np.testing.assert_array_equal(one, pk_batches(labels, 4, 2, seed=1, epoch=5))
    assert not np.array_equal(one, pk_batches(labels, 4, 2, seed=1, epoch=6))
    assert not np.array_equal(one, pk_batches(labels, 4, 2, seed=2, epoch=5))


@pytest.mark.parametrize(("images", "steps"), [(1, 1), (64, 1), (65, 2), (640, 10)])
def test_steps_per_epoch(images, steps):
    assert steps_per_epoch(images, p=16, k=4) == steps


def test_too_few_identities_are_named():
    with pytest.raises(ConfigError, match="P = 16 identities cannot be drawn from 3 identities: set P to 3"):
        pk_batches(np.array([0, 0, 1, 2]), 16, 4, 0, 0)
