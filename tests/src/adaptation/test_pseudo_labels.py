"""Clusters of each modality, and what the other modality has for them."""

from functools import partial

import numpy as np
import pytest

from src.adaptation.centred import centred
from src.adaptation.clustering import agglomerative, dbscan
from src.adaptation.constraints import pool
from src.adaptation.guards import NothingToLearnError
from src.adaptation.jaccard import jaccard_distance
from src.adaptation.pseudo_labels import found_labels, given_labels
from src.adaptation.statistics import cluster_statistics
from tests.numeric import dense

PEOPLE, WALKS, FRAMES = 10, 6, 3
CLUSTER = partial(dbscan, min_samples=2)
NOBODY = np.empty((0, 2), int)


def _places_of(walks):
    return walks % WALKS // (WALKS // 2)


@pytest.fixture
def images():
    """Features, modality, person and walk of images; sensors side by side see the same walks, at one of two places."""
    random = np.random.default_rng(0)
    looks, shift = random.normal(size=(2, PEOPLE, 24)), 2 * random.normal(size=24)
    ground = 1.5 * random.normal(size=(2, 2, 24))
    rows = []
    for number, modality in enumerate(("visible", "thermal")):
        for person in range(PEOPLE):
            for walk in range(WALKS):
                pose = 0.5 * random.normal(size=24) + ground[number, _places_of(walk)]
                for _ in range(FRAMES):
                    feature = looks[number, person] + pose + number * shift + 0.2 * random.normal(size=24)
                    rows.append((feature, modality, person, WALKS * person + walk))
    features, modalities, people, walks = zip(*rows, strict=True)
    return np.array(features), np.array(modalities), np.array(people), np.array(walks)


def _found(images, groups, apart=NOBODY, cluster=CLUSTER, **changes):
    features, modalities, _, walks = images
    settings = {"method": "dbscan", "k1": 8, "k2": 3, "cameras": _places_of(walks), **changes}
    return found_labels(features, modalities, groups, apart, cluster, **settings)


def test_clusters_are_people_and_each_image_knows_the_cluster_of_its_person_in_the_other_modality(images):
    _, modalities, people, walks = images
    labels = _found(images, walks)
    for name in ("visible", "thermal"):
        own = modalities == name
        cells = set(zip(labels.own[own].tolist(), people[own].tolist(), strict=True))
        assert len(cells) == PEOPLE == labels.own[own].max() + 1
    of_person = {p: labels.own[(people == p) & (modalities == "thermal")][0] for p in range(PEOPLE)}
    visible = modalities == "visible"
    assert labels.across[visible].tolist() == [of_person[p] for p in people[visible]]


@pytest.mark.parametrize("cluster", [CLUSTER, partial(agglomerative, min_samples=2)])
def test_a_person_is_in_one_cluster_at_two_places_only_where_cameras_are_centred(images, cluster):
    _, modalities, people, walks = images
    own = modalities == "visible"
    joined = {
        name: cluster_statistics(labels.own[own], None, people[own], _places_of(walks[own])).joined
        for name, labels in {
            "centred": _found(images, walks, cluster=cluster),
            "as they are": _found(images, walks, cluster=cluster, cameras=None),
        }.items()
    }
    assert joined == {"centred": 1.0, "as they are": 0.0}


def test_an_image_follows_its_twin_and_only_without_one_the_match(images):
    features, modalities, people, walks = images
    thermal = modalities == "thermal"
    groups = np.where(thermal & (walks % 2 == 1), 1000 + walks, walks)  # every second walk has no twin
    labels = _found(images, groups)
    alone = thermal & (walks % 2 == 1)
    of_person = {p: labels.own[(people == p) & ~thermal][0] for p in range(PEOPLE)}
    assert labels.across[alone].tolist() == [of_person[p] for p in people[alone]]
    # A twin counts more than what a cluster is matched with: the thermal walk 1 of person 0 goes with person 1.
    swapped = np.where(thermal & (walks == 0), WALKS, np.where(thermal & (walks == WALKS), 0, walks))
    labels = _found(images, swapped)
    moved = labels.across[thermal & (walks == 0)]
    assert set(moved.tolist()) == {labels.own[~thermal & (walks == WALKS)][0]}


def test_clusters_that_were_found_as_one_are_matched_however_they_look(images):
    features, modalities, people, walks = images
    thermal = modalities == "thermal"
    others = features.copy()  # thermal images look like the person before, with one shared walk in six
    others[thermal] = np.roll(features[thermal], WALKS * FRAMES, axis=0)
    alone = thermal & (walks % WALKS > 0)
    labels = _found((others, *images[1:]), np.where(alone, 1000 + walks, walks))
    of_person = {p: labels.own[(people == p) & ~thermal][0] for p in range(PEOPLE)}
    assert len(set(of_person.values())) == PEOPLE
    assert labels.across[alone].tolist() == [of_person[p] for p in people[alone]]


