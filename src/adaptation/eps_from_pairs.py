import numpy as np
import scipy.sparse


def eps_from_pairs(distances: scipy.sparse.csr_array, share: float = 1.6e-3) -> float:
    """Return the mean distance of the closest pairs: an eps for `dbscan` that follows how wide the distances spread.

    The rule and the share of pairs are those of Ge et al., "Mutual Mean-Teaching", ICLR 2020 (1.6e-3 is about the share
    of pairs of one person among 700 people). With other numbers of people another share is right.

    Args:
        distances: Symmetric (N, N), N >= 2, as `jaccard_distance` returns them: what is absent is 1.
        share: Of all pairs, 0 to 1; at least one pair is taken.

    Raises:
        ValueError: there is no pair, or the share is out of its range.
    """
    n = distances.shape[0]
    if n < 2 or not 0 < share <= 1:
        raise ValueError(f"expected 2 images or more and 0 < share <= 1, got {n} and share={share}")
    pairs = scipy.sparse.triu(distances, k=1).data
    wanted = max(1, round(share * n * (n - 1) / 2))
    if wanted >= len(pairs):
        return float((pairs.sum(dtype=float) + wanted - len(pairs)) / wanted)
    return float(np.partition(pairs, wanted - 1)[:wanted].mean(dtype=float))
