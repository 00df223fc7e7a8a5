import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from src.adaptation.constraints import cannot_link, must_link, pool, separate

KEYS = st.lists(st.sampled_from([None, "a", "b", "c", "d"]), min_size=8, max_size=8)


def slow_groups(*keys):
    """Relabel until nothing changes."""
    groups = list(range(len(keys[0])))
    changed = True
    while changed:
        changed = False
        for key in keys:
            for i, a in enumerate(key):
                for j, b in enumerate(key):
                    if a is not None and a == b and groups[i] > groups[j]:
                        groups[i], changed = groups[j], True
    return [sorted(set(groups)).index(group) for group in groups]


@settings(max_examples=60, deadline=None)
@given(first=KEYS, second=KEYS)
def test_groups_are_what_chains_of_shared_keys_connect(first, second):
    assert must_link(first, second).tolist() == slow_groups(first, second)
    assert must_link(first).tolist() == slow_groups(first)


def test_tracks_of_two_cameras_are_joined_by_synchronised_frames():
    tracks = ["visible/1", "visible/1", "visible/2", "thermal/9", "thermal/9", "thermal/8"]
    moments = ["10/a", "11/a", "10/b", "11/a", "12/a", "13/c"]
    assert must_link(tracks).tolist() == [0, 0, 1, 2, 2, 3]
    assert must_link(tracks, moments).tolist() == [0, 0, 1, 0, 0, 2]
    assert must_link([None, None], ["x", None]).tolist() == [0, 1]


def test_a_key_means_nothing_for_another():
    assert must_link(["a", "b"], ["b", "a"]).tolist() == [0, 1]


def test_keys_are_of_the_same_images():
    with pytest.raises(ValueError, match=r"keys of one length, got \[1, 2\]"):
        must_link(["a"], ["a", "b"])


def test_people_seen_together_are_apart():
    groups = np.array([0, 1, 1, 2, 0, 3, 2])
    scenes = ["f1", "f1", "f2", "f2", "f3", None, "f1"]
    assert cannot_link(groups, scenes).tolist() == [[0, 1], [0, 2], [1, 2]]
    assert cannot_link(groups, [None] * 7).shape == (0, 2)
    assert cannot_link(groups, list("abcdefg")).shape == (0, 2)


def test_one_person_twice_in_a_scene_is_a_contradiction():
    with pytest.raises(ValueError, match="2 images of one group are from the scene 'f2'"):
        cannot_link(np.array([0, 1, 1]), ["f1", "f2", "f2"])


def test_pooled_features_are_means_of_unit_features():
    features = np.array([[2.0, 0], [0, 5], [1, 1], [0, 1]])
    groups, means = pool(features, np.array([7, 7, 3, 7]))
    assert groups.tolist() == [3, 7]
    mean = np.array([1 / 3, 2 / 3])
    np.testing.assert_allclose(means, [[0.5**0.5, 0.5**0.5], mean / np.linalg.norm(mean)], rtol=1e-6)
    assert means.dtype == np.float32


def sparse(pairs, n):
    """Symmetric distances from pairs, with the zeros of the diagonal."""
    rows, columns, values = (list(x) for x in zip(*[(i, j, d) for (i, j), d in pairs.items()], strict=True))
    diagonal = list(range(n))
    return scipy.sparse.csr_array(
        (
            np.array(values * 2 + [0] * n, np.float32),
            (rows + columns + diagonal, columns + rows + diagonal),
        ),
        (n, n),
    )


def test_a_cluster_is_divided_at_its_weakest_links():
    distances = sparse({(0, 1): 0.1, (1, 2): 0.5, (2, 3): 0.2, (0, 4): 0.3}, 6)
    labels = np.array([0, 0, 0, 0, 0, -1])
    assert separate(labels, distances, np.array([[0, 3]]), min_samples=1).tolist() == [0, 0, 1, 1, 0, -1]
    assert separate(labels, distances, np.array([[0, 3]]), min_samples=3).tolist() == [0, 0, -1, -1, 0, -1]


def test_nothing_changes_without_a_conflict():
    distances = sparse({(0, 1): 0.1, (2, 3): 0.1}, 4)
    labels = np.array([0, 0, 1, 1])
    for apart in (np.empty((0, 2), int), np.array([[0, 2], [1, 3]])):
        assert separate(labels, distances, apart, min_samples=2).tolist() == labels.tolist()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), pairs=st.integers(0, 25))
def test_no_pair_shares_a_cluster_and_all_else_that_may_is_joined(seed, pairs):
    random = np.random.default_rng(seed)
    n = 12
    labels = random.integers(-1, 3, n)
    apart = np.array([sorted(random.choice(n, 2, replace=False)) for _ in range(pairs)], int)
    apart = apart.reshape(-1, 2)
    chosen = {(i, j): random.random() for i in range(n) for j in range(i) if random.random() < 0.6}
    distances = sparse(chosen | {(0, 1): 0.5}, n)
    found = separate(labels, distances, apart, min_samples=1)
    assert ((found < 0) == (labels < 0)).all()
    forbidden = {frozenset(pair) for pair in apart.tolist()}
    for i in range(n):
        for j in range(i):
            if found[i] >= 0 and found[i] == found[j]:
                assert labels[i] == labels[j] and frozenset((i, j)) not in forbidden
    for cluster in range(3):
        members = np.flatnonzero(labels == cluster)
        inside = forbidden & {frozenset((i, j)) for i in members.tolist() for j in members.tolist()}
        if not inside:
            assert len(set(found[members])) <= 1
        # Parts that touch are kept apart by a pair.
        for i, j in ((i, j) for i, j in chosen if inside and {i, j} <= set(members.tolist())):
            a, b = np.flatnonzero(found == found[i]), np.flatnonzero(found == found[j])
            clash = {frozenset((x, y)) for x in a.tolist() for y in b.tolist()} & forbidden
            assert found[i] == found[j] or clash
