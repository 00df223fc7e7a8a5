"""A whole round, from the features of two modalities and their tracks to losses: the parts fit together."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from src.adaptation.clustering import dbscan
from src.adaptation.constraints import cannot_link, must_link, pairs_among, pool, separate
from src.adaptation.contrastive import contrastive
from src.adaptation.guards import check_clusters, check_features, check_images
from src.adaptation.jaccard import jaccard_distance
from src.adaptation.matching import match_clusters, matching_cost, shared_people
from src.adaptation.memory import ClusterMemory
from src.adaptation.proxies import proxies
from src.adaptation.statistics import cluster_statistics

PEOPLE, TRACKS, FRAMES = 12, 5, 4
MODALITIES = ("visible", "thermal")


@pytest.fixture(scope="module")
def target():
    """Images of people with five tracks each, in both modalities, two people in each scene."""
    random = np.random.default_rng(0)
    looks, modality_shift = random.normal(size=(PEOPLE, 32)), 1.5 * random.normal(size=32)
    rows = []
    for modality in range(2):
        for person in range(PEOPLE):
            for track in range(TRACKS):
                pose = 0.6 * np.random.default_rng([person, track]).normal(size=32)
                for frame in range(FRAMES):
                    moment = f"{track}-{person // 2}-{frame}"
                    feature = looks[person] + pose + modality * modality_shift + 0.2 * random.normal(size=32)
                    rows.append((feature, modality, person, f"{person}-{track}", moment))
    features, modality, person, track, moment = zip(*rows, strict=True)
    return np.array(features), np.array(modality), np.array(person), track, moment


def test_pseudo_labels_of_two_modalities_are_the_people(target):
    features, modality, person, track, moment = target
    check_images([MODALITIES[m] for m in modality], MODALITIES, least=10)
    # Tracks of one modality, and the same moment and person in both.
    groups = must_link(
        [f"{MODALITIES[m]}/{t}" for m, t in zip(modality, track, strict=True)],
        [f"{t}@{when}" for t, when in zip(track, moment, strict=True)],
    )
    assert len(set(groups)) == PEOPLE * TRACKS
    apart = cannot_link(groups, [f"{MODALITIES[m]}/{when}" for m, when in zip(modality, moment, strict=True)])
    assert len(apart) == PEOPLE // 2 * TRACKS

    points, labels, centroids = [], [], []
    for m in range(2):
        own = modality == m
        check_features(features[own], f"{MODALITIES[m]} images")
        present, means, images = pool(features[own], groups[own])
        distances = jaccard_distance(means, k1=10, k2=3)
        found = separate(dbscan(distances, images), distances, pairs_among(present, apart), images)
        check_clusters(found, "dbscan with eps 0.6", f"{MODALITIES[m]} images")
        of_images = found[np.searchsorted(present, groups[own])]
        described = cluster_statistics(of_images, identities=person[own])
        assert described.purity > 0.95 and described.noise < 0.05
        assert adjusted_rand_score(person[own], of_images) > 0.85
        points.append((present, found))
        labels.append(of_images)
        centroids.append(ClusterMemory(features[own], of_images).centroids)

    shared = shared_people(points[0][1], points[1][1], points[0][0], points[1][0])
    of_visible, of_thermal = match_clusters(matching_cost(*centroids, shared))
    assert (of_visible >= 0).all() and (of_thermal >= 0).all()
    # Each modality is compared with the other's memory under the label of the matched cluster.
    visible, thermal = labels[0] >= 0, modality == 0
    across = of_visible[labels[0][visible]]
    who = [np.bincount(person[modality == 1][labels[1] == c]).argmax() for c in range(labels[1].max() + 1)]
    assert (np.array(who)[across] == person[thermal][visible]).mean() > 0.95
    loss = contrastive(features[modality == 0][visible].astype("float32"), across, centroids[1])
    assert np.isfinite(float(loss)) and float(loss) > 0


def test_people_who_are_seen_together_are_told_apart(target):
    """With looks that do not tell two people apart, what cannot be linked does."""
    features, modality, person, track, moment = target
    own = (modality == 0) & (person < 2)
    groups = must_link([t for t, kept in zip(track, own, strict=True) if kept])
    apart = cannot_link(groups, [when for when, kept in zip(moment, own, strict=True) if kept])
    alike = features[own] - np.array([features[own][person[own] == p].mean(axis=0) for p in person[own]])
    present, means, images = pool(alike + 3, groups)
    distances = jaccard_distance(means, k1=10, k2=3)
    together = dbscan(distances, images, eps=1.0)
    assert together.tolist() == [0] * len(present)
    found = separate(together, distances, pairs_among(present, apart), images)
    a, b = pairs_among(present, apart).T
    assert (found[a] != found[b]).all()


def test_each_camera_of_a_cluster_has_a_proxy_of_its_own():
    labels = np.array([0, 0, 1, -1, 1, 0])
    cameras = np.array([2, 1, 1, 1, 1, 2])
    of_image, clusters = proxies(labels, cameras)
    assert of_image.tolist() == [1, 0, 2, -1, 2, 1] and clusters.tolist() == [0, 0, 1]
    features = np.eye(6, dtype="float32")
    memory = ClusterMemory(features, of_image)
    assert memory.centroids.shape == (3, 6)
    assert float(contrastive(features, labels, memory.centroids, clusters)) > 0
    empty, none = proxies(np.array([-1]), np.array([0]))
    assert empty.tolist() == [-1] and len(none) == 0
