import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import ConfigError
from src.data.samplers import (
    cluster_batches,
    cross_modal_batches,
    one_modality_identities,
    pk_batches,
    steps_per_epoch,
)

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
    random.seed(7)
    np.random.seed(7)
    np.testing.assert_array_equal(one, pk_batches(labels, 4, 2, seed=1, epoch=5))
    assert not np.array_equal(one, pk_batches(labels, 4, 2, seed=1, epoch=6))
    assert not np.array_equal(one, pk_batches(labels, 4, 2, seed=2, epoch=5))


def test_the_draw_is_the_same_in_every_version():
    """A training that is resumed after an upgrade sees what it would have seen."""
    [first, *_] = pk_batches(np.repeat(range(6), 4), 3, 2, 0, 0)
    assert first.tolist() == [9, 11, 5, 7, 19, 16]


@pytest.mark.parametrize(("images", "steps"), [(1, 1), (64, 1), (65, 2), (640, 10)])
def test_steps_per_epoch(images, steps):
    assert steps_per_epoch(images, p=16, k=4) == steps


def test_too_few_identities_are_named():
    with pytest.raises(ConfigError, match="P = 16 identities cannot be drawn from 3 identities: set P to 3"):
        pk_batches(np.array([0, 0, 1, 2]), 16, 4, 0, 0)


PAIRS = {
    "counts": st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=2, max_size=12).filter(
        lambda counts: sum(bool(v and t) for v, t in counts) >= 2
    ),
    "k": st.integers(1, 5),
    "seed": st.integers(0, 10**6),
    "epoch": st.integers(0, 1000),
    "data": st.data(),
}


def draw_pairs(counts, k, seed, epoch, data):
    """Labels, thermal, P and the batches, for (visible, thermal) counts of each identity."""
    p = data.draw(st.integers(1, sum(bool(v and t) for v, t in counts)))
    who = np.repeat(np.arange(len(counts)) * 5 + 2, [v + t for v, t in counts])
    side = np.concatenate([np.repeat([False, True], pair) for pair in counts])
    order = np.random.default_rng(seed).permutation(len(who))
    labels, thermal = who[order], side[order]
    return labels, thermal, p, cross_modal_batches(labels, thermal, p, k, seed, epoch)


@settings(max_examples=150, deadline=None)
@given(**PAIRS)
def test_every_batch_has_both_modalities_of_every_identity(counts, k, seed, epoch, data):
    labels, thermal, p, batches = draw_pairs(counts, k, seed, epoch, data)
    both = [pair for pair in counts if all(pair)]
    larger = max(sum(v for v, _ in both), sum(t for _, t in both))
    assert batches.shape == (steps_per_epoch(larger, p, k), 2 * p * k)
    for batch in batches:
        visible, infrared = batch[: p * k], batch[p * k :]
        assert not thermal[visible].any()
        assert thermal[infrared].all()
        np.testing.assert_array_equal(labels[visible], labels[infrared])
        groups = labels[visible].reshape(p, k)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == p


