"""RegDB, LLCM, VehicleID and CUHK03 against the definition of each, one query at a time."""

import random
from pathlib import Path

import numpy as np
import pytest

from src.metrics.cuhk03_metrics import cuhk03_metrics
from src.metrics.llcm_metrics import llcm_metrics
from src.metrics.regdb_metrics import regdb_metrics
from src.metrics.retrieval import retrieval_metrics
from src.metrics.trial_metrics import TrialMetrics
from src.metrics.vehicleid_metrics import vehicleid_metrics

GOLDEN = np.load(Path(__file__).parents[2] / "data" / "retrieval.npz")
QUERY, GALLERY = (
    (GOLDEN[side], GOLDEN[f"{side}_ids"], GOLDEN[f"{side}_cams"]) for side in ("query", "gallery")
)


def case(seed=0, visible=140, infrared=90, identities=9):
    generator = np.random.default_rng(seed)

    def side(n):
        return (
            generator.normal(size=(n, 6)),
            generator.integers(0, identities, n),
            generator.integers(1, 4, n),
        )

    return side(visible), side(infrared)


def side_by_side(one, other):
    """Features of both, then their identities, then their cameras."""
    return [part for pair in zip(one, other, strict=True) for part in pair]


def ranked(query, gallery):
    """Return indices of the gallery, closest first."""
    unit = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    return np.argsort(-(unit @ query))


def slow_scores(query, gallery, rank_identities):
    """(features, ids, cameras) of each side -> rank 1, mAP and mINP; the same camera of an identity is out."""
    firsts, precisions, penalties = [], [], []
    for features, identity, camera in zip(*query, strict=True):
        order = [
            int(gallery[1][i])
            for i in ranked(features, gallery[0])
            if not (gallery[1][i] == identity and gallery[2][i] == camera)
        ]
        hits = [rank for rank, other in enumerate(order, start=1) if other == identity]
        if hits:
            firsts.append((list(dict.fromkeys(order)) if rank_identities else order).index(identity) + 1)
            precisions.append(np.mean([n / rank for n, rank in enumerate(hits, start=1)]))
            penalties.append(len(hits) / hits[-1])
    cmc = [np.mean(np.array(firsts) <= rank) for rank in range(1, 21)]
    return np.array(cmc), np.mean(precisions), np.mean(penalties)


def test_regdb_golden_values():
    g = GOLDEN
    sides = (g["query"], g["gallery"], g["query_ids"], g["gallery_ids"])
    metrics = regdb_metrics(*sides)
    np.testing.assert_allclose(metrics.cmc, g["regdb_cmc"], atol=1e-5)
    assert metrics.mAP == pytest.approx(float(g["regdb_mAP"]), abs=1e-5)
    assert metrics.mINP == pytest.approx(float(g["regdb_mINP"]), abs=1e-5)
    back = regdb_metrics(g["gallery"], g["query"], g["gallery_ids"], g["query_ids"], "thermal_to_visible")
    np.testing.assert_array_equal(back.average_precision, metrics.average_precision)
    assert regdb_metrics(*sides, "thermal_to_visible").mAP != metrics.mAP
    with pytest.raises(ValueError, match="direction must be one of visible_to_thermal, thermal_to_visible"):
        regdb_metrics(*sides, "both")


def test_regdb_says_whose_queries_it_scored_in_either_direction():
    generator = np.random.default_rng(3)
    ids = {"visible": generator.integers(0, 5, 30), "thermal": generator.integers(0, 5, 20)}
    features = {side: generator.normal(size=(len(own), 4)) for side, own in ids.items()}
    for direction in ("visible_to_thermal", "thermal_to_visible"):
        metrics = regdb_metrics(*features.values(), *ids.values(), direction)
        own = ids[direction.partition("_")[0]]
        assert metrics.query_codes.shape == metrics.first_match.shape == own.shape
        np.testing.assert_array_equal(
            metrics.query_codes[:, None] == metrics.query_codes, own[:, None] == own
        )


def drawn(ids, cameras, seed):
    """One image per identity and camera, as the published code draws."""
    random.seed(seed)
    keys = sorted(set(zip(ids.tolist(), cameras.tolist(), strict=True)))
    return [random.choice([i for i in range(len(ids)) if (ids[i], cameras[i]) == key]) for key in keys]


def slow_llcm(visible, infrared, direction, variant, trials):
    """CMC, mAP and mINP, means over the trials."""
    scores = []
    for seed in range(trials):
        if direction == "infrared_to_visible":
            chosen = drawn(visible[1], visible[2], seed)
            sides = infrared, tuple(x[chosen] for x in visible)
        else:
            chosen = drawn(infrared[1], infrared[2], seed)
            sides = visible, tuple(x[chosen] for x in infrared)
            sides = sides[::-1] if variant == "published_code" else sides
        scores.append(slow_scores(*sides, rank_identities=True))
    return [np.mean(values, axis=0) for values in zip(*scores, strict=True)]


