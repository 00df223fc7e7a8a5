import scipy.sparse


def eps_from_pairs(distances: scipy.sparse.csr_array, share: float = 1.6e-3) -> float:
    """Return the mean distance of the closest pairs: an eps for `dbscan` that follows how wide the distances spread.

    Pairs of copies, at distance 0, are not counted. The rule and the share are those of Ge et al., "Mutual
    Mean-Teaching", ICLR 2020; 1.6e-3 is about the share of pairs of one person among 700 people, and with other numbers
    of people another share is right.

    Args:
        distances: Symmetric (N, N), as `jaccard_distance` returns them: what is absent is 1.
        share: Of all pairs, 0 to 1; at least one pair is taken.

    Raises:
        ValueError: there is no pair, or the share is out of its range.
    """
    n = distances.shape[0]
    pairs = distances.data[distances.data > 0]  # each twice
    number = (n * n - distances.nnz + len(pairs)) // 2
    if not number or not 0 < share <= 1:
        raise ValueError(
            f"expected two different images or more and 0 < share <= 1, got {n} and share={share}"
        )
    wanted = 2 * max(1, round(share * number))
    if wanted >= len(pairs):
        return float((pairs.sum(dtype=float) + wanted - len(pairs)) / wanted)
    pairs.partition(wanted - 1)
    return float(pairs[:wanted].mean(dtype=float))
