"""What tracks and synchronised cameras tell for free: images of one person, and of people who cannot be one."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components

from common.vectors import unit
from src.adaptation._labels import without_small


def must_link(*keys: Sequence[Hashable | None]) -> np.ndarray:
    """Group the images that show one person: those that share a key, and those that a chain of shared keys connects.

    Keys are, for example, the track of each image, and the moment at which two synchronised cameras took its person.

    Args:
        keys: Each names something of every image (N,); None where nothing is known.

    Returns:
        Group of each image, integers (N,) from 0 on, in the order of their first images.

    Raises:
        ValueError: there is no key, or they are of different lengths.
    """
    if len({len(key) for key in keys}) != 1:
        raise ValueError(f"expected keys of one length, got {[len(key) for key in keys]}")
    number: defaultdict[tuple[int, Hashable], int] = defaultdict(lambda: len(number))
    images, names = [], []
    for kind, key in enumerate(keys):
        for image, name in enumerate(key):
            if name is not None:
                images.append(image)
                names.append(number[kind, name])
    n = len(keys[0])
    nodes = n + len(number)
    edges = scipy.sparse.csr_array(
        (np.ones(len(images)), (images, n + np.array(names, int))), shape=(nodes, nodes)
    )
    _, found = connected_components(edges, directed=False)
    _, first, groups = np.unique(found[:n], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[groups]


def cannot_link(groups: np.ndarray, scenes: Sequence[Hashable | None]) -> np.ndarray:
    """Return the pairs of groups that were seen together, which are thus two people.

    Args:
        groups: Group of each image, as `must_link` returns them, (N,).
        scenes: The frame of one camera that each image was cut from (N,), in which nobody is twice; None where it is
            not known.

    Returns:
        Pairs (P, 2), the smaller group first, in ascending order.

    Raises:
        ValueError: a group is twice in a scene: what must and what cannot be linked contradict one another.
    """
    number: defaultdict[Hashable, int] = defaultdict(lambda: len(number))
    known = [image for image, scene in enumerate(scenes) if scene is not None]
    columns = [number[scenes[image]] for image in known]
    shape = (int(groups.max(initial=-1)) + 1, max(1, len(number)))
    seen = scipy.sparse.csr_array((np.ones(len(known), np.int32), (groups[known], columns)), shape)
    twice = seen.tocoo()
    if seen.nnz and seen.data.max() > 1:
        worst = int(np.argmax(twice.data))
        scene = list(number)[int(twice.col[worst])]
        raise ValueError(
            f"{twice.data[worst]} images of one group are from the scene {scene!r}, in which a person can be once: "
            "give each person of a frame a track of its own, and each camera's frames names of their own"
        )
    pairs = scipy.sparse.triu(seen @ seen.T, k=1).tocoo()
    return np.unique(np.stack(pairs.coords, axis=1), axis=0).astype(np.int64)


def pool(features: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average the features of each group: the points to cluster, so that no group is ever divided.

    The images of a track are one another's nearest neighbours: as single points they would fill the neighbourhoods that
    `jaccard_distance` compares, and hide the other tracks of a person.

    Args:
        features: (N, D).
        groups: Group of each image (N,).

    Returns:
        The groups that are there, ascending (G,), and their L2-normalised mean of L2-normalised features, float32
        (G, D).
    """
    present, inverse = np.unique(groups, return_inverse=True)
    members = scipy.sparse.csr_array((np.ones(len(groups), np.float32), (inverse, np.arange(len(groups)))))
    means = members @ unit(np.asarray(features, np.float32))
    return present, unit(means)


def pairs_among(present: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the pairs of groups that are both present, as places among the present ones.

    Args:
        present: Groups, ascending, as `pool` returns them (G,).
        pairs: Pairs of groups, as `cannot_link` returns them (P, 2).

    Returns:
        Pairs of points for `separate` (Q, 2), Q <= P.
    """
    kept = pairs[np.isin(pairs, present).all(axis=1)]
    return np.searchsorted(present, kept)


def separate(
    labels: np.ndarray,
    distances: scipy.sparse.csr_array,
    apart: np.ndarray,
    min_samples: int = 4,
) -> np.ndarray:
    """Divide the clusters that hold two points which cannot be linked.

    The points of such a cluster are joined again, the closest pairs first, unless that would bring two together which
    cannot be linked (single linkage with constraints; Davidson and Ravi, "Agglomerative Hierarchical Clustering with
    Constraints", PKDD 2005).

    Args:
        labels: Cluster of each point (N,), -1 is noise.
        distances: (N, N), what is absent is 1; pairs that it does not hold are not joined.
        apart: Pairs of points that cannot be linked (P, 2).
        min_samples: A part of fewer points becomes noise.

    Returns:
        Cluster of each point (N,), the largest first; no two of a pair share one.
    """
    result = np.array(labels, np.int64)
    same = apart[(result[apart[:, 0]] == result[apart[:, 1]]) & (result[apart[:, 0]] >= 0)]
    for cluster in np.unique(result[same[:, 0]]):
        members = np.flatnonzero(labels == cluster)
        pairs = np.searchsorted(members, same[np.asarray(labels)[same[:, 0]] == cluster])
        parts = _joined(distances[members][:, members], pairs)
        result[members] = np.where(parts == 0, cluster, result.max() + parts)
    return without_small(result, min_samples)


def _joined(distances: scipy.sparse.csr_array, apart: np.ndarray) -> np.ndarray:
    """Return the parts of one cluster, numbered from 0 on."""
    n = distances.shape[0]
    parent, members = list(range(n)), [[i] for i in range(n)]
    enemies: list[set[int]] = [set() for _ in range(n)]  # parts that a part may not be joined with
    for a, b in apart.tolist():
        enemies[a].add(b)
        enemies[b].add(a)
    edges = scipy.sparse.triu(distances, k=1).tocoo()
    order = np.argsort(edges.data, kind="stable")
    for i, j in zip(edges.row[order].tolist(), edges.col[order].tolist(), strict=True):
        a, b = parent[i], parent[j]
        if a == b or b in enemies[a]:
            continue
        if len(members[a]) < len(members[b]):
            a, b = b, a
        for member in members[b]:
            parent[member] = a
        members[a] += members[b]
        for enemy in enemies[b]:
            enemies[enemy].remove(b)
            enemies[enemy].add(a)
        enemies[a] |= enemies[b]
    return np.unique(parent, return_inverse=True)[1]
