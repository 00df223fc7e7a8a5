import numpy as np
import pytest

from src.metrics.breakdown import breakdown
from src.metrics.pair_breakdown import pair_breakdown
from src.metrics.retrieval import retrieval_metrics
from src.metrics.value_bins import value_bins


def case(seed=0):
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(40, 5)),
        random.normal(size=(150, 5)),
        random.integers(0, 9, 40),
        random.integers(-1, 8, 150),
        random.integers(1, 4, 40),
        random.integers(1, 4, 150),
    )


def test_groups_of_queries_add_up_to_the_whole():
    metrics = retrieval_metrics(*case())
    cameras = case()[4]
    groups = breakdown(metrics, cameras)
    assert list(groups) == [1, 2, 3]
    assert sum(group.num_queries for group in groups.values()) == metrics.num_valid_queries < 40
    for name in ("rank1", "mAP"):
        mean = np.average(
            [getattr(g, name) for g in groups.values()], weights=[g.num_queries for g in groups.values()]
        )
        assert mean == pytest.approx(getattr(metrics, name))
    query, gallery, q_ids, g_ids, _, g_cameras = case()
    own = cameras == 2
    alone = retrieval_metrics(query[own], gallery, q_ids[own], g_ids, cameras[own], g_cameras)
    assert groups[2].mAP == pytest.approx(alone.mAP) and groups[2].rank1 == pytest.approx(alone.rank1)
    with pytest.raises(ValueError, match=r"groups must have shape \(40,\), got \(3,\)"):
        breakdown(metrics, [1, 2, 3])


def test_a_group_without_a_valid_query_is_absent():
    metrics = retrieval_metrics(np.eye(3), np.eye(3), [1, 2, 9], [1, 2, 3], protocol="no_camera")
    assert list(breakdown(metrics, ["day", "day", "night"])) == ["day"]


def test_pairs_are_scored_as_if_they_were_alone():
    query, gallery, q_ids, g_ids, q_cameras, g_cameras = case()
    pairs = pair_breakdown(*case(), q_cameras, g_cameras)
    assert list(pairs) == [(a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b]
    for (a, b), metrics in pairs.items():
        own, other = q_cameras == a, g_cameras == b
        alone = retrieval_metrics(
            query[own], gallery[other], q_ids[own], g_ids[other], q_cameras[own], g_cameras[other]
        )
        assert metrics.mAP == pytest.approx(alone.mAP) and metrics.num_gallery == alone.num_gallery
        np.testing.assert_array_equal(metrics.cmc, alone.cmc)


def test_pairs_of_modalities_may_be_text():
    query, gallery, q_ids, g_ids, *_ = case()
    modality = np.array(["visible", "infrared"])
    pairs = pair_breakdown(
        query, gallery, q_ids, g_ids, None, None, modality[np.arange(40) % 2], modality[np.arange(150) % 2],
        protocol="no_camera",
    )  # fmt: skip
    assert list(pairs)[0] == ("infrared", "infrared") and len(pairs) == 4
    with pytest.raises(ValueError, match=r"query_groups must have shape \(40,\), got \(1,\)"):
        pair_breakdown(query, gallery, q_ids, g_ids, None, None, ["a"], modality, protocol="no_camera")


def test_bins_by_edges():
    bins = value_bins([0.1, 0.35, 0.2, 0.9, 0.6], [0.35, 0.6])
    assert bins.tolist() == ["1: < 0.35", "2: 0.35 to < 0.6", "1: < 0.35", "3: >= 0.6", "3: >= 0.6"]


def test_bins_by_quantiles():
    values = np.random.default_rng(0).random(300)
    names, counts = np.unique(value_bins(values), return_counts=True)
    assert counts.tolist() == [100, 100, 100]
    assert [name[0] for name in names] == ["1", "2", "3"]
    assert (value_bins(values) == names[0]).tolist() == (values < np.quantile(values, 1 / 3)).tolist()
    assert value_bins([4.0, 4.0, 4.0]).tolist() == ["1: all"] * 3
    assert len(set(value_bins(np.arange(100), count=12).tolist())) == 12


@pytest.mark.parametrize(("values", "edges"), [([1, np.nan], None), ([[1.0]], None), ([1.0], [2, 1])])
def test_mistakes_in_bins_are_named(values, edges):
    with pytest.raises(ValueError, match="finite numbers|must ascend"):
        value_bins(values, edges)
