"""From closeness and labels to CMC, mAP and mINP; every protocol's function ends here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from src.metrics._closeness import Closeness
from src.metrics._protocols import PROTOCOLS, Protocol
from src.metrics._ranking import Labels, rank

DISTANCES = {"cosine": "cosine", "euclidean": "euclidean"}

T = TypeVar("T")
Ids = np.ndarray | Sequence[int | str]
Cameras = np.ndarray | Sequence[int] | None


@dataclass(frozen=True)
class RetrievalMetrics:
    """Scores of a query set against a gallery; shares in [0, 1].

    Attributes:
        cmc: Share of valid queries with a match among the first 1, 2 ... max_rank, float64 (max_rank,). Ranks
            beyond the gallery find what the whole gallery finds.
        mAP: Mean of `average_precision` over the valid queries.
        mINP: Mean inverse negative penalty (Ye et al., "Deep Learning for Person Re-identification: A Survey
            and Outlook", 2021): positives / rank of the last one.
        average_precision: Of each query, float64 (queries,); NaN where the query has no positive.
        first_match: Rank of each query's first right answer, from 1, float64 (queries,); NaN where it has none.
        query_codes: Number of each query's identity, integers (queries,). With it, nobody needs to know which images
            a protocol takes for queries.
        num_valid_queries: Queries with a positive; the others count nowhere.
        num_gallery: Gallery images after junk was taken out.
        protocol: Name of the protocol.
        distance: Name of the distance.
        rule: How the protocol counts, as the end of a sentence.
    """

    cmc: np.ndarray
    mAP: float  # noqa: N815
    mINP: float  # noqa: N815
    average_precision: np.ndarray
    first_match: np.ndarray
    query_codes: np.ndarray
    num_valid_queries: int
    num_gallery: int
    protocol: str
    distance: str
    rule: str

    @property
    def rank1(self) -> float:
        """Share of queries whose first answer is right."""
        return self.rank(1)

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
            f"{self.protocol}: {self.rule}."
        )


def score(
    closeness: Closeness,
    labels: Labels,
    protocol: str,
    distance: str,
    max_rank: int,
    queries: np.ndarray | None = None,
    images: np.ndarray | None = None,
) -> RetrievalMetrics:
    """Score queries (indices; all) against gallery images (indices; all but junk).

    Raises:
        ValueError: max_rank is below 1, the gallery is junk only, or no query has a positive.
    """
    queries = np.arange(len(labels.query_codes)) if queries is None else queries
    images = not_junk(labels, PROTOCOLS[protocol]) if images is None else images
    metrics = score_if_any(closeness, labels, protocol, distance, max_rank, queries, images)
    if metrics is None:
        raise ValueError(no_match(len(queries), len(images), protocol))
    return metrics


def score_if_any(
    closeness: Closeness,
    labels: Labels,
    protocol: str,
    distance: str,
    max_rank: int,
    queries: np.ndarray,
    images: np.ndarray,
) -> RetrievalMetrics | None:
    """As `score`, but None where no query has a positive."""
    if max_rank < 1:
        raise ValueError(f"max_rank must be 1 or more, got {max_rank}")
    rules = PROTOCOLS[protocol]
    ranking = rank(closeness, labels, rules, queries, images)
    valid = ~np.isnan(ranking.first)
    if not valid.any():
        return None
    return RetrievalMetrics(
        cmc=(ranking.first[valid, None] <= np.arange(1, max_rank + 1)).mean(axis=0),
        mAP=float(ranking.average_precision[valid].mean()),
        mINP=float(ranking.inverse_penalty[valid].mean()),
        average_precision=ranking.average_precision,
        first_match=ranking.first,
        query_codes=labels.query_codes[queries],
        num_valid_queries=int(valid.sum()),
        num_gallery=len(images),
        protocol=protocol,
        distance=distance,
        rule=rules.rule,
    )


def no_match(queries: int, images: int, protocol: str) -> str:
    """The message where no query has a positive."""
    rules = PROTOCOLS[protocol]
    hint = ", and, if all images have one camera, use protocol 'no_camera'" if rules.drops_same_camera else ""
    return (
        f"none of {queries} queries has a match among {images} gallery images under protocol '{protocol}' "
        f"({rules.rule}): check that query and gallery name the same people the same way{hint}"
    )


def not_junk(labels: Labels, rules: Protocol) -> np.ndarray:
    """Return the indices of the gallery images that are not junk (all, where the protocol knows no junk)."""
    if not rules.drops_junk:
        return np.arange(len(labels.gallery_codes))
    kept = np.flatnonzero(~labels.junk)
    if not len(kept):
        raise ValueError("the gallery holds junk (identity -1) only")
    return kept


def one_of(what: str, name: str, choices: dict[str, T]) -> T:
    """Return a choice by name; ValueError for an unknown one."""
    if name not in choices:
        raise ValueError(f"{what} must be one of {', '.join(choices)}, got '{name}'")
    return choices[name]


def checked_labels(
    queries: int,
    images: int,
    query_ids: Ids,
    gallery_ids: Ids,
    query_cameras: Cameras,
    gallery_cameras: Cameras,
    protocol: str,
) -> Labels:
    """Number the identities, so that comparing them is comparing small integers.

    Raises:
        ValueError: a number of labels is not that of the embeddings, identities are numbers on one side and text on
            the other, or cameras are missing that the protocol needs.
    """
    rules = one_of("protocol", protocol, PROTOCOLS)
    checked = []
    for name, n, ids, cameras in (
        ("query", queries, query_ids, query_cameras),
        ("gallery", images, gallery_ids, gallery_cameras),
    ):
        if cameras is None:
            if rules.needs_cameras:
                raise ValueError(
                    f"protocol '{protocol}' needs {name}_cameras; without cameras use protocol 'no_camera'"
                )
            cameras = np.zeros(n, dtype=np.int64)
        for what, given in (("ids", ids), ("cameras", cameras)):
            values = np.asarray(given)
            if values.shape != (n,):
                raise ValueError(f"{name}_{what} must have shape ({n},), got {values.shape}")
            checked.append(values)
    q_ids, q_cameras, g_ids, g_cameras = checked
    if (q_ids.dtype.kind in "iu") != (g_ids.dtype.kind in "iu"):
        raise ValueError(f"query_ids ({q_ids.dtype}) and gallery_ids ({g_ids.dtype}) must be of one kind")
    _, codes = np.unique(np.concatenate([q_ids, g_ids]), return_inverse=True)
    codes = codes.astype(np.int32)
    junk = g_ids == -1 if g_ids.dtype.kind in "iu" else np.zeros(images, bool)
    return Labels(codes[:queries], codes[queries:], q_cameras, g_cameras, junk)
