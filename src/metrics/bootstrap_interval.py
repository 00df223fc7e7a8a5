import numpy as np

from src.metrics._score import Ids

_AT_ONCE = 100


def bootstrap_interval(
    values: np.ndarray, identities: Ids, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile confidence interval of a mean over queries (Efron, 1979).

    Identities are drawn with replacement, each with all of its queries: queries of one person share their luck, and
    drawing them one by one would call a test set larger than it is.

    Args:
        values: Of each query, NaN where it has none, float (queries,): `average_precision` for mAP,
            `first_match <= 1` as floats for Rank-1 (NaN where `first_match` is).
        identities: Of each query (queries,).
        level: Share of samples inside the interval.
        samples: Number of samples.
        seed: Of the draws.

    Returns:
        Lower and upper bound.

    Raises:
        ValueError: lengths differ, the level is not between 0 and 1, or fewer than two identities have a value.
    """
    values, names = np.asarray(values, np.float64), np.asarray(identities)
    if values.ndim != 1 or values.shape != names.shape or not 0 < level < 1 or samples < 1:
        raise ValueError(
            f"expected values and identities (queries,), 0 < level < 1 and samples >= 1, got {values.shape}, "
            f"{names.shape}, {level} and {samples}"
        )
    valid = ~np.isnan(values)
    people, codes = np.unique(names[valid], return_inverse=True)
    if len(people) < 2:
        raise ValueError(f"an interval needs two identities with a value or more, got {len(people)}")
    sums, counts = np.bincount(codes, values[valid]), np.bincount(codes)
    random = np.random.default_rng(seed)
    means = []
    for start in range(0, samples, _AT_ONCE):
        drawn = random.integers(len(people), size=(min(_AT_ONCE, samples - start), len(people)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
