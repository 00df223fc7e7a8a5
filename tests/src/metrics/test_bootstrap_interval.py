import numpy as np
import pytest

from src.metrics.bootstrap_interval import bootstrap_interval


def slow_interval(values, identities, level, samples, seed):
    random = np.random.default_rng(seed)
    people = sorted({i for i, v in zip(identities, values, strict=True) if not np.isnan(v)})
    means = []
    for _ in range(samples):
        drawn = random.choice(people, size=len(people))
        chosen = [v for person in drawn for i, v in zip(identities, values, strict=True) if i == person]
        means.append(np.nanmean(chosen))
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2])


def test_agrees_with_the_definition():
    random = np.random.default_rng(0)
    values, identities = random.random(60), random.integers(0, 12, 60)
    values[::7] = np.nan
    found = bootstrap_interval(values, identities, seed=1)
    np.testing.assert_allclose(found, slow_interval(values, identities, 0.95, 2000, 1), atol=1e-9)
    assert found == bootstrap_interval(values, identities, seed=1) != bootstrap_interval(values, identities)
    wide, narrow = bootstrap_interval(values, identities, 0.99), bootstrap_interval(values, identities, 0.5)
    assert wide[0] < narrow[0] < np.nanmean(values) < narrow[1] < wide[1]


def test_golden_values():
    """Computed once with the reference above."""
    found = bootstrap_interval(np.linspace(0, 1, 12) ** 2, np.arange(12) // 3)
    assert found == pytest.approx((0.0757576, 0.6584022), abs=1e-6)


def test_queries_of_one_person_do_not_count_as_several():
    """Ten copies of every query tell nothing new."""
    values = np.random.default_rng(0).random(30)
    once = bootstrap_interval(values, np.arange(30))
    copies = bootstrap_interval(np.tile(values, 10), np.tile(np.arange(30), 10))
    np.testing.assert_allclose(once, copies)


def test_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        people = random.random(40)
        values = (random.random((40, 5)) < people[:, None]).astype(float).ravel()
        low, high = bootstrap_interval(values, np.repeat(np.arange(40), 5), 0.9, samples=300)
        inside += low <= 0.5 <= high
    assert 0.83 <= inside / 200 <= 0.97


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 1.0], ["a", "a"]), "two identities with a value or more, got 1"),
        (([0.5, np.nan], ["a", "b"]), "got 1"),
        (([0.5, 1.0], ["a"]), r"got \(2,\), \(1,\)"),
        (([0.5, 1.0], ["a", "b"], 1.0), "0 < level < 1"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(*arguments)
