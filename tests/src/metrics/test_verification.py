import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from src.metrics import _closeness
from src.metrics import verification_pairs as module
from src.metrics.operating_point import OperatingPoint
from src.metrics.verification import Verification
from src.metrics.verification_pairs import verification_pairs


def scores(seed=0, genuine=400, impostor=5000, digits=3):
    random = np.random.default_rng(seed)
    return random.normal(0.4, 0.15, genuine).round(digits), random.normal(0.9, 0.15, impostor).round(digits)


def slow_rates(genuine, impostor, threshold):
    return np.mean([d <= threshold for d in impostor]), np.mean([d > threshold for d in genuine])


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("digits", [1, 3])
def test_tar_agrees_with_a_roc_curve_and_with_the_definition(rate, digits):
    genuine, impostor = scores(digits=digits)
    verification = Verification(genuine, impostor)
    labels = np.repeat([1, 0], [len(genuine), len(impostor)])
    false, true, _ = roc_curve(labels, -np.concatenate([genuine, impostor]), drop_intermediate=False)
    assert verification.tar(rate) == pytest.approx(true[false <= rate].max())
    threshold = verification.threshold_at(rate)
    fmr, fnmr = slow_rates(genuine, impostor, threshold)
    assert fmr <= rate
    assert verification.false_match_rate(threshold) == pytest.approx(fmr)
    assert verification.false_non_match_rate(threshold) == pytest.approx(fnmr)


@given(seed=st.integers(0, 10**6), digits=st.integers(1, 4))
def test_the_equal_error_rate_is_where_the_rates_differ_least(seed, digits):
    genuine, impostor = scores(seed, 60, 90, digits)
    verification = Verification(genuine, impostor)
    candidates = [slow_rates(genuine, impostor, t) for t in np.unique(np.concatenate([genuine, impostor]))]
    least = min(abs(fmr - fnmr) for fmr, fnmr in candidates)
    rates = slow_rates(genuine, impostor, verification.equal_error_threshold)
    assert abs(rates[0] - rates[1]) == pytest.approx(least)
    assert verification.equal_error_rate == pytest.approx(np.mean(rates))


def test_separate_and_equal_scores():
    apart = Verification(np.array([0.1, 0.2]), np.linspace(0.5, 1, 100))
    assert apart.equal_error_rate == 0 and apart.tar(0.1) == 1
    alike = Verification(np.full(50, 0.5), np.full(100, 0.5))
    assert alike.tar(0.1) == 0  # a tie accepts all impostors, so it accepts none
    assert alike.tar(1.0) == 1
    assert alike.equal_error_rate == pytest.approx(0.5)


def test_a_rate_that_the_pairs_cannot_support_is_refused():
    verification = Verification(*scores(impostor=9_999))
    assert not verification.supports(1e-3)
    with pytest.raises(ValueError, match=r"0.001 needs 10,000 impostor pairs .* there are 9,999"):
        verification.tar(1e-3)
    assert Verification(*scores(impostor=10_000)).supports(1e-3)
    with pytest.raises(ValueError, match="must lie in 0..1"):
        verification.tar(0)


def test_the_roc_curve_starts_at_the_lowest_rate_that_is_supported():
    verification = Verification(*scores())
    fmr, tar = verification.roc(50)
    assert fmr[0] == pytest.approx(10 / 5000) and fmr[-1] == 1 and len(fmr) == 50
    assert (np.diff(tar) >= 0).all() and tar[-1] == 1
    assert tar[20] == verification.tar(fmr[20])


@pytest.mark.parametrize(
    ("genuine", "impostor", "message"),
    [
        ([], [0.5], "genuine must be float distances"),
        ([0.5], [[0.5]], "impostor must be float distances"),
        ([0.5], [np.nan], "impostor distances hold NaN"),
    ],
)
def test_mistakes_are_named(genuine, impostor, message):
    with pytest.raises(ValueError, match=message):
        Verification(np.array(genuine, float), np.array(impostor, float))


