from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.metrics._score import RetrievalMetrics


@dataclass(frozen=True)
class GroupScore:
    """Scores of a group of queries against the whole gallery; shares in [0, 1].

    Attributes:
        num_queries: Valid queries.
        rank1: Share of them whose first answer is right.
        mAP: Mean of their average precision.
    """

    num_queries: int
    rank1: float
    mAP: float  # noqa: N815


def breakdown(
    metrics: RetrievalMetrics, groups: np.ndarray | Sequence[int | str]
) -> dict[int | str, GroupScore]:
    """Split a score by a property of the queries: camera, modality, a column of metadata, `value_bins` of brightness.

    Args:
        metrics: Of `retrieval_metrics`.
        groups: Of each query (queries,).

    Returns:
        Group to score, in the order of the groups; a group without a valid query is absent. The mean of mAP over the
        groups, weighted by `num_queries`, is that of `metrics`.

    Raises:
        ValueError: the number of groups is not that of the queries.
    """
    labels = np.asarray(groups)
    if labels.shape != metrics.first_match.shape:
        raise ValueError(f"groups must have shape {metrics.first_match.shape}, got {labels.shape}")
    valid = ~np.isnan(metrics.first_match)
    scores = {}
    for group in np.unique(labels[valid]):
        part = valid & (labels == group)
        scores[group.item()] = GroupScore(
            int(part.sum()),
            float(np.mean(metrics.first_match[part] == 1)),
            float(metrics.average_precision[part].mean()),
        )
    return scores
