"""Which cluster of visible images shows the person of which cluster of thermal images."""

import numpy as np
import scipy.sparse
from scipy.optimize import linear_sum_assignment


def matching_cost(visible: np.ndarray, thermal: np.ndarray, shared: np.ndarray | None = None) -> np.ndarray:
    """Return what it costs to match clusters: 1 - cosine of their centroids, less twice the share of known people.

    Looks differ by 2 at most, which two clusters of the same known people thus outweigh.

    Args:
        visible: Centroids (V, D), of any length but zero.
        thermal: Centroids (T, D).
        shared: `shared_people` (V, T), if tracks are known across the modalities.

    Returns:
        (V, T), from -2 to 2.
    """
    visible, thermal = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (visible, thermal))
    cost: np.ndarray = 1 - visible @ thermal.T
    return cost if shared is None else cost - 2 * shared


def shared_people(
    visible_labels: np.ndarray,
    thermal_labels: np.ndarray,
    visible_groups: np.ndarray,
    thermal_groups: np.ndarray,
) -> np.ndarray:
    """Return how far two clusters hold the same people: groups in both / groups in either.

    Args:
        visible_labels: Cluster of each visible point (N,), -1 is noise.
        thermal_labels: Cluster of each thermal point (M,).
        visible_groups: Group of each visible point, as `must_link` finds them over both modalities, (N,).
        thermal_groups: Of each thermal point (M,).

    Returns:
        (V, T), 0 to 1.
    """
    groups = int(max(visible_groups.max(initial=-1), thermal_groups.max(initial=-1))) + 1
    visible = _members(visible_labels, visible_groups, groups)
    thermal = _members(thermal_labels, thermal_groups, groups)
    both = (visible @ thermal.T).toarray()
    either = visible.sum(axis=1)[:, None] + thermal.sum(axis=1) - both
    return both / np.maximum(either, 1)


def match_clusters(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match every cluster of each modality with one of the other: progressive optimal assignment.

    The side with fewer clusters is assigned at the least total cost; those of the other side that are left over, be it
    that one modality divides a person, are then assigned in the same way again, until everyone has a match (progressive
    graph matching of Wu and Ye, "Unsupervised Visible-Infrared Person Re-Identification via Progressive Graph Matching
    and Alternate Learning", CVPR 2023).

    Args:
        cost: (V, T); infinity forbids a pair.

    Returns:
        The thermal cluster of each visible one (V,), and the visible cluster of each thermal one (T,), of which a
        cluster with several has that of the first assignment; -1 where every pair is forbidden.

    Raises:
        ValueError: a cost is NaN or minus infinity.
    """
    cost = np.asarray(cost, float)
    if np.isnan(cost).any() or np.isneginf(cost).any():
        raise ValueError("costs of matching must be numbers, or infinity for what is forbidden")
    if cost.shape[0] < cost.shape[1]:
        visible, thermal = match_clusters(cost.T)
        return thermal, visible
    allowed = np.isfinite(cost)
    # One forbidden pair costs more than all others may differ by: it is taken only where there is no choice.
    spread = np.ptp(cost[allowed]) if allowed.any() else 0.0
    finite = np.where(allowed, cost, cost[allowed].max(initial=0) + (1 + spread) * (1 + min(cost.shape)))
    of_row, of_column = np.full(cost.shape[0], -1), np.full(cost.shape[1], -1)
    left = np.arange(len(of_row))
    while len(left):
        rows, columns = linear_sum_assignment(finite[left])
        rows = left[rows]
        kept = allowed[rows, columns]
        if not kept.any():
            break
        rows, columns = rows[kept], columns[kept]
        of_row[rows] = columns
        of_column[columns] = np.where(of_column[columns] < 0, rows, of_column[columns])
        left = np.flatnonzero(of_row < 0)
    # A column is left over where all of its rows had no choice but another one.
    for column in np.flatnonzero((of_column < 0) & allowed.any(axis=0)):
        of_column[column] = cost[:, column].argmin()
    return of_row, of_column


def _members(labels: np.ndarray, groups: np.ndarray, number: int) -> scipy.sparse.csr_array:
    """Return 1 where a cluster holds a group (clusters, groups)."""
    labels = np.asarray(labels)
    shape = (int(labels.max(initial=-1)) + 1, number)
    pairs = np.unique(np.stack([labels, groups], axis=1)[labels >= 0], axis=0)
    return scipy.sparse.csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape)
