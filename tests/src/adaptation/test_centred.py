"""Centring takes out what a camera adds, and not what its people look like."""

import numpy as np

from common.vectors import unit
from src.adaptation.centred import centred


def _slow(features, cameras, groups, prior):
    """Visits, that is the means of a group at a camera, then cameras, then all, one after another."""
    features = unit(features)
    visits = {
        (camera, group): features[(cameras == camera) & (groups == group)].mean(axis=0)
        for camera, group in set(zip(cameras.tolist(), groups.tolist(), strict=True))
    }
    of_all = np.mean(list(visits.values()), axis=0)
    result = []
    for feature, camera in zip(features, cameras, strict=True):
        own = [mean for (where, _), mean in visits.items() if where == camera]
        result.append(feature - np.mean([*own, *[of_all] * prior], axis=0))
    return unit(np.array(result))


def test_centring_agrees_with_its_definition():
    random = np.random.default_rng(0)
    features, cameras = random.normal(size=(60, 8)) + 1, random.integers(3, 6, 60)
    groups = random.integers(0, 9, 60)
    found = centred(features, cameras, groups, prior=4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, _slow(features, cameras, groups, 4), atol=1e-5)


def test_one_camera_or_unknown_ones_lose_the_mean_of_all():
    features = unit(np.random.default_rng(0).normal(size=(40, 8)) + 1)
    found = centred(features, np.zeros(40, int), np.arange(40), prior=9)
    np.testing.assert_allclose(found, unit(features - features.mean(axis=0)), atol=1e-5)


def test_a_person_at_a_camera_of_their_own_keeps_their_look():
    random = np.random.default_rng(0)
    people = random.normal(size=(40, 32))
    alone = people[:1] + 0.1 * random.normal(size=(3, 32))
    features = np.concatenate([people, alone])
    cameras = np.array([1] * 40 + [2] * 3)
    groups = np.arange(43)
    kept, lost = (centred(features, cameras, groups, prior) for prior in (12, 0))
    assert (kept[40:] @ kept[0]).min() > 0.8 and (kept[40:] @ kept[1:40].T).max() < 0.7
    assert (lost[40:] @ lost[0]).max() < 0.5, "with the mean of three images, their person goes"


def test_who_stays_long_counts_once():
    random = np.random.default_rng(0)
    people, cameras = random.normal(size=(20, 16)), np.zeros(20, int)
    short = centred(people, cameras, np.arange(20), prior=5)
    times = np.where(np.arange(20) == 7, 500, 1)
    long = centred(people.repeat(times, 0), cameras.repeat(times), np.arange(20).repeat(times), prior=5)
    np.testing.assert_allclose(long[np.cumsum(times) - 1], short, atol=1e-5)