def slow_vehicleid(features, ids, trials):
    """Rank 1 and mAP of each trial: one image of each identity is drawn, all others search."""
    scores = []
    for seed in range(trials):
        random.seed(seed)
        chosen = [
            random.choice(np.flatnonzero(ids == identity).tolist()) for identity in sorted(set(ids.tolist()))
        ]
        others = [i for i in range(len(ids)) if i not in chosen]
        ranks = [
            [ids[chosen][j] for j in ranked(features[i], features[chosen])].index(ids[i]) + 1 for i in others
        ]
        scores.append((np.mean(np.array(ranks) == 1), np.mean(1 / np.array(ranks))))
    return scores


def slow_cuhk03(query, gallery, trials):
    """Rank 1 of each trial: of every identity the first image, the own one not of the query's camera."""
    features, ids, cameras = gallery
    scores = []
    for seed in range(trials):
        turn, right = np.random.default_rng(seed).permutation(len(ids)), []
        for own, identity, camera in zip(*query, strict=True):
            shown = {}
            for i in turn:
                if ids[i] != identity or cameras[i] != camera:
                    shown.setdefault(ids[i], i)
            if identity in shown:
                images = list(shown.values())
                right.append(ids[images[ranked(own, features[images])[0]]] == identity)
        scores.append(np.mean(right))
    return scores


@pytest.mark.parametrize(
    ("metrics", "rank1", "mean_precision"),
    [
        (lambda: llcm_metrics(*side_by_side(GALLERY, QUERY), trials=2), 0.03, 0.0417386),
        (lambda: cuhk03_metrics(*side_by_side(QUERY, GALLERY), trials=2), 0.03, 0.0349381),
        (lambda: vehicleid_metrics(*GALLERY[:2], trials=2), 0.0775, 0.1510611),
    ],
    ids=["llcm", "cuhk03", "vehicleid"],
)
def test_golden_values(metrics, rank1, mean_precision):
    """Computed once with the references of this file."""
    found = metrics()
    assert (found.rank1, found.mAP) == pytest.approx((rank1, mean_precision), abs=1e-5)


@pytest.mark.parametrize(
    ("direction", "variant", "words"),
    [
        ("infrared_to_visible", "paper", "infrared to visible, galleries drawn"),
        ("visible_to_infrared", "paper", "visible to infrared, galleries drawn"),
        ("visible_to_infrared", "published_code", "visible to infrared, queries drawn, labels swapped"),
    ],
)
def test_llcm_agrees_with_the_definition(direction, variant, words):
    sides = case()
    cmc, mean_precision, penalty = slow_llcm(*sides, direction, variant, 3)
    metrics = llcm_metrics(*side_by_side(*sides), direction=direction, variant=variant, trials=3)
    np.testing.assert_allclose(metrics.cmc, cmc, atol=1e-9)
    assert metrics.mAP == pytest.approx(mean_precision, abs=1e-9)
    assert metrics.mINP == pytest.approx(penalty, abs=1e-9)
    assert words in metrics.sentence


def test_llcm_draws_do_not_depend_on_the_order_of_named_images():
    visible, infrared = case()
    names = np.array([f"{i:04d}.jpg" for i in range(len(visible[0]))])
    order = np.random.default_rng(1).permutation(len(names))

    def scored(order):
        return llcm_metrics(
            visible[0][order], infrared[0], visible[1][order], infrared[1], visible[2][order], infrared[2],
            visible_names=names[order], trials=2,
        )  # fmt: skip

    np.testing.assert_array_equal(scored(order).cmc, scored(np.arange(len(names))).cmc)


@pytest.mark.parametrize("change", [{"direction": "both"}, {"variant": "mine"}, {"trials": 0}])
def test_llcm_mistakes_are_named(change):
    with pytest.raises(ValueError, match="direction must be one of .*variant one of .*trials"):
        llcm_metrics(*side_by_side(*case()), **change)