def test_tracks_alone_are_clusters_that_only_their_twins_know(images):
    _, modalities, _, walks = images
    groups = np.where((modalities == "thermal") & (walks == 3), 999, walks)
    labels = _found(images, groups, cluster=None)
    visible = modalities == "visible"
    assert labels.own[visible].tolist() == walks[visible].tolist()
    assert set(labels.across[visible & (walks == 3)].tolist()) == {-1}
    assert (labels.across[visible & (walks != 3)] >= 0).all()


def test_two_sensors_together_tell_people_apart_whom_either_confuses(images):
    features, modalities, people, walks = images
    looks = people.copy()
    looks[(modalities == "visible") & (people == 1)] = 0
    looks[(modalities == "thermal") & (people == 3)] = 2
    means = np.random.default_rng(3).normal(size=(PEOPLE, 24))
    pose = features.copy()
    for person in range(PEOPLE):
        for name in ("visible", "thermal"):
            own = (people == person) & (modalities == name)
            pose[own] -= features[own].mean(axis=0)
    alike = (means[looks] + pose, *images[1:])
    cluster = partial(dbscan, eps=0.45, min_samples=2)
    labels = _found(alike, walks, cluster=cluster)
    alone = _found(alike, np.where(modalities == "thermal", 1000 + walks, walks), cluster=cluster)
    for name, (first, second) in {"visible": (0, 1), "thermal": (2, 3)}.items():
        own = modalities == name
        sets = [
            [set(found.own[own & (people == person)].tolist()) for person in (first, second)]
            for found in (labels, alone)
        ]
        assert not sets[0][0] & sets[0][1], "together they are two"
        assert sets[1][0] == sets[1][1], "alone they are one"
    visible = modalities == "visible"
    assert (labels.across[visible] == labels.own[~visible]).all(), "twins are in corresponding clusters"


def _distances_seen(images, groups):
    """What is clustered, dense (G, G), and the mean feature of each group in each modality (G, D)."""
    features, modalities, _, walks = images
    seen = []

    def cluster(distances):
        seen.append(dense(distances))
        return CLUSTER(distances)

    _found(images, groups, cluster=cluster)
    means = {}
    for name in ("visible", "thermal"):
        own = modalities == name
        looks = centred(features[own], _places_of(walks)[own], groups[own], prior=8)
        means[name] = pool(looks, groups[own])
    return seen[0], means


def _dense_jaccard(features):
    return dense(jaccard_distance(features, k1=8, k2=3))


def test_walks_that_both_sensors_see_are_compared_by_both_side_by_side(images):
    _, _, _, walks = images
    found, means = _distances_seen(images, walks)
    looks = np.concatenate([of_points for _, of_points in means.values()], axis=1)
    np.testing.assert_allclose(found, _dense_jaccard(looks), atol=1e-6)


@pytest.mark.parametrize("step, are_enough", [(3, True), (2, False)])
def test_other_walks_are_compared_by_the_sensor_that_sees_them(images, step, are_enough):
    _, modalities, _, walks = images
    alone = (modalities == "thermal") & ((walks % step == 0) == are_enough)
    groups = np.where(alone, 1000 + walks, walks)
    found, means = _distances_seen(images, groups)
    points = np.unique(groups)
    both = np.flatnonzero(np.isin(points, np.intersect1d(*(present for present, _ in means.values()))))
    assert (2 * len(both) >= len(points)) == are_enough
    sums, known = np.zeros((2, len(points), len(points)))
    for present, of_points in means.values():
        places = np.ix_(*2 * [np.searchsorted(points, present)])
        sums[places] += _dense_jaccard(of_points)
        known[places] += 1
    expected = np.where(known > 0, sums / np.maximum(known, 1), 1)
    if are_enough:
        looks = [m[np.searchsorted(present, points[both])] for present, m in means.values()]
        expected[np.ix_(both, both)] = _dense_jaccard(np.concatenate(looks, axis=1))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (known == 0).any()


