"""Which images are seen together: batches of P identities x K images (Hermans et al. 2017, section 2).

Across modalities, P identities x K visible and K thermal images (Ye et al. 2021, "Deep Learning for Person
Re-identification: A Survey and Outlook", section 4.4).
"""

from collections.abc import Sequence
from math import ceil

import numpy as np

from common.config import ConfigError


def steps_per_epoch(images: int, p: int, k: int) -> int:
    """Number of P x K batches in an epoch: about as many draws as there are images."""
    return max(1, ceil(images / (p * k)))


def check_identities(labels: np.ndarray, p: int) -> None:
    """Raise ConfigError when the labels are of fewer than P identities."""
    identities = len(np.unique(labels))
    if identities < p:
        raise ConfigError(
            f"a batch of P = {p} identities cannot be drawn from {identities} identities: set P to "
            f"{identities} or less, or give a training set with more identities"
        )


def pk_batches(labels: np.ndarray, p: int, k: int, seed: int, epoch: int) -> np.ndarray:
    """Draw the batches of one epoch; every batch holds exactly P identities with K images each.

    An identity with n images is drawn n / K times, rounded up or down at random where that is not a whole
    number or the batches do not come out even, so every image is expected about once an epoch. Only an
    identity with more than its 1 / P share of all images is drawn less: once in every batch. No image repeats
    before all images of its identity were used, and within a group of K only when the identity has fewer than
    K.

    Args:
        labels: Identity of each image, integers (N,).
        p: Identities a batch.
        k: Images of each identity.
        seed: With `epoch`, decides the draw; nothing else does.
        epoch: Number of the epoch.

    Returns:
        Indices into `labels`, int32 (steps_per_epoch(N, p, k), p * k); the K images of an identity are
        neighbours.

    Raises:
        ConfigError: there are fewer than P identities.
    """
    check_identities(labels, p)
    random = np.random.default_rng([seed, epoch])
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    steps = steps_per_epoch(len(labels), p, k)
    draws = _draws_per_identity(counts, steps, p, random)
    images = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
    groups = [_groups(own, number, k, random) for own, number in zip(images, draws, strict=True)]
    batches = np.empty((steps, p, k), dtype=np.int32)
    for step in range(steps):
        for place, identity in enumerate(_choose_identities(draws, steps - step, p, random)):
            draws[identity] -= 1
            batches[step, place] = groups[identity][draws[identity]]
    return batches.reshape(steps, p * k)


def one_modality_identities(labels: np.ndarray, thermal: np.ndarray) -> np.ndarray:
    """Return the identities that `cross_modal_batches` leaves out, for lack of images of one modality.

    Args:
        labels: Identity of each image, integers (N,).
        thermal: Whether each image is thermal, booleans (N,).

    Returns:
        Identities, sorted (M,).
    """
    return np.setxor1d(labels[thermal], labels[~thermal])


def check_cross_modal_identities(labels: np.ndarray, thermal: np.ndarray, p: int) -> None:
    """Raise ConfigError when fewer than P identities have images of both modalities."""
    left_out = one_modality_identities(labels, thermal)
    both = len(np.unique(labels)) - len(left_out)
    if both < p:
        raise ConfigError(
            f"a batch of P = {p} identities with images of both modalities cannot be drawn: {both} identities have "
            f"both, {len(left_out)} have visible or thermal images only"
        )


def cross_modal_steps_per_epoch(labels: np.ndarray, thermal: np.ndarray, p: int, k: int) -> int:
    """Number of batches of `cross_modal_batches`: about as many draws as the modality with more images has of them."""
    counted = ~np.isin(labels, one_modality_identities(labels, thermal))
    return steps_per_epoch(max((counted & thermal).sum(), (counted & ~thermal).sum()), p, k)


def cross_modal_batches(
    labels: np.ndarray, thermal: np.ndarray, p: int, k: int, seed: int, epoch: int
) -> np.ndarray:
    """Draw the batches of one epoch; every batch holds P identities with K visible and K thermal images each.

    Identities of one modality are left out; `one_modality_identities` names them. The others are drawn as in
    `pk_batches`, in proportion to their images of both modalities. An epoch is long enough to see about every image of
    the modality that has more; those of the other come again. No image repeats before all images of its identity and
    modality were used.

    Args:
        labels: Identity of each image, integers (N,).
        thermal: Whether each image is thermal, booleans (N,).
        p: Identities a batch.
        k: Images of each identity and modality.
        seed: With `epoch`, decides the draw; nothing else does.
        epoch: Number of the epoch.

    Returns:
        Indices into `labels`, int32 (steps, 2 * p * k): p * k visible images, then as many thermal ones, where images
        at the same place are of one identity, and the K images of an identity are neighbours.

    Raises:
        ConfigError: fewer than P identities have images of both modalities.
    """
    check_cross_modal_identities(labels, thermal, p)
    paired = np.flatnonzero(~np.isin(labels, one_modality_identities(labels, thermal)))
    _, codes = np.unique(labels[paired], return_inverse=True)
    random = np.random.default_rng([seed, epoch])
    sides = [np.flatnonzero(thermal[paired] == side) for side in (False, True)]
    steps = cross_modal_steps_per_epoch(labels, thermal, p, k)
    draws = _draws_per_identity(np.bincount(codes), steps, p, random)
    groups = [
        [
            _groups(paired[side[codes[side] == code]], number, k, random)
            for code, number in enumerate(draws.tolist())
        ]
        for side in sides
    ]
    batches = np.empty((steps, 2, p, k), dtype=np.int32)
    for step in range(steps):
        for place, identity in enumerate(_choose_identities(draws, steps - step, p, random)):
            draws[identity] -= 1
            batches[step, :, place] = [side[identity][draws[identity]] for side in groups]
    return batches.reshape(steps, 2 * p * k)


