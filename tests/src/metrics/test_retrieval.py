from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.metrics import _closeness, _ranking
from src.metrics._protocols import PROTOCOLS
from src.metrics.matrix_metrics import matrix_metrics
from src.metrics.retrieval import RetrievalMetrics, retrieval_metrics

ACROSS = ("market1501", "msmt17", "veri776")
GOLDEN = np.load(Path(__file__).parents[2] / "data" / "retrieval.npz")


def slow_metrics(query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras, protocol, distance):
    """The definition, one query at a time, with a full sort; ties put other people first."""
    if distance == "cosine":
        query = query / np.linalg.norm(query, axis=1, keepdims=True)
        gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    precisions, inps, firsts = [], [], []
    for features, identity, camera in zip(query, query_ids, query_cameras, strict=True):
        entries = []
        for other, other_identity, other_camera in zip(gallery, gallery_ids, gallery_cameras, strict=True):
            same = identity == other_identity
            if protocol in ACROSS and (other_identity == -1 or (same and camera == other_camera)):
                continue
            far = 1 - features @ other if distance == "cosine" else np.linalg.norm(features - other)
            entries.append((round(float(far), 5), bool(same)))
        hits = [rank for rank, (_, same) in enumerate(sorted(entries), start=1) if same]
        precisions.append(np.mean([n / rank for n, rank in enumerate(hits, start=1)]) if hits else np.nan)
        if hits:
            inps.append(len(hits) / hits[-1])
            firsts.append(hits[0])
    cmc = [np.mean([first <= rank for first in firsts]) for rank in range(1, 51)]
    return np.array(cmc), np.nanmean(precisions), np.mean(inps), np.array(precisions)


def random_case(seed, queries=23, images=180, identities=9, dimensions=6, lowest=-1):
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(queries, dimensions)),
        random.normal(size=(images, dimensions)),
        random.integers(0, identities, queries),
        random.integers(lowest, identities, images),
        random.integers(1, 4, queries),
        random.integers(1, 4, images),
    )


def assert_agrees(metrics: RetrievalMetrics, cmc, mean_precision, inp, precisions):
    np.testing.assert_allclose(metrics.cmc, cmc, atol=1e-9)
    np.testing.assert_allclose(metrics.average_precision, precisions, atol=1e-9)
    assert metrics.mAP == pytest.approx(mean_precision, abs=1e-9)
    assert metrics.mINP == pytest.approx(inp, abs=1e-9)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_golden_values_of_independent_implementations(distance):
    g = GOLDEN
    metrics = retrieval_metrics(
        g["query"], g["gallery"], g["query_ids"], g["gallery_ids"], g["query_cams"], g["gallery_cams"],
        distance=distance,
    )  # fmt: skip
    np.testing.assert_allclose(metrics.cmc, g["market_cmc"], atol=1e-5)
    assert metrics.mAP == pytest.approx(float(g["market_mAP"]), abs=1e-5)
    assert metrics.mINP == pytest.approx(float(g["market_mINP"]), abs=1e-5)


def test_golden_values_of_sysu_mm01():
    g = GOLDEN
    metrics = retrieval_metrics(
        g["query"], g["gallery"], g["query_ids"], g["gallery_ids"], g["sysu_query_cams"], g["sysu_gallery_cams"],
        protocol="sysu_mm01", max_rank=20,
    )  # fmt: skip
    np.testing.assert_allclose(metrics.cmc, g["sysu_cmc"], atol=1e-5)
    assert metrics.mAP == pytest.approx(float(g["sysu_mAP"]), abs=1e-5)
    assert metrics.mINP == pytest.approx(float(g["sysu_mINP"]), abs=1e-5)


