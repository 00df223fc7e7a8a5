"""How certain a paired difference between two ways of training is."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

_DRAWS = 4000


def paired_t(differences: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of differences, a seed each, by Student's t."""
    values = np.asarray(differences)
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - reach), float(values.mean() + reach)


def bootstrap(
    differences: Sequence[np.ndarray], identities: np.ndarray, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a mean difference over queries, drawing seeds and identities again and again.

    Args:
        differences: Of each query (Q,), an array a seed; NaN where a query counts nowhere.
        identities: Of the queries (Q,); all queries of one come together.
        seed: Of the draws.
    """
    _, codes = np.unique(identities, return_inverse=True)
    table = np.stack(differences)  # (S, Q)
    known = ~np.isnan(table[0])
    sums = np.stack([np.bincount(codes[known], row[known], codes.max() + 1) for row in table])  # (S, I)
    counts = np.bincount(codes[known], minlength=codes.max() + 1)  # (I,)
    random = np.random.default_rng(seed)
    seeds, people = sums.shape
    of_seed = random.multinomial(seeds, np.full(seeds, 1 / seeds), _DRAWS) / seeds
    of_person = random.multinomial(people, np.full(people, 1 / people), _DRAWS)
    means = ((of_seed @ sums) * of_person).sum(axis=1) / np.maximum(of_person @ counts, 1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
