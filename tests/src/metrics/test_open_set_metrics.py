import numpy as np
import pytest

from src.metrics.open_set_metrics import open_set_metrics


def case(seed=0, queries=400, images=600, identities=40):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(identities, 8))
    ids = random.integers(0, identities, queries), random.integers(0, identities, images)
    cameras = random.integers(1, 4, queries), random.integers(1, 4, images)
    features = [centres[i] + 0.5 * random.normal(size=(len(i), 8)) for i in ids]
    return *features, *ids, *cameras


def slow_distances(query, gallery, q_ids, g_ids, q_cameras, g_cameras, distance, protocol):
    """Distances of the closest image to known and to unknown queries, one query at a time."""
    known, unknown = [], []
    for q, identity, camera in zip(query, q_ids, q_cameras, strict=True):
        seen = ~((g_ids == identity) & (g_cameras == camera)) if protocol == "market1501" else g_ids >= 0
        if distance == "cosine":
            far = 1 - gallery[seen] @ q / np.linalg.norm(gallery[seen], axis=1) / np.linalg.norm(q)
        else:
            far = np.linalg.norm(gallery[seen] - q, axis=1)
        if identity not in g_ids:
            unknown.append(far.min())
        elif identity in g_ids[seen]:
            known.append(far.min() if g_ids[seen][far.argmin()] == identity else np.inf)
    return known, unknown


def without(least, query, gallery, q_ids, g_ids, q_cameras, g_cameras):
    """The images of nobody from identity `least` on: their queries are of unknown people."""
    present = g_ids < least
    return query, gallery[present], q_ids, g_ids[present], q_cameras, g_cameras[present]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("protocol", ["market1501", "no_camera"])
def test_agrees_with_the_definition(distance, protocol):
    arguments = without(25, *case())
    known, unknown = slow_distances(*arguments, distance, protocol)
    metrics = open_set_metrics(*arguments, protocol, distance, left_out=0)
    np.testing.assert_allclose(metrics.known, np.sort(known), atol=1e-6)
    np.testing.assert_allclose(metrics.unknown, np.sort(unknown), atol=1e-6)
    for fpir in (0.1, 0.3, 1.0):
        allowed = [t for t in sorted(unknown) if np.mean(np.array(unknown) <= t) <= fpir]
        rates = [np.mean(np.array(known) <= t) for t in allowed]
        assert metrics.dir(fpir) >= max(rates) - 1e-9
        assert np.mean(metrics.unknown <= metrics.threshold_at(fpir)) <= fpir
    assert metrics.dir(1.0) < 1  # some first answers are wrong
    assert 0 < metrics.dir(0.1) < metrics.dir(1.0)


def waves(count, shift):
    """Embeddings of 40 people, each a wave of an own length with another one on it, and who they are."""
    images, ids = np.arange(count), np.arange(count) % 40
    disturbance = 0.5 * np.sin(shift + np.outer(images, np.sqrt(np.arange(2, 10))))
    return np.cos(np.outer(ids, np.arange(1, 9))) + disturbance, ids


def test_golden_values():
    """Computed once with the reference above; the threshold is the unknown distance that it may not reach."""
    (query, q_ids), (gallery, g_ids) = waves(200, 0), waves(240, 1)
    arguments = without(25, query, gallery, q_ids, g_ids, np.ones(200, int), np.full(240, 2))
    metrics = open_set_metrics(*arguments, left_out=0)
    assert (metrics.threshold_at(0.3), metrics.dir(0.3)) == pytest.approx((0.1018210, 0.68), abs=1e-6)


def test_a_perfect_embedding_rejects_all_unknown_people():
    ids = np.arange(60) % 12
    metrics = open_set_metrics(np.eye(12)[ids], np.eye(12), ids, np.arange(12), protocol="no_camera")
    assert len(metrics.known) == len(metrics.unknown) == 30
    assert metrics.dir(0.5) == 1
    assert "6 of 12 identities left out" in metrics.sentence and "no_camera" in metrics.sentence


def test_a_tie_is_a_wrong_answer():
    metrics = open_set_metrics(
        np.ones((40, 3)), np.ones((8, 3)), np.arange(40) % 8, np.arange(8), protocol="no_camera"
    )
    assert metrics.dir(1.0) == 0


def test_the_choice_of_unknown_people_is_seeded():
    arguments = case()
    one, same, other = (open_set_metrics(*arguments, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.known, same.known)
    assert len(one.known) != len(other.known)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left_out": 0}, "every query's person is in the gallery"),
        ({"left_out": 0.9, "gallery_ids": [1, 2, 2]}, "no gallery image remains with left_out=0.9"),
        ({"left_out": 1}, "left_out must be in 0..1"),
        ({"gallery_ids": [7, 8, 9]}, "none of 3 queries has a match"),
        ({"query": np.full((3, 3), np.inf)}, "NaN or infinity"),
        ({"protocol": "none"}, "protocol must be one of"),
    ],
)
def test_mistakes_are_named(change, message):
    arguments = {
        "query": np.eye(3),
        "gallery": np.eye(3),
        "query_ids": [1, 2, 3],
        "gallery_ids": [1, 2, 3],
        "protocol": "no_camera",
    }
    with pytest.raises(ValueError, match=message):
        open_set_metrics(**(arguments | change))


def test_a_rate_that_the_queries_cannot_support_is_refused():
    metrics = open_set_metrics(*case())
    assert metrics.supports(0.1) and not metrics.supports(0.01)
    with pytest.raises(ValueError, match=r"0.01 needs 1,000 queries of unknown people"):
        metrics.dir(0.01)