def test_neighbours_by_both_sensors_are_right_where_those_by_either_are_wrong():
    # Sixteen people are the pairs of four looks to each sensor: to either, four people are one.
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(16), 6)
    features, modalities = [], []
    for name, looks in (("visible", people // 4), ("thermal", people % 4)):
        features.append(random.normal(size=(4, 16))[looks] + 0.3 * random.normal(size=(96, 16)))
        modalities += [name] * 96
    walks = np.tile(np.arange(96), 2)
    arguments = (NOBODY, partial(agglomerative, min_samples=2), "agglomerative", 8, 2)
    labels = found_labels(np.concatenate(features), np.array(modalities), walks, *arguments)
    assert len(set(zip(labels.own[:96].tolist(), people.tolist(), strict=True))) == 16 == labels.own.max() + 1


def test_one_common_walk_of_each_person_joins_nobody_else():
    # A person's neighbours among the common walks are all somebody else.
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(30), 6)
    looks = random.normal(size=(2, 30, 24))
    features = np.concatenate([own[people] + 0.4 * random.normal(size=(180, 24)) for own in looks])
    modalities = np.repeat(["visible", "thermal"], 180)
    walks = np.arange(180)
    groups = np.concatenate([walks, np.where(walks % 6 == 0, walks, 1000 + walks)])
    labels = found_labels(features, modalities, groups, NOBODY, CLUSTER, "dbscan", 8, 2)
    for name in ("visible", "thermal"):
        own = labels.own[modalities == name]
        assert len(set(zip(own.tolist(), people.tolist(), strict=True))) == 30 == own.max() + 1


def test_clusters_count_tracks_not_their_images(images):
    walks = images[3]
    labels = _found(images, walks, cluster=partial(agglomerative, min_samples=WALKS))
    assert labels.own.max() + 1 == PEOPLE
    with pytest.raises(NothingToLearnError, match="for noise: .* lower the number of points"):
        _found(images, walks, cluster=partial(agglomerative, min_samples=WALKS + 1))


def test_clusters_of_two_people_who_were_seen_together_are_not_matched(images):
    _, modalities, people, walks = images
    visible = modalities == "visible"
    groups = np.where(visible, walks, 1000 + walks)  # no twins: clusters are matched by looks
    before = _found(images, groups)
    [matched] = set(before.across[visible & (people == 0)].tolist())
    other = groups[~visible & (before.own == matched)][0]
    after = _found(images, groups, np.array([[groups[visible & (people == 0)][0], other]]))
    assert after.own.tolist() == before.own.tolist()
    assert matched not in after.across[visible & (people == 0)]
    assert (after.across >= 0).all()


def test_one_modality_has_nothing_across(images):
    features, modalities, people, walks = images
    own = modalities == "visible"
    labels = _found((features[own], modalities[own], None, walks[own]), walks[own])
    assert set(labels.across.tolist()) == {-1} and labels.own.max() + 1 == PEOPLE


def test_people_who_were_seen_together_are_in_two_clusters(images):
    features, modalities, people, walks = images
    features = features - features[people == 1].mean(axis=0) * (people == 1)[:, None]
    features = (
        features + features[people == 0].mean(axis=0) * (people == 1)[:, None]
    )  # person 1 looks as person 0
    apart = np.array([(a, b) for a in range(WALKS) for b in range(WALKS, 2 * WALKS)])
    labels = _found((features, *images[1:]), walks, apart)
    visible = modalities == "visible"
    first, second = (set(labels.own[visible & (people == p)].tolist()) for p in (0, 1))
    assert not first & second


def test_what_cannot_be_learned_from_is_said(images):
    _, modalities, _, walks = images
    with pytest.raises(NothingToLearnError, match="thermal images of the target are 60 tracks .* needs 70"):
        _found(images, walks, k1=70)
    with pytest.raises(NothingToLearnError, match="dbscan took all 180 thermal images for noise"):
        _found(images, walks, cluster=partial(dbscan, eps=1e-6, min_samples=99))
    with pytest.raises(NothingToLearnError, match="cannot cluster 60 points: expected 0 < eps"):
        _found(images, walks, cluster=partial(dbscan, eps=7.0))


def test_one_track_of_each_sensor_leaves_nobody_to_tell_it_from():
    features = np.random.default_rng(0).normal(size=(8, 4))
    modalities = np.repeat(["visible", "thermal"], 4)
    with pytest.raises(
        NothingToLearnError, match="into one cluster.*: add images of other people, or give cl"
    ):
        found_labels(
            features, modalities, np.zeros(8, int), np.empty((0, 2), int), None, "taking every track"
        )


def test_given_labels_are_one_person_in_both_modalities():
    modalities = np.array(["visible", "thermal", "thermal", "visible", "visible", "thermal"])
    labels = given_labels(["b", "a", None, "a", "c", "d"], modalities)
    assert labels.own.tolist() == [0, 0, -1, 1, 2, 1]
    assert labels.across.tolist() == [-1, 1, -1, 0, -1, -1]
    with pytest.raises(NothingToLearnError, match="into one cluster"):
        given_labels(["a"] * 6, modalities)


def test_a_label_of_one_modality_may_name_that_of_the_other():
    modalities = np.array(["visible", "visible", "visible", "thermal", "thermal", "visible"])
    labels = ["v0", "v1", "both", "t0", "both", None]
    across = ["t0", None, "t0", "gone", None, "t0"]
    found = given_labels(labels, modalities, across)
    assert found.own.tolist() == [0, 1, 2, 1, 0, -1]
    assert found.across.tolist() == [1, -1, 0, -1, 2, 1], "a label of both is one person, whatever is named"
