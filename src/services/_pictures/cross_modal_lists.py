from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common.artifacts import write_csv
from src.data.sample import Sample
from src.services._contact_sheet import Match, contact_sheet
from src.services._pictures.ranked_lists import nearest_counted

_PEOPLE = 4
_COLUMNS = (
    "query", "query_modality", "identity", "camera",
    "rank", "gallery", "gallery_modality", "gallery_identity", "gallery_camera", "similarity", "correct",
)  # fmt: skip


def cross_modal_lists(
    path: Path, embeddings: np.ndarray, samples: Sequence[Sample], protocol: str, seed: int
) -> tuple[Path, str] | None:
    """Draw what people are found as in the other modality: a thermal query among visible images, and the reverse.

    Args:
        path: The PNG; the lists are written to a CSV of the same name.
        embeddings: (N, D) of length 1.
        samples: N test images, of both roles: each can ask and be found.
        protocol: Name of a protocol; images that it takes out for a query are not shown.
        seed: Of the choice of four people and of an image of each in either modality.

    Returns:
        (PNG, caption); None where nobody was seen in both modalities.
    """
    sides = {
        name: [n for n, sample in enumerate(samples) if sample.modality == name]
        for name in ("thermal", "visible")
    }
    seen = [{samples[n].identity for n in numbers if samples[n].is_person} for numbers in sides.values()]
    both = sorted(set.intersection(*seen), key=str)
    if not both:
        return None
    random = np.random.default_rng(seed)
    rows: list[tuple[str, Sample, Sequence[Match]]] = []
    for identity in (both[n] for n in random.permutation(len(both))[:_PEOPLE]):
        for asking, other in (("thermal", "visible"), ("visible", "thermal")):
            number = int(random.choice([n for n in sides[asking] if samples[n].identity == identity]))
            similarities = embeddings[sides[other]] @ embeddings[number]
            offered = [samples[n] for n in sides[other]]
            found = nearest_counted(similarities, samples[number], offered, protocol)
            rows.append((asking, samples[number], found))
    shortest = min(len(matches) for _, _, matches in rows)
    if not shortest:
        return None
    rows = [(asking, query, matches[:shortest]) for asking, query, matches in rows]
    numbers = (row for _, query, matches in rows for row in _plain(query, matches))
    write_csv(path.with_suffix(".csv"), _COLUMNS, numbers)
    return contact_sheet(path, rows), (
        f"{len(rows) // 2} people, drawn at random (seed {seed}), across modalities: a thermal image (left) and "
        "the visible images that are nearest to it by cosine similarity, then a visible image and the nearest thermal "
        "ones, among all test images of that modality: rank and similarity, identity and camera. Green frames the "
        "same identity, red another."
    )


def _plain(query: Sample, matches: Sequence[Match]) -> Iterator[tuple[object, ...]]:
    for match in matches:
        found = match.sample
        yield (
            query.path, query.modality, query.identity, query.camera, match.rank,
            found.path, found.modality, found.identity, found.camera, round(match.similarity, 6), match.correct,
        )  # fmt: skip
