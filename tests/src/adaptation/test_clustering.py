from inspect import signature
from itertools import product

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.cluster import DBSCAN, HDBSCAN
from sklearn.metrics import adjusted_rand_score

from src.adaptation import clustering
from src.adaptation._labels import by_size
from src.adaptation._map_equation import modules
from src.adaptation.clustering import agglomerative, dbscan, hdbscan, infomap
from src.adaptation.eps_from_pairs import eps_from_pairs
from src.adaptation.jaccard import jaccard_distance
from src.registries import CLUSTERING
from tests.numeric import dense

ALL = {name: CLUSTERING.get(name) for name in CLUSTERING}


def sparse(full):
    """Dense distances as `jaccard_distance` returns them."""
    rows, columns = np.nonzero(full < 1)
    return scipy.sparse.csr_array((full[rows, columns].astype(np.float32), (rows, columns)), full.shape)


def random_distances(seed, n=60, present=0.2):
    """Distances with absent ones, some of 0 between two points, and points without any."""
    random = np.random.default_rng(seed)
    full = np.where(random.random((n, n)) < present, random.random((n, n)), 1.0)
    full[random.random((n, n)) < 0.01] = 0
    full = np.minimum(full, full.T).astype(np.float32)
    full[:2, :] = full[:, :2] = 1
    np.fill_diagonal(full, 0)
    return full


def people(seed=0, n=12, each=10, noise=0.5):
    random = np.random.default_rng(seed)
    who = np.repeat(np.arange(n), each)
    return random.normal(size=(n, 16))[who] + noise * random.normal(size=(n * each, 16)), who


def same(a, b):
    """Whether two clusterings are one, whatever their numbers, with the same noise."""
    a, b = np.asarray(a), np.asarray(b)
    return ((a < 0) == (b < 0)).all() and len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))


def test_the_registry_has_them_all():
    assert set(ALL) == {"agglomerative", "dbscan", "hdbscan", "infomap"}


@pytest.mark.parametrize("name", sorted(ALL))
def test_people_are_found(name):
    features, who = people()
    labels = ALL[name](jaccard_distance(features, 10, 4))
    assert labels.dtype == np.int64 and labels.shape == who.shape
    kept = labels >= 0
    assert kept.mean() > 0.9
    assert same(labels[kept], who[kept])


@pytest.mark.parametrize("name", sorted(ALL))
def test_distances_are_not_changed_and_the_largest_cluster_comes_first(name):
    features, _ = people(1)
    distances = jaccard_distance(features[5:], 10, 4)
    before = distances.copy()
    labels = ALL[name](distances)
    assert (distances.data == before.data).all() and (distances.indices == before.indices).all()
    sizes = np.bincount(labels[labels >= 0])
    assert (np.diff(sizes) <= 0).all()


@pytest.mark.parametrize("name", sorted(ALL))
def test_points_without_neighbours_are_noise(name):
    assert (ALL[name](sparse(1 - np.eye(6))) == -1).all()


@pytest.mark.parametrize("name", sorted(ALL))
def test_what_nothing_connects_is_not_one_cluster(name):
    full = np.ones((15, 15))
    full[:6, :6] = full[6:12, 6:12] = 0.2
    full[12:14, 12:14] = 0.1
    np.fill_diagonal(full, 0)
    assert ALL[name](sparse(full)).tolist() == [0] * 6 + [1] * 6 + [-1] * 3


@pytest.mark.parametrize("eps", [0.1, 0.3, 0.6, None])
@pytest.mark.parametrize("seed", range(4))
def test_dbscan_is_that_of_dense_distances(eps, seed):
    full = random_distances(seed)
    value = eps_from_pairs(sparse(full), 20) if eps is None else eps
    expected = DBSCAN(eps=value, min_samples=4, metric="precomputed").fit(full).labels_
    assert same(dbscan(sparse(full), eps=eps), expected)


@pytest.mark.parametrize("each", [1, 2, 7, 50, 1000])
def test_eps_is_the_mean_distance_of_the_closest_pairs(each):
    full = random_distances(6)
    pairs = np.sort(full[np.triu_indices(60, 1)])
    pairs = pairs[pairs > 0]
    expected = pairs[: each * 60 // 2].mean()
    assert eps_from_pairs(sparse(full), each) == pytest.approx(expected, rel=1e-5)


def test_the_default_takes_the_share_of_pairs_that_was_published_for_market1501():
    images, share = 12_936, 1.6e-3
    each = 5 * signature(dbscan).parameters["min_samples"].default
    assert each * images / 2 == pytest.approx(share * images * (images - 1) / 2, rel=0.05)


def test_eps_does_not_depend_on_the_number_of_people():
    """Of five times as many people who are as far apart, the same pairs of each are the closest."""
    features, _ = people(3, n=12, each=8)
    one = dense(jaccard_distance(features, 10, 4))
    full = np.ones((5 * len(one), 5 * len(one)))
    for start in range(0, len(full), len(one)):
        full[start : start + len(one), start : start + len(one)] = one
    eps = eps_from_pairs(sparse(one), 6)
    assert eps_from_pairs(sparse(full), 6) == pytest.approx(eps, rel=1e-5)


def test_dbscan_takes_an_eps_for_people_of_five_times_its_least_points():
    full = random_distances(7)
    for least in (2, 4):
        eps = eps_from_pairs(sparse(full), 5 * least)
        expected = dbscan(sparse(full), eps=eps, min_samples=least)
        assert dbscan(sparse(full), eps=None, min_samples=least).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("min_samples", "agreement"), [(1, 1.0), (3, 0.7)])
