"""Rank the right answers of each query by counting what comes before them: exact, in blocks, without indices.

For each gallery image of the query's identity (a positive), the number of other people's images that are at least as
close gives its rank. Counting needs their closeness in order, but not who they are: sorting float32 values is several
times faster than sorting indices by them, and a block can be forgotten once it is counted.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

from src.metrics._closeness import GALLERY_AT_ONCE, QUERIES_AT_ONCE, Closeness
from src.metrics._protocols import Protocol

WORKERS = min(os.cpu_count() or 1, 8)


@dataclass(frozen=True)
class Labels:
    """Identities, numbered from 0 over both sets, cameras, and which gallery images are junk."""

    query_codes: np.ndarray
    gallery_codes: np.ndarray
    query_cameras: np.ndarray
    gallery_cameras: np.ndarray
    junk: np.ndarray


@dataclass(frozen=True)
class Ranking:
    """What ranking found, of each query (queries,); NaN where a query has no positive.

    Attributes:
        average_precision: Mean over the positives of precision at their rank.
        inverse_penalty: Positives / rank of the last one.
        first: Rank of the first right answer, from 1.
        own: Closeness that another person must reach to come before the closest positive.
        other: Closeness of the closest image of another person; -inf where there is none.
    """

    average_precision: np.ndarray
    inverse_penalty: np.ndarray
    first: np.ndarray
    own: np.ndarray
    other: np.ndarray


def rank(
    closeness: Closeness, labels: Labels, rules: Protocol, queries: np.ndarray, images: np.ndarray
) -> Ranking:
    """Rank the positives of some queries among some images.

    Args:
        closeness: Between all queries and all images.
        labels: Of all queries and images.
        rules: What counts.
        queries: Indices.
        images: Indices.
    """
    fields = [np.full(len(queries), np.nan) for _ in range(5)]
    with one_blas_thread():
        for part, seen in views(labels, rules, queries, images):
            found = _rank_view(closeness, labels, rules, queries[part], seen)
            for field, values in zip(fields, found, strict=True):
                field[part] = values
    return Ranking(*fields)


def one_blas_thread() -> AbstractContextManager[object]:
    """Limit BLAS to the thread that calls it: its own wait for one another, and a core per block scales better."""
    limit: AbstractContextManager[object] = _blas().limit(limits=1, user_api="blas")
    return limit


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def views(
    labels: Labels, rules: Protocol, queries: np.ndarray, images: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (positions of queries that see the same gallery, indices of that gallery)."""
    cameras = labels.query_cameras[queries]
    usual = ~np.isin(cameras, list(rules.hidden))
    if usual.any():
        yield np.flatnonzero(usual), images
    for camera, hidden in rules.hidden.items():
        if (cameras == camera).any():
            seen = images[~np.isin(labels.gallery_cameras[images], hidden)]
            yield np.flatnonzero(cameras == camera), seen


