from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from src.adaptation.guards import (
    NothingToLearnError,
    check_clusters,
    check_features,
    check_images,
    check_linked,
)
from src.adaptation.statistics import cluster_statistics


def test_what_a_round_found():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, -1, -1])
    identities = np.array(["a", "a", "a", "b", "b", "b", "c", "d", "e", "a"])
    places = np.array([1, 1, 2, 1, 1, 2, 1, 1, 1, 2])
    matches = np.array(["a", "a", "a", "a", "b", "c", None, "d", None, None], dtype=object)
    found = cluster_statistics(labels, np.where(labels == 2, 7, labels), identities, places, matches)
    assert asdict(found) == {
        "images": 10,
        "clusters": 3,
        "noise": pytest.approx(0.2),
        "smallest": 2,
        "median": 2.0,
        "largest": 4,
        "agreement": 1.0,
        "identities": 5,
        "purity": pytest.approx(6 / 8),
        "adjusted_rand": pytest.approx(adjusted_rand_score(identities[:8], labels[:8])),
        "joined": 1.0,  # a and b are at both places, and a cluster has both
        "matched": pytest.approx(5 / 7),
    }


def test_over_split_people_are_pure_and_neither_alike_the_truth_nor_joined():
    people, places = np.repeat(np.arange(20), 6), np.tile([0, 0, 0, 1, 1, 1], 20)
    split = cluster_statistics(2 * people + places, None, people, places)
    assert (split.purity, split.joined, split.clusters, split.identities) == (1.0, 0.0, 40, 20)
    assert split.adjusted_rand < 0.6
    half = cluster_statistics(np.where(people < 10, 2 * people, 2 * people + places), None, people, places)
    assert half.joined == 0.5 and split.adjusted_rand < half.adjusted_rand < 1
    right = cluster_statistics(people, None, people, places)
    assert right.joined == right.adjusted_rand == 1.0
    noise = cluster_statistics(np.full(120, -1), None, people, places)
    assert (noise.joined, noise.purity, noise.adjusted_rand, noise.identities) == (0.0, None, None, 20)
    assert cluster_statistics(people, None, people, np.zeros(120)).joined is None, "one place"
    assert cluster_statistics(people, None, people, None, np.full(120, None)).matched is None, "no match"


@pytest.mark.parametrize("seed", range(5))
def test_purity_and_agreement_agree_with_their_definitions(seed):
    random = np.random.default_rng(seed)
    labels, previous, who = (random.integers(-1, 5, 60) for _ in range(3))
    places = random.integers(0, 2, 60)
    found = cluster_statistics(labels, previous, who, places)
    seen = [p for p in np.unique(who) if len(set(places[who == p])) > 1]
    joined = [any(len(set(places[(who == p) & (labels == c)])) > 1 for c in range(5)) for p in seen]
    assert found.joined == pytest.approx(np.mean(joined))
    most = [Counter(who[labels == c].tolist()).most_common(1)[0][1] for c in range(5)]
    assert found.purity == pytest.approx(sum(most) / np.count_nonzero(labels >= 0))
    both = np.flatnonzero((labels >= 0) & (previous >= 0))
    now, before = ([x[i] == x[j] for i in both for j in both if i < j] for x in (labels, previous))
    pairs, a, b = len(now), sum(now), sum(before)
    chance = a * b / pairs
    index = (sum(np.logical_and(now, before)) - chance) / ((a + b) / 2 - chance)
    assert found.agreement == pytest.approx(index)


def test_what_is_not_known_is_absent():
    found = cluster_statistics(np.array([-1, -1]), previous=np.array([0, 1]), identities=np.array([3, 3]))
    assert (found.clusters, found.noise, found.smallest, found.largest) == (0, 1.0, 0, 0)
    assert found.agreement is None and found.purity is None and found.identities == 1
    first = cluster_statistics(np.array([0, 0]))
    assert first.agreement is None and first.purity is None and first.identities is None


def test_arrays_are_of_the_same_images():
    with pytest.raises(ValueError, match="labels are of 2 images, previous of 3"):
        cluster_statistics(np.zeros(2, int), previous=np.zeros(3, int))
    with pytest.raises(ValueError, match="labels are of 2 images, identities of 1"):
        cluster_statistics(np.zeros(2, int), identities=np.zeros(1, int))
    with pytest.raises(ValueError, match="labels are of 2 images, places of 1"):
        cluster_statistics(np.zeros(2, int), identities=np.zeros(2, int), places=np.zeros(1, int))
    with pytest.raises(ValueError, match="no images"):
        cluster_statistics(np.zeros(0, int))


@pytest.mark.parametrize(
    ("modalities", "expected", "message"),
    [
        ([], ["visible"], "no images; check its root_path"),
        (
            ["visible"] * 9,
            ["visible", "thermal"],
            "the target has 0 thermal, 9 visible: add the thermal ones",
        ),
        (
            ["visible"] * 9 + ["thermal"],
            ["visible", "thermal"],
            "1 thermal, 9 visible images, expected two or more of each",
        ),
    ],
)
def test_images_that_cannot_be_clustered_are_refused(modalities, expected, message):
    with pytest.raises(NothingToLearnError, match=message):
        check_images(modalities, expected)


def test_without_clustering_something_has_to_link_the_modalities():
    modalities = np.array(["visible", "visible", "thermal", "thermal"])
    with pytest.raises(NothingToLearnError, match="no track or moment has images of both modalities"):
        check_linked(np.array([0, 0, 1, 1]), modalities, across=True)
    check_linked(np.array([0, 0, 1, 1]), modalities, across=False)
    check_linked(np.array([0, 0, 0, 1]), modalities, across=True)
    check_linked(np.array([0, 0]), modalities[:2], across=True)


def test_a_collapsed_network_is_told():
    with pytest.raises(NothingToLearnError, match="all 4 images the same feature: it has collapsed"):
        check_features(np.array([[1.0, 2.0]] * 3 + [[2.0, 4.0]]))
    with pytest.raises(NothingToLearnError, match="2 of 4 thermal images hold NaN or infinity"):
        check_features(np.array([[1.0, np.nan], [1, 1], [np.inf, 0], [1, 2]]), "thermal images")


def test_clusters_that_teach_nothing_are_refused():
    with pytest.raises(
        NothingToLearnError, match="dbscan with eps 0.1 took all 3 images for noise: raise its eps"
    ):
        check_clusters(np.full(3, -1), "dbscan with eps 0.1")
    with pytest.raises(
        NothingToLearnError, match="put 2 of 3 thermal images into one cluster, .* lower its eps"
    ):
        check_clusters(np.array([0, 0, -1]), "dbscan with eps 0.9", "thermal images")


def test_others_pass():
    check_images(["visible"] * 5 + ["thermal"] * 2, ["visible", "thermal"])
    check_images(["visible"] * 5 + ["thermal"], ["visible"])
    check_features(np.eye(3))
    check_features(np.ones((1, 3)))
    check_clusters(np.array([0, 1, -1]), "dbscan")
