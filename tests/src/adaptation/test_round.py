"""A whole round, from the features of two modalities and their tracks to losses: the parts fit together."""

from functools import partial

import numpy as np

from src.adaptation.clustering import dbscan
from src.adaptation.constraints import cannot_link, must_link
from src.adaptation.contrastive import contrastive
from src.adaptation.memory import ClusterMemory
from src.adaptation.proxies import proxies
from src.adaptation.pseudo_labels import found_labels
from src.adaptation.statistics import cluster_statistics

PEOPLE, TRACKS, FRAMES = 12, 5, 4
MODALITIES = ("visible", "thermal")


def test_images_of_two_modalities_become_people_and_losses():
    """People have five tracks each at two places, in both modalities, and walk in pairs."""
    random = np.random.default_rng(0)
    looks, modality_shift = random.normal(size=(PEOPLE, 32)), 1.5 * random.normal(size=32)
    ground, rows = random.normal(size=(2, 2, 32)), []
    for number, modality in enumerate(MODALITIES):
        for person in range(PEOPLE):
            for track in range(TRACKS):
                place = track % 2
                pose = 0.6 * np.random.default_rng([person, track]).normal(size=32) + ground[number, place]
                for frame in range(FRAMES):
                    feature = looks[person] + pose + number * modality_shift + 0.2 * random.normal(size=32)
                    walk, scene = f"{person}-{track}", f"{modality}/{track}-{person // 2}-{frame}"
                    track_name = f"{modality}/{walk}"
                    rows.append((feature, modality, person, place, track_name, f"{walk}-{frame}", scene))
    *seen, tracks, moments, scenes = zip(*rows, strict=True)
    features, modalities, people, places = (np.array(values) for values in seen)

    groups = must_link(tracks, moments)
    assert len(set(groups)) == PEOPLE * TRACKS
    apart = cannot_link(groups, scenes)
    assert len(apart) == PEOPLE // 2 * TRACKS
    cluster = partial(dbscan, min_samples=2)
    find = partial(found_labels, features, modalities, groups, apart, cluster, "dbscan", k1=10, k2=3, least=2)
    labels, uncentred = find(cameras=places), find()

    sides = {name: modalities == name for name in MODALITIES}
    memories = {name: ClusterMemory(features[own], labels.own[own]) for name, own in sides.items()}
    for name, other in (MODALITIES, MODALITIES[::-1]):
        own = sides[name]
        described = cluster_statistics(labels.own[own], None, people[own], places[own])
        assert described.purity > 0.95 and described.noise < 0.05
        assert described.adjusted_rand > 0.85 and described.joined == 1.0
        assert cluster_statistics(uncentred.own[own], None, people[own], places[own]).joined < 0.2
        who = [
            np.bincount(people[sides[other]][labels.own[sides[other]] == c]).argmax()
            for c in range(len(memories[other].centroids))
        ]
        matched = own & (labels.across >= 0)
        assert matched.sum() > 0.95 * own.sum()
        assert (np.array(who)[labels.across[matched]] == people[matched]).mean() > 0.95
        # Each modality is compared with the other's memory under the label of the matched cluster.
        loss = contrastive(features[own].astype("float32"), labels.across[own], memories[other].centroids)
        assert np.isfinite(float(loss)) and float(loss) > 0


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