def test_hdbscan_is_that_of_dense_distances(seed, min_samples, agreement):
    """From 2 on, `min_samples` makes equal distances, which are cut either way."""
    features, _ = people(seed, n=6, each=7, noise=0.9)
    full = dense(jaccard_distance(features, 9, 3))
    full += 1e-4 * np.random.default_rng(seed).random(full.shape) * (full < 1)
    full = np.minimum(np.triu(full, 1) + np.triu(full, 1).T, 1).astype(np.float32).astype(float)
    arguments = {"min_cluster_size": 4, "min_samples": min_samples}
    expected = HDBSCAN(**arguments, metric="precomputed", copy=True).fit(full).labels_
    assert adjusted_rand_score(expected, hdbscan(sparse(full), **arguments)) >= agreement


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_agglomerative_is_average_linkage_of_dense_distances(threshold, seed):
    features, _ = people(seed, noise=0.8)
    full = dense(jaccard_distance(features, 10, 4))
    tree = linkage(squareform(full, checks=False), "average")
    expected = fcluster(tree, threshold, "distance")
    assert same(agglomerative(sparse(full), threshold=threshold, min_samples=1), expected)


def test_agglomerative_refuses_what_does_not_fit_into_memory(monkeypatch):
    monkeypatch.setattr(clustering, "_LINKED_AT_ONCE", 10)
    with pytest.raises(
        ValueError, match="20 of 20 points hang together .* lower the threshold, or use dbscan"
    ):
        agglomerative(sparse(np.full((20, 20), 0.5)))


def code_length(graph, labels):
    """The map equation as it is defined: the entropy of leaving modules, and that of moving within each."""
    flow = graph / graph.sum()
    visits = flow.sum(axis=1)

    def entropy(*flows):
        rates = np.array([f for f in flows if f > 0])
        return -(rates * np.log2(rates / rates.sum())).sum()

    exits = [flow[labels == m][:, labels != m].sum() for m in np.unique(labels)]
    within = [entropy(q, *visits[labels == m]) for q, m in zip(exits, np.unique(labels), strict=True)]
    return entropy(*exits) + sum(within)


def graph_of_groups(seed, groups=2, each=4):
    random = np.random.default_rng(seed)
    inside = np.kron(np.eye(groups), np.ones((each, each)))
    weights = np.where(inside > 0, random.random(inside.shape), 0.05 * random.random(inside.shape))
    return np.triu(weights, 1) + np.triu(weights, 1).T


@pytest.mark.parametrize("seed", range(4))
def test_modules_of_clear_groups_have_the_shortest_code_of_all_partitions(seed):
    graph = graph_of_groups(seed)
    found = modules(scipy.sparse.csr_array(graph))
    assert same(found, np.repeat([0, 1], 4))
    best = min(code_length(graph, np.array((0, *rest))) for rest in product(range(3), repeat=7))
    assert code_length(graph, found) == pytest.approx(best, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), n=st.integers(2, 14), share=st.floats(0.1, 0.9))
def test_modules_of_any_graph_have_no_longer_code_than_single_nodes(seed, n, share):
    random = np.random.default_rng(seed)
    graph = np.where(random.random((n, n)) < share, random.random((n, n)), 0)
    graph = np.triu(graph, 1) + np.triu(graph, 1).T
    found = modules(scipy.sparse.csr_array(graph))
    assert found.shape == (n,) and set(found) == set(range(found.max() + 1))
    if graph.sum():
        assert code_length(graph, found) <= code_length(graph, np.arange(n)) + 1e-9
    else:
        assert same(found, np.arange(n))


def test_infomap_keeps_the_nearest_neighbours_of_each_point():
    """With one neighbour each, a chain falls into pairs; with two it is one."""
    full = np.ones((4, 4))
    for (a, b), d in {(0, 1): 0.1, (1, 2): 0.3, (2, 3): 0.1}.items():
        full[a, b] = full[b, a] = d
    np.fill_diagonal(full, 0)
    assert infomap(sparse(full), neighbours=1, min_samples=2).tolist() == [0, 0, 1, 1]
    assert infomap(sparse(full), eps=0.2, neighbours=3, min_samples=2).tolist() == [0, 0, 1, 1]
    assert infomap(sparse(full), eps=0.05, min_samples=2).tolist() == [-1] * 4


def test_clusters_are_numbered_by_size():
    labels = np.array([7, 7, 7, -1, 2, 2, 9])
    assert by_size(labels).tolist() == [0, 0, 0, -1, 1, 1, 2]
    assert by_size(np.array([4, 2, 2, 7, 4])).tolist() == [0, 1, 1, 2, 0], "of equals the first comes first"
    assert by_size(np.array([-1, -1])).tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dbscan", {"eps": 0}, "0 < eps <= 1 .* got eps=0"),
        ("dbscan", {"min_samples": 0}, "min_samples=0"),
        ("agglomerative", {"threshold": 1.5}, "got threshold=1.5"),
        ("agglomerative", {"threshold": None}, "got threshold=None"),
        ("infomap", {"eps": None}, "got eps=None"),
        ("infomap", {"eps": 2}, "eps=2"),
        ("infomap", {"neighbours": 0}, "neighbours must be 1 or more, got 0"),
        ("hdbscan", {"min_cluster_size": 1}, "min_cluster_size >= 2 .* got 1 and 4"),
        ("hdbscan", {"min_samples": 99}, "min_samples <= 6 .points., got 4 and 99"),
    ],
)
def test_arguments_out_of_range_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        ALL[name](sparse(1 - np.eye(6)), **arguments)


def test_eps_needs_pairs():
    for n in (1, 3):
        with pytest.raises(ValueError, match=f"two different images or more, got {n}"):
            eps_from_pairs(sparse(np.zeros((n, n))), 20)
