from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common.artifacts import write_csv
from src.data.sample import Sample
from src.metrics.counted_images import counted_images
from src.metrics.retrieval import RetrievalMetrics
from src.services._contact_sheet import Match, contact_sheet, same_person

_QUERIES = 5
_MATCHES = 10
_COLUMNS = (
    "query", "identity", "camera", "average_precision", "first_right_rank",
    "rank", "gallery", "gallery_identity", "gallery_camera", "similarity", "correct",
)  # fmt: skip


def ranked_lists(
    folder: Path,
    query: np.ndarray,
    gallery: np.ndarray,
    query_samples: Sequence[Sample],
    gallery_samples: Sequence[Sample],
    metrics: RetrievalMetrics,
    seed: int,
) -> Iterator[tuple[Path, str] | None]:
    """Draw the first ten of the worst queries by average precision, and of random others.

    Args:
        folder: Receives `ranked_lists_worst` and `ranked_lists_random`, `.png` and `.csv`.
        query: Embeddings of length 1, (Q, D).
        gallery: Embeddings of length 1, (G, D).
        query_samples: Q samples.
        gallery_samples: G samples.
        metrics: Of the same queries and images; images that its protocol takes out are not shown.
        seed: Of the random choice.

    Yields:
        (PNG, caption); None for the random ones where all queries are among the worst.
    """
    by_precision = np.argsort(
        metrics.average_precision, kind="stable"
    )  # NaN, a query without a match, comes last
    worst, others = np.split(by_precision[: metrics.num_valid_queries], [_QUERIES])
    random = np.random.default_rng(seed).permutation(others)[:_QUERIES]
    chosen = {
        "worst": (worst, "with the lowest average precision"),
        "random": (random, f"drawn at random (seed {seed})"),
    }
    for name, (numbers, words) in chosen.items():
        if not len(numbers):
            yield None
            continue
        lists = [
            nearest_counted(query[n] @ gallery.T, query_samples[n], gallery_samples, metrics.protocol)
            for n in numbers
        ]
        shortest = min(len(matches) for matches in lists)
        lists = [matches[:shortest] for matches in lists]
        rows = [
            (f"AP {100 * metrics.average_precision[n]:.1f} %", query_samples[n], matches)
            for n, matches in zip(numbers, lists, strict=True)
        ]
        path = contact_sheet(folder / f"ranked_lists_{name}.png", rows)
        numbered = zip(numbers, lists, strict=True)
        write_csv(
            path.with_suffix(".csv"),
            _COLUMNS,
            (row for n, matches in numbered for row in _plain(query_samples[n], matches, metrics, n)),
        )
        yield (
            path,
            (
                f"Queries {words} (left), and the gallery images that are nearest to them by cosine similarity, which "
                f"protocol {metrics.protocol} counts: rank and similarity, identity and camera. Green frames the same "
                "identity, red another."
            ),
        )


def nearest_counted(
    similarities: np.ndarray, query: Sample, gallery: Sequence[Sample], protocol: str
) -> list[Match]:
    """Return the first ten gallery images for a query that the protocol counts, by similarity (images,)."""
    identities, places = [s.identity for s in gallery], [s.place for s in gallery]
    counted = np.flatnonzero(counted_images(protocol, query.identity, query.place, identities, places))
    right = np.array([identities[i] == query.identity for i in counted])
    order = counted[np.lexsort((right, -similarities[counted]))][:_MATCHES]  # among equals the wrong first
    return [
        Match(rank, gallery[i], float(similarities[i]), same_person(query, gallery[i]))
        for rank, i in enumerate(order, start=1)
    ]


def _plain(
    query: Sample, matches: Sequence[Match], metrics: RetrievalMetrics, number: int
) -> Iterator[tuple[object, ...]]:
    score = round(float(metrics.average_precision[number]), 6), int(metrics.first_match[number])
    for match in matches:
        found = match.sample
        yield (
            query.path, query.identity, query.camera, *score,
            match.rank, found.path, found.identity, found.camera, round(match.similarity, 6), match.correct,
        )  # fmt: skip
