"""Seconds and memory of k-reciprocal re-ranking at the size of Market-1501, 19,281 points of 512 dimensions.

Beside it in the same run, at 3,000 points: the usual dense implementation, whose memory grows with the square (7 GB
and about 80 s at full size, measured once elsewhere on 2 cores). About a minute on 2 cores. A share of the size may
be given, `bench_reranking 0.1`; the bars hold at full size.
"""

import sys

import numpy as np

from src.metrics.reranking import (
    average_query_expansion,
    k_reciprocal_distances,
    neighbor_feature_centralization,
)
from tests.benchmarks._memory import measured

QUERIES, IMAGES, IDENTITIES, DIMENSIONS = 3368, 15913, 751, 512
SMALL = 3000
BAR, MEMORY_BAR = 15.0, 3.0


def features(queries: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return query and gallery features around identities."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((IDENTITIES, DIMENSIONS), np.float32)

    def around(n: int) -> np.ndarray:
        noise = random.standard_normal((n, DIMENSIONS), np.float32)
        return centres[random.integers(0, IDENTITIES, n)] + 1.5 * noise

    return around(queries), around(images)


def dense(
    query: np.ndarray, gallery: np.ndarray, k1: int = 20, k2: int = 6, share: float = 0.3
) -> np.ndarray:
    """Return the same distances from full matrices, one point at a time."""
    points = np.concatenate([query, gallery])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    distances = np.square(np.maximum(2 - 2 * points @ points.T, 0))
    distances /= distances.max(axis=1, keepdims=True)
    order = np.argsort(distances, axis=1)

    def mutual(i: int, k: int) -> np.ndarray:
        near = order[i, : k + 1]
        return near[(order[near, : k + 1] == i).any(axis=1)]

    encoding = np.zeros_like(distances)
    for i in range(len(points)):
        near = mutual(i, k1)
        expanded = [near]
        for j in near:
            circle = mutual(j, round(k1 / 2))
            if len(np.intersect1d(circle, near)) > 2 / 3 * len(circle):
                expanded.append(circle)
        chosen = np.unique(np.concatenate(expanded))
        weights = np.exp(-distances[i, chosen])
        encoding[i, chosen] = weights / weights.sum()
    encoding = np.stack([encoding[order[i, :k2]].mean(axis=0) for i in range(len(points))])
    holders = [np.flatnonzero(column) for column in encoding.T]
    result = np.zeros((len(query), len(points)), np.float32)
    for i in range(len(query)):
        shared = np.zeros(len(points), np.float32)
        for j in np.flatnonzero(encoding[i]):
            shared[holders[j]] += np.minimum(encoding[i, j], encoding[holders[j], j])
        result[i] = 1 - shared / (2 - shared)
    return ((1 - share) * result + share * distances[: len(query)])[:, len(query) :]


def main() -> int:
    """Print seconds and GB of every arm; return 1 when a bar is missed or results disagree."""
    scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    share = scale * SMALL / (QUERIES + IMAGES)
    small = features(round(share * QUERIES), round(share * IMAGES))
    full = features(round(scale * QUERIES), round(scale * IMAGES))
    found = {}
    for name, call in {
        f"usual, {sum(map(len, small))} points": lambda: dense(*small),
        f"k-reciprocal, {sum(map(len, small))} points": lambda: k_reciprocal_distances(*small),
        f"k-reciprocal, {sum(map(len, full))} points": lambda: k_reciprocal_distances(*full),
        f"query expansion, {len(full[0])} x {len(full[1])}": lambda: average_query_expansion(*full),
        f"neighbour centralisation, {len(full[1])} points": lambda: neighbor_feature_centralization(full[1]),
    }.items():
        found[name] = measured(call)
        print(f"{name:<40}{found[name][1]:>8.2f} s{found[name][2]:>7.2f} GB", flush=True)
    results = list(found.values())
    difference = float(np.abs(results[0][0] - results[1][0]).max())
    print(f"largest difference from the usual implementation: {difference:.1e}")
    late = scale == 1 and (results[2][1] > BAR or results[2][2] > MEMORY_BAR)
    print(f"bars at full size: {BAR:.0f} s, {MEMORY_BAR:.0f} GB{': missed' * late}")
    return int(late or difference > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