def test_the_operating_point_is_chosen_on_validation_data():
    validation, test = Verification(*scores(0)), Verification(*scores(1))
    point = OperatingPoint.chosen(validation, test)
    assert point.threshold == validation.threshold_at(1e-2)
    assert (
        point.false_match_rate
        == test.false_match_rate(point.threshold)
        != validation.false_match_rate(point.threshold)
    )
    assert point.false_non_match_rate == test.false_non_match_rate(point.threshold)
    assert point.rule == "false match rate 0.01 on 5,000 impostor pairs of the validation data"
    few = Verification(*scores(0, impostor=500))
    assert OperatingPoint.chosen(few, test).rule.startswith("equal error rate on 500")
    with pytest.raises(ValueError, match="0.001 needs 10,000 impostor pairs"):
        OperatingPoint.chosen(validation, test, fmr=1e-3)


def pairs_case(seed=0):
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(30, 5)),
        random.normal(size=(80, 5)),
        random.integers(0, 6, 30),
        random.integers(-1, 6, 80),
        random.choice([3, 6], 30),
        random.choice([1, 2, 3], 80),
    )


@pytest.mark.parametrize("protocol", ["market1501", "no_camera", "sysu_mm01", "llcm"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_pairs_agree_with_the_definition(protocol, distance, monkeypatch):
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", 7)
    monkeypatch.setattr(_closeness, "GALLERY_AT_ONCE", 11)
    genuine, impostor = [], []
    for q, q_id, q_camera in zip(*pairs_case()[::2], strict=True):
        for g, g_id, g_camera in zip(*pairs_case()[1::2], strict=True):
            same = q_id == g_id
            if protocol == "market1501" and g_id == -1:
                continue
            if protocol in ("market1501", "llcm") and same and q_camera == g_camera:
                continue
            if protocol == "sysu_mm01" and q_camera == 3 and g_camera == 2:
                continue
            cosine = q @ g / np.linalg.norm(q) / np.linalg.norm(g)
            far = 1 - cosine if distance == "cosine" else np.linalg.norm(q - g)
            (genuine if same else impostor).append(far)
    pairs = verification_pairs(*pairs_case(), protocol=protocol, distance=distance)
    for found, expected in zip(pairs, (genuine, impostor), strict=True):
        np.testing.assert_allclose(np.sort(found), np.sort(expected), atol=1e-6)


def test_a_sample_of_impostors_is_fair():
    random = np.random.default_rng(0)
    query, gallery = random.normal(size=(300, 4)), random.normal(size=(700, 4))
    ids = np.arange(300) % 50, np.arange(700) % 50
    arguments = (query, gallery, *ids)
    genuine, impostor = verification_pairs(*arguments, protocol="no_camera")
    assert len(impostor) == 300 * 700 - 300 * 14
    same, some = verification_pairs(*arguments, protocol="no_camera", max_impostors=20_000, seed=1)
    np.testing.assert_array_equal(same, genuine)
    assert len(some) == pytest.approx(20_000 * 49 / 50, rel=0.03)
    assert np.isin(some, impostor).all()
    assert some.mean() == pytest.approx(impostor.mean(), abs=0.02)
    assert not np.array_equal(
        some, verification_pairs(*arguments, protocol="no_camera", max_impostors=20_000)[1]
    )


def test_sets_without_pairs_are_refused():
    with pytest.raises(ValueError, match="leaves no genuine pair of 2 queries and 2 images"):
        verification_pairs(np.eye(2), np.eye(2), [1, 2], [3, 4], protocol="no_camera")
    with pytest.raises(ValueError, match="leaves no genuine pair"):  # nothing is seen at all
        verification_pairs(np.eye(2), np.eye(2), [1, 2], [1, 2], [3, 3], [2, 2], protocol="sysu_mm01")
    with pytest.raises(ValueError, match="leaves no impostor pair"):
        verification_pairs(np.eye(2), np.eye(2), [1, 1], [1, 1], protocol="no_camera")