@pytest.mark.parametrize("protocol", ["market1501", "no_camera", "msmt17", "veri776", "vehicleid", "regdb"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_definition(protocol, distance, seed):
    case = random_case(seed)
    assert_agrees(
        retrieval_metrics(*case, protocol=protocol, distance=distance),
        *slow_metrics(*case, protocol, distance),
    )


@pytest.mark.parametrize("protocol", ["market1501", "sysu_mm01", "llcm"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_chunks_do_not_change_the_result(monkeypatch, protocol, distance):
    case = random_case(7)
    whole = retrieval_metrics(*case, protocol=protocol, distance=distance)
    for module in (_closeness, _ranking):
        monkeypatch.setattr(module, "GALLERY_AT_ONCE", 11)
    monkeypatch.setattr(_ranking, "QUERIES_AT_ONCE", 4)
    pieces = retrieval_metrics(*case, protocol=protocol, distance=distance)
    np.testing.assert_array_equal(whole.average_precision, pieces.average_precision)
    np.testing.assert_array_equal(whole.cmc, pieces.cmc)


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.float32])
def test_features_of_any_precision(dtype):
    query, gallery, *labels = random_case(5)
    query, gallery = ((30 * features).round().clip(-127, 127) for features in (query, gallery))
    exact = retrieval_metrics(query, gallery, *labels)
    stored = retrieval_metrics(query.astype(dtype), gallery.astype(dtype), *labels)
    np.testing.assert_allclose(stored.average_precision, exact.average_precision, atol=1e-9)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_a_matrix_of_distances_scores_as_its_features_do(protocol):
    query, gallery, *labels = random_case(4)
    distances = np.linalg.norm(query[:, None] - gallery, axis=2)
    given = matrix_metrics(distances, *labels, protocol=protocol, distance="re-ranked")
    features = retrieval_metrics(query, gallery, *labels, protocol=protocol, distance="euclidean")
    np.testing.assert_allclose(given.average_precision, features.average_precision, atol=1e-9)
    np.testing.assert_array_equal(given.first_match, features.first_match)
    assert "compared by re-ranked distance" in given.sentence
    with pytest.raises(ValueError, match="NaN or infinity"):
        matrix_metrics(np.where(distances > 3, np.nan, distances), *labels, protocol=protocol)
    with pytest.raises(ValueError, match="distances must be floats of shape"):
        matrix_metrics(distances[0], *labels, protocol=protocol)


def test_the_first_match_is_what_cmc_counts():
    metrics = retrieval_metrics(*random_case(2))
    for rank in (1, 7, 50):
        assert metrics.rank(rank) == np.mean(metrics.first_match[~np.isnan(metrics.first_match)] <= rank)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_one_identity_is_always_found(protocol):
    features = np.random.default_rng(0).normal(size=(8, 4))
    metrics = retrieval_metrics(
        features[:3], features[3:], [1] * 3, [1] * 5, [6] * 3, [1] * 5, protocol=protocol
    )
    assert (metrics.rank1, metrics.mAP, metrics.mINP, metrics.num_valid_queries) == (1, 1, 1, 3)


def test_a_gallery_smaller_than_max_rank():
    metrics = retrieval_metrics(np.eye(3), np.eye(3), [1, 2, 3], [1, 3, 2], protocol="no_camera", max_rank=50)
    assert metrics.cmc.shape == (50,)
    assert metrics.rank(1) == pytest.approx(1 / 3) and metrics.rank(3) == metrics.rank(50) == 1


def test_distances_disagree_on_vectors_of_different_length():
    query, gallery = np.array([[1.0, 0.0]]), np.array([[9.0, 0.0], [1.0, 0.5]])
    arguments = (query, gallery, [1], [1, 2])
    assert retrieval_metrics(*arguments, protocol="no_camera", distance="cosine").rank1 == 1
    assert retrieval_metrics(*arguments, protocol="no_camera", distance="euclidean").rank1 == 0


def test_euclidean_survives_a_large_common_offset():
    query, gallery, *labels = random_case(3)
    near = retrieval_metrics(query, gallery, *labels, distance="euclidean")
    far = retrieval_metrics(query + 100, gallery + 100, *labels, distance="euclidean")
    assert far.mAP == pytest.approx(near.mAP, abs=2e-3)


def test_same_camera_is_taken_out_as_positive_and_not_counted_as_negative():
    # The closest image is the query's own camera; then another person; then the match.
    query = np.array([[1.0, 0.0]])
    gallery = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2]])
    with_cameras = retrieval_metrics(query, gallery, [5], [5, 6, 5], [1], [1, 2, 2])
    assert with_cameras.average_precision.tolist() == [0.5]
    assert (with_cameras.rank1, with_cameras.rank(2), with_cameras.mINP) == (0.0, 1.0, 0.5)
    without = retrieval_metrics(query, gallery, [5], [5, 6, 5], protocol="no_camera")
    assert without.average_precision[0] == pytest.approx((1 + 2 / 3) / 2)


def test_junk_does_not_count_and_distractors_do():
    query, gallery = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 0.1]])
    assert retrieval_metrics(query, gallery, [5], [-1, 5], [1], [2, 2]).rank1 == 1
    assert retrieval_metrics(query, gallery, [5], [0, 5], [1], [2, 2]).rank1 == 0


def test_ties_put_other_people_first():
    embeddings = np.ones((40, 16))
    ids = np.arange(40) % 10
    metrics = retrieval_metrics(embeddings[:10], embeddings, ids[:10], ids, protocol="no_camera", max_rank=40)
    expected = np.mean([n / (36 + n) for n in (1, 2, 3, 4)])
    assert metrics.mAP == pytest.approx(expected)
    assert metrics.rank(36) == 0 and metrics.rank(37) == 1
    assert metrics.mINP == pytest.approx(4 / 40)


def test_queries_without_a_match_count_nowhere():
    query, gallery = np.eye(3), np.eye(3)
    metrics = retrieval_metrics(query, gallery, [1, 2, 9], [1, 2, 3], protocol="no_camera")
    assert metrics.num_valid_queries == 2
    assert metrics.mAP == 1
    assert np.isnan(metrics.average_precision[2])


