import numpy as np

from common.vectors import unit


class ClusterMemory:
    """One feature for each cluster, which follows the network while it trains (Dai et al., "Cluster Contrast for
    Unsupervised Person Re-Identification", ACCV 2022).

    With clusters divided by camera or modality as `labels`, it holds one feature for each of these parts: proxies.

    Args:
        features: (N, D), of any length but zero.
        labels: Cluster of each, integers (N,); -1, noise, is not remembered.
        momentum: Share of the old feature in the new one, 0 to 1.
        hard: Learn from the image of a cluster that is least similar to what is remembered, once for each batch (the
            paper's section 3.4), and not from each image in turn.

    Attributes:
        centroids: Float32 (C, D), of length 1; at first the mean of each cluster.

    Raises:
        ValueError: momentum is out of its range, no feature has a cluster, or a number of a cluster has no feature.
    """

    def __init__(
        self, features: np.ndarray, labels: np.ndarray, momentum: float = 0.2, hard: bool = True
    ) -> None:
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be from 0 to 1, got {momentum}")
        labels = np.asarray(labels)
        sizes = np.bincount(labels[labels >= 0])
        if not len(sizes) or not sizes.all():
            raise ValueError(
                f"expected clusters numbered from 0 on without gaps, got {np.unique(labels).tolist()[:10]}"
            )
        self.momentum, self.hard = momentum, hard
        sums = np.zeros((len(sizes), np.shape(features)[1]), np.float32)
        np.add.at(sums, labels[labels >= 0], unit(np.asarray(features, np.float32)[labels >= 0]))
        self.centroids = unit(sums)

    def update(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Learn from a batch: centroid <- momentum * centroid + (1 - momentum) * feature, then to length 1.

        Args:
            features: (N, D), before the step that they were trained with.
            labels: Cluster of each, integers (N,); -1 is left out.
        """
        labels = np.asarray(labels)
        features = unit(np.asarray(features, np.float32))
        chosen = np.flatnonzero(labels >= 0)
        if self.hard:
            similarity = (features[chosen] * self.centroids[labels[chosen]]).sum(axis=1)
            order = np.lexsort((similarity, labels[chosen]))
            _, first = np.unique(labels[chosen][order], return_index=True)
            chosen = chosen[order[first]]
        for image in chosen:
            old = self.centroids[labels[image]]
            self.centroids[labels[image]] = unit(self.momentum * old + (1 - self.momentum) * features[image])