@settings(max_examples=150, deadline=None)
@given(**PAIRS)
def test_images_of_a_modality_repeat_only_when_they_are_used_up(counts, k, seed, epoch, data):
    labels, thermal, _p, batches = draw_pairs(counts, k, seed, epoch, data)
    drawn = Counter(batches.ravel().tolist())
    lonely = set(one_modality_identities(labels, thermal).tolist())
    for label in np.unique(labels):
        for side in (False, True):
            times = [drawn[i] for i in np.flatnonzero((labels == label) & (thermal == side))]
            if label in lonely:
                assert not any(times)
            elif times:
                assert max(times) - min(times) <= 1
    for group in batches.reshape(-1, k):
        own = Counter(group.tolist())
        images = int(((labels == labels[group[0]]) & (thermal == thermal[group[0]])).sum())
        assert max(own.values()) <= -(-k // images)


@settings(max_examples=150, deadline=None)
@given(**PAIRS)
def test_people_are_drawn_in_proportion_to_their_images_of_both_modalities(counts, k, seed, epoch, data):
    labels, _thermal, p, batches = draw_pairs(counts, k, seed, epoch, data)
    steps = len(batches)
    draws = Counter(labels[batches[:, : p * k : k]].ravel().tolist())
    sizes = {i * 5 + 2: v + t for i, (v, t) in enumerate(counts) if v and t}
    low, high = 0.0, float(steps)
    for _ in range(200):
        middle = (low + high) / 2
        enough = sum(min(size * middle, steps) for size in sizes.values()) >= steps * p
        low, high = (low, middle) if enough else (middle, high)
    for name, size in sizes.items():
        assert abs(draws[name] - min(size * high, steps)) < 1 + 1e-6


def test_people_of_one_modality_are_named():
    labels = np.array([7, 7, 3, 4, 4, 9])
    thermal = np.array([True, False, True, False, False, True])
    assert one_modality_identities(labels, thermal).tolist() == [3, 4, 9]
    with pytest.raises(ConfigError, match="1 identities have both, 3 have visible or thermal images only"):
        cross_modal_batches(labels, thermal, 2, 4, 0, 0)


def test_the_cross_modal_draw_depends_on_seed_and_epoch_only():
    labels, thermal = np.repeat(np.arange(10), 8), np.tile([False, True], 40)
    one = cross_modal_batches(labels, thermal, 4, 2, seed=1, epoch=5)
    random.seed(7)
    np.random.seed(7)
    np.testing.assert_array_equal(one, cross_modal_batches(labels, thermal, 4, 2, seed=1, epoch=5))
    assert not np.array_equal(one, cross_modal_batches(labels, thermal, 4, 2, seed=1, epoch=6))
    assert not np.array_equal(one, cross_modal_batches(labels, thermal, 4, 2, seed=2, epoch=5))


def test_the_cross_modal_draw_is_the_same_in_every_version():
    labels, thermal = np.repeat(range(6), 4), np.tile([False, True], 12)
    [first, *_] = cross_modal_batches(labels, thermal, 3, 1, 0, 0)
    assert first.tolist() == [22, 14, 4, 21, 15, 7]


def test_an_epoch_of_balanced_people_sees_every_image_once():
    labels, thermal = np.repeat(np.arange(20), 8), np.tile([False, True], 80)
    batches = cross_modal_batches(labels, thermal, p=5, k=4, seed=0, epoch=0)
    assert sorted(batches.ravel().tolist()) == list(range(160))


def draw_clusters(labels, spread_over=(), p=4, k=4, steps=30, seed=0, epoch=0):
    return cluster_batches(labels, spread_over, p, k, steps, seed, epoch).reshape(steps, p, k)


@settings(max_examples=100, deadline=None)
@given(counts=CASES["counts"], k=CASES["k"], seed=CASES["seed"], steps=st.integers(1, 20), data=st.data())
def test_clusters_come_equally_often_whatever_their_size(counts, k, seed, steps, data):
    p = data.draw(st.integers(1, len(counts)))
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 3 + 1, counts))
    batches = draw_clusters(labels, (), p, k, steps, seed)
    assert batches.dtype == np.int32
    drawn = labels[batches]
    assert (drawn == drawn[:, :, :1]).all()
    assert all(len(set(batch)) == p for batch in drawn[:, :, 0].tolist())
    times = [np.count_nonzero(drawn[:, :, 0] == label) for label in np.unique(labels)]
    assert max(times) - min(times) <= 1
    images = Counter(batches.ravel().tolist())
    for label in np.unique(labels):
        own = [images[i] for i in np.flatnonzero(labels == label)]
        assert max(own) - min(own) <= 1, "no image comes again before all of its cluster have"


def test_the_images_of_a_cluster_are_of_several_tracks_and_cameras():
    """Six tracks of four images of each cluster, three by each camera."""
    labels = np.repeat(np.arange(8), 24)
    tracks, cameras = np.repeat(np.arange(48), 4), np.tile(np.repeat([1, 2], 12), 8)
    batches = draw_clusters(labels, (tracks, cameras))
    groups, plain = batches.reshape(-1, 4), draw_clusters(labels).reshape(-1, 4)
    assert all(sorted(cameras[group]) == [1, 1, 2, 2] for group in groups)
    assert any(len(set(cameras[group])) == 1 for group in plain)
    of_tracks, at_random = (np.mean([len(set(tracks[group])) for group in some]) for some in (groups, plain))
    assert of_tracks > 3.8 and at_random < 3.6
    # Where one camera has all but a few, those come first and the rest is of that camera.
    uneven = np.where(np.arange(len(labels)) % 24 < 22, 1, 2)
    first = draw_clusters(labels, (uneven,), p=8, steps=1)[0]
    assert all(sorted(uneven[group]) == [1, 1, 2, 2] for group in first)


def test_the_draw_of_clusters_depends_on_seed_and_epoch_only():
    labels = np.repeat(np.arange(10), 7)
    one = draw_clusters(labels, seed=1, epoch=5)
    np.testing.assert_array_equal(one, draw_clusters(labels, seed=1, epoch=5))
    assert not np.array_equal(one, draw_clusters(labels, seed=1, epoch=6))
    assert not np.array_equal(one, draw_clusters(labels, seed=2, epoch=5))