def cluster_batches(
    labels: np.ndarray, spread_over: Sequence[np.ndarray], p: int, k: int, steps: int, seed: int, epoch: int
) -> np.ndarray:
    """Draw batches of P clusters with K images each, in which all clusters come equally often, whatever their size.

    As `RandomMultipleGallerySampler` in the code of Cluster Contrast (Dai et al., ACCV 2022): a cluster that took in
    several people is not learned from more often for being large, and the K images of a cluster are spread over its
    cameras and tracks. No cluster comes again before all have come, and no image before all of its cluster have.

    Args:
        labels: Cluster of each image, integers (N,), of P clusters or more.
        spread_over: Tracks, cameras and the like of the images, integers (N,) each; the last counts most.
        p: Clusters a batch.
        k: Images of each cluster.
        steps: Number of batches.
        seed: With `epoch`, decides the draw; nothing else does.
        epoch: Number of the draw.

    Returns:
        Indices into `labels`, int32 (steps, p * k); the K images of a cluster are neighbours.
    """
    random = np.random.default_rng([seed, epoch])
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    clusters = _groups(np.arange(len(counts)), steps, p, random)
    batches = np.empty((steps, p, k), dtype=np.int32)
    images = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
    for cluster, own in enumerate(images):
        places = clusters == cluster
        batches[places] = _groups(own, int(places.sum()), k, random, spread_over)
    return batches.reshape(steps, p * k)


def _draws_per_identity(counts: np.ndarray, steps: int, p: int, random: np.random.Generator) -> np.ndarray:
    """Share steps * P draws in proportion to the images, at most one draw a batch: (identities,) integers."""
    share = np.zeros(len(counts))
    capped = np.zeros(len(counts), dtype=bool)
    while True:
        share[capped] = steps
        free = ~capped
        share[free] = counts[free] * (steps * (p - capped.sum()) / max(1, counts[free].sum()))
        over = free & (share > steps)
        if not over.any():
            break
        capped |= over
    draws = np.floor(share + 1e-9).astype(np.int64)
    # Systematic rounding in random order: each share goes to its floor or ceiling, and the sum is kept.
    order = random.permutation(len(counts))
    fractions = np.maximum(share - draws, 0.0)[order]
    marks = np.floor(np.cumsum(fractions) + random.uniform(1e-6, 1 - 1e-6)).astype(np.int64)
    draws[order] += np.diff(marks, prepend=0)
    return draws


def _choose_identities(draws: np.ndarray, steps_left: int, p: int, random: np.random.Generator) -> np.ndarray:
    """Choose P identities for a batch, at random in proportion to the draws that they still have.

    An identity with as many draws as there are batches left must be in this one; so the last batch comes out
    even.
    """
    with np.errstate(divide="ignore"):
        # Efraimidis and Spirakis 2006: the P largest log(u) / weight are a weighted draw without replacement.
        keys = np.log(random.random(len(draws))) / draws
    keys[draws == steps_left] = np.inf
    return random.permutation(np.argpartition(keys, -p)[-p:])


def _groups(
    images: np.ndarray,
    number: int,
    k: int,
    random: np.random.Generator,
    spread_over: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Return `number` groups of K images of one identity, (number, k)."""
    drawn = np.empty(number * k, dtype=np.int64)
    filled = 0
    while filled < len(drawn):
        deck = random.permutation(images)
        for values in spread_over:  # all first images of a track, then all second ones, and so on
            deck = deck[np.argsort(_occurrence(values[deck]), kind="stable")]
        group_so_far = drawn[filled - filled % k : filled]
        # A new deck begins with the images that the unfinished group does not hold yet.
        times = (deck[:, None] == group_so_far[None, :]).sum(axis=1)
        deck = deck[np.argsort(times, kind="stable")][: len(drawn) - filled]
        drawn[filled : filled + len(deck)] = deck
        filled += len(deck)
    return drawn.reshape(number, k)


def _occurrence(values: np.ndarray) -> np.ndarray:
    """Return how many equal values stand before each, (N,)."""
    order = np.argsort(values, kind="stable")
    result = np.empty(len(values), np.int64)
    result[order] = np.arange(len(values)) - np.searchsorted(values[order], values[order])
    return result