def _rank_view(
    closeness: Closeness, labels: Labels, rules: Protocol, queries: np.ndarray, images: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return the fields of `Ranking` of queries that all see the same images."""
    order = np.argsort(labels.query_codes[queries], kind="stable")
    queries = queries[order]
    by_code = np.argsort(labels.gallery_codes[images], kind="stable")
    if rules.identities_ranked:  # the images of an identity must be neighbours
        images, by_code = images[by_code], np.arange(len(images))
    codes = labels.gallery_codes[images]
    own_start = np.searchsorted(codes[by_code], labels.query_codes[queries], side="left")
    own_end = np.searchsorted(codes[by_code], labels.query_codes[queries], side="right")
    thresholds, counts = _thresholds(closeness, labels, rules, queries, images[by_code], own_start, own_end)
    high = np.cumsum(counts)
    low = high - counts
    own = np.full(len(queries), np.nan, thresholds.dtype)
    own[counts > 0] = thresholds[high[counts > 0] - 1]

    before = np.zeros(len(thresholds), np.int64)
    people_before = np.zeros(len(queries), np.int64)
    other = np.full(len(queries), -np.inf, thresholds.dtype)

    def count(part: slice) -> None:
        block = against(queries[part])
        rows, columns = _pairs(own_start[part], own_end[part])
        columns = by_code[columns]
        inside = (start <= columns) & (columns < end)
        block[rows[inside], columns[inside] - start] = -np.inf
        if rules.identities_ranked:
            closest = np.maximum.reduceat(block, people, axis=1)
            people_before[part] += np.count_nonzero(closest >= own[part, None], axis=1)
        block.sort(axis=1)
        np.maximum(other[part], block[:, -1], out=other[part])
        for row, a, b in zip(block, low[part].tolist(), high[part].tolist(), strict=True):
            if b > a:
                before[a:b] += len(row) - row.searchsorted(thresholds[a:b])

    parts = [slice(i, i + QUERIES_AT_ONCE) for i in range(0, len(queries), QUERIES_AT_ONCE)]
    with ThreadPoolExecutor(WORKERS) as pool:
        for start, end in _gallery_chunks(codes, rules.identities_ranked):
            people = np.flatnonzero(np.diff(codes[start:end], prepend=-1))
            against = closeness.against(images[start:end])
            list(pool.map(count, parts))

    # Thresholds ascend: the last positive of a query is its closest and comes first among its own.
    ranks = np.repeat(high, counts) - np.arange(len(before)) + before
    results = [np.full(len(queries), np.nan) for _ in range(3)]
    found = counts > 0
    precision = (ranks - before) / ranks
    sums = np.bincount(np.repeat(np.arange(len(queries)), counts), precision, len(queries))
    results[0][found] = sums[found] / counts[found]
    results[1][found] = counts[found] / ranks[low[found]]
    results[2][found] = people_before[found] + 1 if rules.identities_ranked else ranks[high[found] - 1]
    back = np.argsort(order)
    return tuple(values[back] for values in (*results, own, other))


def _thresholds(
    closeness: Closeness,
    labels: Labels,
    rules: Protocol,
    queries: np.ndarray,
    images: np.ndarray,
    own_start: np.ndarray,
    own_end: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what another person must reach to come before each positive, and the number of positives per query.

    The thresholds of each query ascend, and follow those of the query before: float32 (all positives,).
    """
    counts = np.zeros(len(queries), np.int64)
    flat = []
    firsts = np.flatnonzero(np.diff(labels.query_codes[queries], prepend=-1))
    for first, last in zip(firsts, [*firsts[1:], len(queries)], strict=True):
        same, own = queries[first:last], images[own_start[first] : own_end[first]]
        if not len(own):
            continue
        values = closeness.against(own)(same)
        values -= closeness.tie[same, None]
        if rules.drops_same_camera:
            values[labels.query_cameras[same, None] == labels.gallery_cameras[own]] = np.inf
        values.sort(axis=1)
        counts[first:last] = np.count_nonzero(values < np.inf, axis=1)
        flat.append(values[values < np.inf])
    return np.concatenate(flat) if flat else np.zeros(0, np.float32), counts


def _pairs(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of the cells starts[row] ... ends[row] - 1, row by row."""
    sizes = ends - starts
    rows = np.repeat(np.arange(len(sizes)), sizes)
    return rows, np.arange(len(rows)) + np.repeat(ends - np.cumsum(sizes), sizes)


def _gallery_chunks(codes: np.ndarray, whole_identities: bool) -> Iterator[tuple[int, int]]:
    """Yield the bounds of chunks of the gallery; if asked, cut between identities, which must be sorted."""
    if not len(codes):
        return
    cuts = np.arange(0, len(codes), GALLERY_AT_ONCE)
    if whole_identities:
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        cuts = np.unique(starts[np.searchsorted(starts, cuts, side="right") - 1])
    yield from zip(cuts.tolist(), [*cuts[1:].tolist(), len(codes)], strict=True)