def test_vehicleid_agrees_with_the_definition():
    (features, ids, _), _ = case()
    scores = slow_vehicleid(features, ids, 4)
    metrics = vehicleid_metrics(features, ids, trials=4)
    assert metrics.rank1 == pytest.approx(np.mean([s[0] for s in scores]), abs=1e-9)
    assert metrics.mAP == pytest.approx(np.mean([s[1] for s in scores]), abs=1e-9)
    assert metrics.spread["rank1"] == pytest.approx(np.std([s[0] for s in scores], ddof=1))
    assert metrics.trials[0].num_gallery == 9
    names = np.array([f"{i:04d}" for i in range(len(ids))])
    order = np.random.default_rng(1).permutation(len(ids))
    assert vehicleid_metrics(features[order], ids[order], names[order], trials=4).mAP == pytest.approx(
        metrics.mAP
    )
    with pytest.raises(ValueError, match="has one image only"):
        vehicleid_metrics(np.eye(3), [1, 2, 3])
    with pytest.raises(ValueError, match="trials must be 1 or more"):
        vehicleid_metrics(features, ids, trials=0)


def test_cuhk03_agrees_with_the_definition(monkeypatch):
    monkeypatch.setattr("src.metrics.cuhk03_metrics.QUERIES_AT_ONCE", 7)
    gallery, query = case()
    metrics = cuhk03_metrics(*side_by_side(query, gallery), trials=3)
    assert [trial.rank1 for trial in metrics.trials] == pytest.approx(slow_cuhk03(query, gallery, 3))


def test_cuhk03_draws_converge_to_their_expectation():
    """The expectation of Rank-1 over draws: each other identity stays behind with the share of its images that do."""
    (gallery, g_ids, g_cameras), (query, q_ids, q_cameras) = case()
    expected, valid = [], 0
    for features, identity, camera in zip(query, q_ids, q_cameras, strict=True):
        near = (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)) @ features
        own = near[(g_ids == identity) & (g_cameras != camera)]
        if not len(own):
            continue
        valid += 1
        others = [near[g_ids == other] for other in set(g_ids.tolist()) - {identity}]
        expected.append(np.mean([np.prod([np.mean(other < mine) for other in others]) for mine in own]))
    arguments = (query, gallery, q_ids, g_ids, q_cameras, g_cameras)
    metrics = cuhk03_metrics(*arguments, trials=300)
    assert metrics.rank1 == pytest.approx(np.mean(expected), abs=0.01)
    assert metrics.rank(9) == 1  # there are nine identities
    assert metrics.trials[0].num_valid_queries == valid
    assert metrics.mAP == pytest.approx(
        slow_scores((query, q_ids, q_cameras), (gallery, g_ids, g_cameras), False)[1]
    )
    assert "single-shot" in metrics.sentence and "drawn" in metrics.sentence


def test_cuhk03_does_not_draw_from_the_query_camera():
    # The query's own camera holds its copy, which would always win; the other camera holds a poor view.
    query, gallery = np.array([[1.0, 0, 0]]), np.array([[1.0, 0, 0], [0, 1, 0], [0.5, 0.5, 0]])
    metrics = cuhk03_metrics(query, gallery, [1], [1, 1, 2], [1], [1, 2, 2])
    assert metrics.rank1 == 0 and metrics.rank(2) == 1 and metrics.mAP == 0.5


def test_cuhk03_draws_belong_to_the_images():
    (gallery, g_ids, g_cameras), (query, q_ids, q_cameras) = case()
    names = np.array([f"{i:04d}.png" for i in range(len(gallery))])
    order = np.random.default_rng(1).permutation(len(names))
    one = cuhk03_metrics(query, gallery, q_ids, g_ids, q_cameras, g_cameras, names)
    other = cuhk03_metrics(
        query, gallery[order], q_ids, g_ids[order], q_cameras, g_cameras[order], names[order]
    )
    np.testing.assert_array_equal(one.cmc, other.cmc)
    assert one.spread["rank1"] > 0 and one.spread["mAP"] == 0


def test_cuhk03_with_one_image_per_identity_is_plain_retrieval():
    generator = np.random.default_rng(0)
    query, gallery, ids = generator.normal(size=(30, 5)), generator.normal(size=(30, 5)), np.arange(30)
    cameras = np.ones(30, int), np.full(30, 2)
    plain = retrieval_metrics(query, gallery, ids, ids, *cameras)
    np.testing.assert_allclose(cuhk03_metrics(query, gallery, ids, ids, *cameras).cmc, plain.cmc)


def test_trials_of_different_protocols_do_not_mix():
    arguments = (np.eye(3), np.eye(3), [1, 2, 3], [1, 2, 3])
    one, other = (retrieval_metrics(*arguments, protocol=name) for name in ("no_camera", "regdb"))
    with pytest.raises(ValueError, match="trials must be of one protocol"):
        TrialMetrics.of([one, other], "2 splits")
    with pytest.raises(ValueError, match="trials must be of one protocol"):
        TrialMetrics.of([], "no splits")
    assert TrialMetrics.of([one], "1 split").spread == {"rank1": 0, "mAP": 0, "mINP": 0}
    assert TrialMetrics.of([one, one], "2 splits").rank(5) == 1
