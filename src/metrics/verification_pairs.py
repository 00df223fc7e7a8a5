import numpy as np

from src.metrics._closeness import QUERIES_AT_ONCE, FeatureCloseness, checked_features, chunks
from src.metrics._protocols import PROTOCOLS, Protocol
from src.metrics._ranking import Labels, views
from src.metrics._score import DISTANCES, Cameras, Ids, checked_labels, not_junk, one_of


def verification_pairs(
    query: np.ndarray,
    gallery: np.ndarray,
    query_ids: Ids,
    gallery_ids: Ids,
    query_cameras: Cameras = None,
    gallery_cameras: Cameras = None,
    protocol: str = "market1501",
    distance: str = "cosine",
    max_impostors: int = 10_000_000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances of genuine and impostor pairs that a protocol counts, for `Verification`.

    Args:
        query: Embeddings (queries, D).
        gallery: Embeddings (images, D).
        query_ids: Identities (queries,).
        gallery_ids: Identities (images,).
        query_cameras: Camera numbers (queries,), for protocols that need them.
        gallery_cameras: Camera numbers (images,).
        protocol: As for `retrieval_metrics`.
        distance: `cosine` (1 - cosine) or `euclidean`.
        max_impostors: Where there are more impostor pairs, each is kept with a probability that leaves about so many.
        seed: Of that choice.

    Returns:
        Genuine and impostor distances, float32 (pairs,) each.

    Raises:
        ValueError: there is no genuine or no impostor pair, or as `retrieval_metrics`.
    """
    one_of("distance", distance, DISTANCES)
    query, gallery = checked_features(query=query, gallery=gallery)
    labels = checked_labels(
        len(query), len(gallery), query_ids, gallery_ids, query_cameras, gallery_cameras, protocol
    )
    rules = PROTOCOLS[protocol]
    closeness = FeatureCloseness(query, gallery, distance)
    random = np.random.default_rng(seed)
    kept = min(max_impostors / (len(query) * len(gallery)), 1.0)
    genuine, impostor = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for queries, seen in views(labels, rules, np.arange(len(query)), not_junk(labels, rules)):
        for images in (seen[part] for part in chunks(len(seen))):
            against = closeness.against(images)
            for start in range(0, len(queries), QUERIES_AT_ONCE):
                part = queries[start : start + QUERIES_AT_ONCE]
                block = against(part).ravel()
                own, others = _cells(labels, rules, part, images, kept, random)
                for pairs, cells in ((genuine, own), (impostor, others)):
                    pairs.append(closeness.as_distance(part[cells // len(images)], block[cells]))
    found = np.concatenate(genuine).astype(np.float32), np.concatenate(impostor).astype(np.float32)
    for name, values in zip(("genuine", "impostor"), found, strict=True):
        if not len(values):
            raise ValueError(
                f"protocol '{protocol}' leaves no {name} pair of {len(query)} queries and {len(gallery)} images"
            )
    return found


def _cells(
    labels: Labels,
    rules: Protocol,
    queries: np.ndarray,
    images: np.ndarray,
    share: float,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the genuine pairs that count, and a share of the impostor pairs, as query * images + image."""
    query_codes, codes = labels.query_codes[queries], labels.gallery_codes[images]
    own = np.flatnonzero(query_codes[:, None] == codes)
    if rules.drops_same_camera:
        rows, columns = np.divmod(own, len(images))
        own = own[labels.query_cameras[queries[rows]] != labels.gallery_cameras[images[columns]]]
    others = _some(len(queries) * len(images), share, random)
    rows, columns = np.divmod(others, len(images))
    return own, others[query_codes[rows] != codes[columns]]


def _some(n: int, share: float, random: np.random.Generator) -> np.ndarray:
    """Return which of n cells to keep, each with the same probability; the gaps between them are geometric."""
    if share >= 1:
        return np.arange(n)
    expected = n * share
    cells: np.ndarray = np.cumsum(random.geometric(share, int(expected + 8 * expected**0.5 + 16))) - 1
    return cells[cells < n]
