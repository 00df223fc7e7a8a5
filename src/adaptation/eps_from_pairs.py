import scipy.sparse


def eps_from_pairs(distances: scipy.sparse.csr_array, each: int) -> float:
    """Return the mean distance of the closest pairs: an eps for `dbscan` that follows how wide the distances spread.

    Pairs of copies, at distance 0, are not counted. The rule is that of Ge et al., "Mutual Mean-Teaching", ICLR 2020,
    who take 1.6e-3 of all pairs: each of the 12,936 images of Market-1501, of which a person has 17, is then in 20.7.
    Of P people about 1 / P of all pairs are of one person, so that a share holds for one P alone; the number of a
    point holds for any.

    Args:
        distances: Symmetric (N, N), as `jaccard_distance` returns them: what is absent is 1.
        each: Pairs that a point is in, in the mean; all pairs are taken where there are fewer, and one at least.

    Raises:
        ValueError: there is no pair.
    """
    n = distances.shape[0]
    pairs = distances.data[distances.data > 0]  # each twice
    number = (n * n - distances.nnz + len(pairs)) // 2
    if not number:
        raise ValueError(f"expected two different images or more, got {n}")
    wanted = 2 * min(max(1, round(each * n / 2)), number)
    if wanted >= len(pairs):
        return float((pairs.sum(dtype=float) + wanted - len(pairs)) / wanted)
    pairs.partition(wanted - 1)
    return float(pairs[:wanted].mean(dtype=float))
