import numpy as np


def proxies(labels: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide clusters by camera or modality, so that each part is remembered by itself (Wang et al., "Camera-Aware
    Proxies for Unsupervised Person Re-Identification", AAAI 2021).

    Args:
        labels: Cluster of each image (N,), -1 is noise.
        parts: Camera, modality or both as a number, of each image (N,).

    Returns:
        The proxy of each image, -1 for noise, (N,), as labels of a `ClusterMemory`; and the cluster of each proxy (M,),
        as `clusters` of `contrastive`.
    """
    labels = np.asarray(labels)
    clustered = labels >= 0
    pairs, found = np.unique(np.stack([labels, parts], axis=1)[clustered], axis=0, return_inverse=True)
    of_image = np.full(len(labels), -1, np.int64)
    of_image[clustered] = found
    return of_image, pairs[:, 0]
