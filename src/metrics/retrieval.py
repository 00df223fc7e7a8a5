"""CMC, mAP and mINP of a query set against a gallery, by counting instead of sorting.

For each gallery image of the query's identity (a positive), the number of other people that come before it
gives its rank. That needs one comparison per pair and no sorted gallery, no query x gallery matrix, and no
compiler.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from src.metrics._protocols import PROTOCOLS, Protocol

_QUERIES_AT_ONCE = 256
_GALLERY_AT_ONCE = 16384
_TIE = 1e-6

T = TypeVar("T")


@dataclass(frozen=True)
class RetrievalMetrics:
    """Result of `retrieval_metrics`; shares in [0, 1].

    Attributes:
        cmc: Share of valid queries with a match among the first 1, 2 ... max_rank, float64 (max_rank,).
        mAP: Mean of `average_precision` over the valid queries.
        mINP: Mean inverse negative penalty (Ye et al., "Deep Learning for Person Re-identification: A Survey
            and Outlook", 2021): positives / rank of the last one.
        average_precision: Of each query, float64 (queries,); NaN where the query has no positive.
        num_valid_queries: Queries with a positive; the others count nowhere.
        num_gallery: Gallery images after junk was taken out.
        protocol: Name of the protocol.
        distance: Name of the distance.
    """

    cmc: np.ndarray
    mAP: float  # noqa: N815
    mINP: float  # noqa: N815
    average_precision: np.ndarray
    num_valid_queries: int
    num_gallery: int
    protocol: str
    distance: str

    @property
    def rank1(self) -> float:
        """Share of queries whose first answer is right."""
        return self.rank(1)

    @property
    def rank5(self) -> float:
        """Share of queries with a right answer among the first five."""
        return self.rank(5)

    @property
    def rank10(self) -> float:
        """Share of queries with a right answer among the first ten."""
        return self.rank(10)

    def rank(self, r: int) -> float:
        """Share of queries with a right answer among the first r, 1 <= r <= max_rank."""
        if not 1 <= r <= len(self.cmc):
            raise ValueError(f"rank must lie in 1..{len(self.cmc)} (max_rank), got {r}")
        return float(self.cmc[r - 1])

    @property
    def sentence(self) -> str:
        """The protocol in one sentence; a number is worth nothing without it."""
        return (
            f"{self.num_valid_queries} of {len(self.average_precision)} queries have a match among "
            f"{self.num_gallery} gallery images, compared by {self.distance} distance; protocol "
            f"{self.protocol}: {PROTOCOLS[self.protocol].rule}."
        )


def retrieval_metrics(
    query: np.ndarray,
    gallery: np.ndarray,
    query_ids: np.ndarray | Sequence[int | str],
    gallery_ids: np.ndarray | Sequence[int | str],
    query_cameras: np.ndarray | Sequence[int] | None = None,
    gallery_cameras: np.ndarray | Sequence[int] | None = None,
    protocol: str = "market1501",
    distance: str = "cosine",
    max_rank: int = 50,
) -> RetrievalMetrics:
    """Score a query set against a gallery.

    Ties are pessimistic: another person at the same distance as a positive, to within the accuracy of
    float32, comes before it. A collapsed network, whose embeddings are all equal, thus scores what it
    deserves.

    Args:
        query: Embeddings, float (queries, D); need not be normalised.
        gallery: Embeddings, float (images, D).
        query_ids: Identities, integers or text (queries,).
        gallery_ids: Identities (images,); the integer -1 is junk.
        query_cameras: Camera numbers (queries,), for protocols that need them.
        gallery_cameras: Camera numbers (images,).
        protocol: `market1501` or `no_camera`.
        distance: `cosine` or `euclidean`.
        max_rank: Length of the CMC curve.

    Raises:
        ValueError: empty or not matching arrays, values that are not finite, an unknown protocol or distance,
            missing cameras, or no query with a positive.
    """
    rules = _one_of("protocol", protocol, PROTOCOLS)
    embed = _one_of("distance", distance, _DISTANCES)
    if max_rank < 1:
        raise ValueError(f"max_rank must be 1 or more, got {max_rank}")
    query, gallery = _checked_embeddings(query, gallery)
    q_ids, q_cameras = _checked_labels("query", query, query_ids, query_cameras, rules, protocol)
    g_ids, g_cameras = _checked_labels("gallery", gallery, gallery_ids, gallery_cameras, rules, protocol)
    if rules.drops_junk and g_ids.dtype.kind in "iu":
        kept = g_ids != -1
        gallery, g_ids, g_cameras = gallery[kept], g_ids[kept], g_cameras[kept]
        if not len(gallery):
            raise ValueError("the gallery holds junk (identity -1) only")
    ranker = _Ranker(*embed(query, gallery), *_codes(q_ids, g_ids), q_cameras, g_cameras, rules)
    ranks = ranker.ranks_of_positives()
    valid = [r for r in ranks if len(r)]
    if not valid:
        raise ValueError(
            f"none of {len(query)} queries has a match among {len(gallery)} gallery images under protocol "
            f"'{protocol}' ({rules.rule}): check that query and gallery name the same people the same way"
            + (
                ", and, if all images have one camera, use protocol 'no_camera'"
                if rules.needs_cameras
                else ""
            )
        )
    first = np.array([r[0] for r in valid])
    precision = [np.mean(np.arange(1, len(r) + 1) / r) if len(r) else np.nan for r in ranks]
    return RetrievalMetrics(
        cmc=(first[:, None] <= np.arange(1, max_rank + 1)).mean(axis=0),
        mAP=float(np.nanmean(precision)),
        mINP=float(np.mean([len(r) / r[-1] for r in valid])),
        average_precision=np.array(precision),
        num_valid_queries=len(valid),
        num_gallery=len(gallery),
        protocol=protocol,
        distance=distance,
    )


@dataclass(frozen=True)
class _Ranker:
    """Closeness is `query @ gallery.T + bias`, larger is closer; differences up to `tie` are none."""

    query: np.ndarray
    gallery: np.ndarray
    bias: np.ndarray
    tie: np.ndarray
    query_codes: np.ndarray
    gallery_codes: np.ndarray
    query_cameras: np.ndarray
    gallery_cameras: np.ndarray
    protocol: Protocol

    def ranks_of_positives(self) -> list[np.ndarray]:
        """Return the ascending ranks (1 = first) of each query's positives, empty where it has none."""
        thresholds = self._thresholds()
        before = [np.zeros(len(t), dtype=np.int64) for t in thresholds]
        for start in range(0, len(self.gallery), _GALLERY_AT_ONCE):
            chunk = slice(start, start + _GALLERY_AT_ONCE)
            for first in range(0, len(self.query), _QUERIES_AT_ONCE):
                block = (
                    self.query[first : first + _QUERIES_AT_ONCE] @ self.gallery[chunk].T + self.bias[chunk]
                )
                for q, row in enumerate(block, start=first):
                    if len(thresholds[q]):
                        before[q] += self._others_before(q, row, chunk, thresholds[q])
        # The closest positive has the highest threshold; positives rank among themselves in that order.
        return [np.arange(1, len(b) + 1) + b[::-1] for b in before]

    def _thresholds(self) -> list[np.ndarray]:
        """Return, for each query, what another person must reach to come before each positive, ascending."""
        by_code = np.argsort(self.gallery_codes, kind="stable")
        starts = np.searchsorted(self.gallery_codes[by_code], self.query_codes, side="left")
        ends = np.searchsorted(self.gallery_codes[by_code], self.query_codes, side="right")
        thresholds = []
        for q, (start, end) in enumerate(zip(starts, ends, strict=True)):
            own = by_code[start:end]
            own = own[~self._excluded(q, own)]
            thresholds.append(np.sort(self.gallery[own] @ self.query[q] + self.bias[own]) - self.tie[q])
        return thresholds

    def _others_before(self, q: int, row: np.ndarray, chunk: slice, thresholds: np.ndarray) -> np.ndarray:
        """Count, for each threshold, the images of other people that reach it: integers (positives,)."""
        row[(self.gallery_codes[chunk] == self.query_codes[q]) | self._excluded(q, chunk)] = -np.inf
        close = row[row >= thresholds[0]]
        return np.array([np.count_nonzero(close >= threshold) for threshold in thresholds])

    def _excluded(self, q: int, images: np.ndarray | slice) -> np.ndarray:
        """Return the mask of gallery images that the protocol takes out for a query: booleans (images,)."""
        codes, cameras = self.gallery_codes[images], self.gallery_cameras[images]
        if self.protocol.excluded is None:
            return np.zeros(len(codes), dtype=bool)
        return self.protocol.excluded(self.query_codes[q], self.query_cameras[q], codes, cameras)


_Embedded = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _cosine(query: np.ndarray, gallery: np.ndarray) -> _Embedded:
    def normalised(x: np.ndarray) -> np.ndarray:
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    no_bias = np.zeros(len(gallery), np.float32)
    return normalised(query), normalised(gallery), no_bias, np.full(len(query), _TIE, np.float32)


def _euclidean(query: np.ndarray, gallery: np.ndarray) -> _Embedded:
    # |q - g|^2 = |q|^2 - 2 (q.g - |g|^2 / 2). Moving both by the gallery's mean changes no distance and keeps
    # the terms small, so that float32 loses less in their difference.
    centre = gallery.mean(axis=0)
    query, gallery = query - centre, gallery - centre
    squares = np.square(gallery).sum(axis=1)
    longest = np.sqrt(squares.max())
    tie = _TIE * (np.linalg.norm(query, axis=1) + longest) * longest
    return query, gallery, -squares / 2, tie.astype(np.float32)


_DISTANCES = {"cosine": _cosine, "euclidean": _euclidean}


def _one_of(what: str, name: str, choices: dict[str, T]) -> T:
    if name not in choices:
        raise ValueError(f"{what} must be one of {', '.join(choices)}, got '{name}'")
    return choices[name]


def _checked_embeddings(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    checked = []
    for name, values in (("query", query), ("gallery", gallery)):
        values = np.asarray(values, dtype=np.float32)
        if values.ndim != 2 or values.size == 0:
            raise ValueError(f"{name} must hold embeddings of shape (images, D), got shape {values.shape}")
        wrong = int((~np.isfinite(values)).any(axis=1).sum())
        if wrong:
            raise ValueError(f"{wrong} of {len(values)} {name} embeddings hold NaN or infinity")
        checked.append(values)
    if checked[0].shape[1] != checked[1].shape[1]:
        raise ValueError(f"query has {checked[0].shape[1]} dimensions, gallery {checked[1].shape[1]}")
    return checked[0], checked[1]


def _checked_labels(
    name: str,
    embeddings: np.ndarray,
    ids: np.ndarray | Sequence[int | str],
    cameras: np.ndarray | Sequence[int] | None,
    rules: Protocol,
    protocol: str,
) -> tuple[np.ndarray, np.ndarray]:
    if cameras is None:
        if rules.needs_cameras:
            raise ValueError(
                f"protocol '{protocol}' needs {name}_cameras; without cameras use protocol 'no_camera'"
            )
        cameras = np.zeros(len(embeddings), dtype=np.int64)
    labels = np.asarray(ids), np.asarray(cameras)
    for what, values in zip(("ids", "cameras"), labels, strict=True):
        if values.shape != (len(embeddings),):
            raise ValueError(f"{name}_{what} must have shape ({len(embeddings)},), got {values.shape}")
    return labels


def _codes(query_ids: np.ndarray, gallery_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the identities, so that comparing them is comparing small integers."""
    if (query_ids.dtype.kind in "iu") != (gallery_ids.dtype.kind in "iu"):
        raise ValueError(
            f"query_ids ({query_ids.dtype}) and gallery_ids ({gallery_ids.dtype}) must be of one kind"
        )
    _, codes = np.unique(np.concatenate([query_ids, gallery_ids]), return_inverse=True)
    codes = codes.astype(np.int32)
    return codes[: len(query_ids)], codes[len(query_ids) :]