def test_identities_may_be_text():
    query, gallery, query_ids, gallery_ids, *cameras = random_case(1, lowest=0)
    text = retrieval_metrics(query, gallery, query_ids.astype(str), gallery_ids.astype(str), *cameras)
    numbers = retrieval_metrics(query, gallery, query_ids, gallery_ids, *cameras)
    np.testing.assert_array_equal(text.average_precision, numbers.average_precision)


def test_sentence_states_the_protocol():
    metrics = retrieval_metrics(*random_case(0))
    assert "market1501" in metrics.sentence and "cosine" in metrics.sentence
    assert f"{metrics.num_valid_queries} of 23 queries" in metrics.sentence
    assert f"{metrics.num_gallery} gallery images" in metrics.sentence


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), distance=st.sampled_from(["cosine", "euclidean"]))
def test_order_of_the_gallery_does_not_matter(seed, distance):
    # Few values in few dimensions, so that there are many exact ties.
    random = np.random.default_rng(seed)
    query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras = random_case(seed)
    query, gallery = random.integers(1, 4, (23, 3)), random.integers(1, 4, (180, 3))
    order = random.permutation(180)
    arguments = {"distance": distance}
    one = retrieval_metrics(
        query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras, **arguments
    )
    other = retrieval_metrics(
        query,
        gallery[order],
        query_ids,
        gallery_ids[order],
        query_cameras,
        gallery_cameras[order],
        **arguments,
    )
    np.testing.assert_array_equal(one.average_precision, other.average_precision)
    np.testing.assert_array_equal(one.cmc, other.cmc)
    reference = slow_metrics(
        query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras, "market1501", distance
    )
    assert_agrees(one, *reference)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), distance=st.sampled_from(["cosine", "euclidean"]))
def test_a_perfect_embedding_scores_one(seed, distance):
    _, _, query_ids, gallery_ids, query_cameras, gallery_cameras = random_case(seed)
    centres = np.eye(10)
    metrics = retrieval_metrics(
        centres[query_ids], centres[gallery_ids], query_ids, gallery_ids, query_cameras, gallery_cameras,
        distance=distance,
    )  # fmt: skip
    assert (metrics.rank1, metrics.mAP, metrics.mINP) == (1, 1, 1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), distance=st.sampled_from(["cosine", "euclidean"]))
def test_a_distractor_never_raises_a_score(seed, distance):
    query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras = random_case(seed, lowest=0)
    before = retrieval_metrics(*random_case(seed, lowest=0), distance=distance)
    crowd = np.random.default_rng(seed).normal(size=(5, gallery.shape[1]))
    after = retrieval_metrics(
        query, np.concatenate([gallery, crowd]), query_ids, np.concatenate([gallery_ids, np.full(5, 77)]),
        query_cameras, np.concatenate([gallery_cameras, np.ones(5, int)]), distance=distance,
    )  # fmt: skip
    assert (after.average_precision <= before.average_precision + 1e-12).all()
    assert (after.cmc <= before.cmc).all()
    assert after.mINP <= before.mINP


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery": np.zeros((0, 4)), "gallery_ids": []}, "gallery must hold embeddings"),
        ({"query": np.zeros(4)}, "query must hold embeddings"),
        ({"query": np.full((2, 4), np.nan)}, "2 of 2 query embeddings hold NaN"),
        ({"gallery": np.ones((3, 5))}, "query has 4 dimensions, gallery 5"),
        ({"gallery_ids": [1, 2]}, r"gallery_ids must have shape \(3,\), got \(2,\)"),
        ({"query_cameras": None}, "protocol 'market1501' needs query_cameras"),
        ({"protocol": "market"}, "protocol must be one of market1501, no_camera, .* got 'market'"),
        ({"gallery": np.full((3, 4), "x")}, "gallery must hold embeddings"),
        ({"distance": "manhattan"}, "distance must be one of cosine, euclidean, got 'manhattan'"),
        ({"query_ids": [7, 8]}, "none of 2 queries has a match among 3 gallery images"),
        ({"gallery_cameras": [1, 1, 1]}, "use protocol 'no_camera'"),
        ({"gallery_ids": [-1, -1, -1]}, "junk"),
        ({"gallery_ids": ["1", "2", "3"]}, "must be of one kind"),
        ({"max_rank": 0}, "max_rank must be 1 or more"),
    ],
)
def test_mistakes_are_named(change, message):
    arguments = {
        "query": np.ones((2, 4)),
        "gallery": np.ones((3, 4)),
        "query_ids": [1, 2],
        "gallery_ids": [1, 2, 3],
        "query_cameras": [1, 1],
        "gallery_cameras": [2, 2, 2],
    }
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(**(arguments | change))


def test_rank_outside_the_curve_is_refused():
    metrics = retrieval_metrics(*random_case(0), max_rank=5)
    with pytest.raises(ValueError, match=r"1\.\.5"):
        metrics.rank(6)
