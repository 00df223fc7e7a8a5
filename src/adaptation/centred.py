import numpy as np
import scipy.sparse

from common.vectors import unit


def centred(features: np.ndarray, cameras: np.ndarray, groups: np.ndarray, prior: float) -> np.ndarray:
    """Take out of features what all images of their camera share, such as its light, ground and point of view.

    Two people at one camera are alike for that alone, one person at two cameras is not: clusters end at the camera
    (Song et al., "Exploring the Camera Bias of Person Re-identification", ICLR 2025).

    What is taken out is the mean of the camera. Where few people came by, that is their look and not the camera's: it
    is drawn to the mean of all cameras as if `prior` further groups had looked like that.

    Args:
        features: Of one modality (N, D).
        cameras: Number of the camera of each (N,); with one number, the mean of all is taken out.
        groups: Images of one person, integers (N,). A group counts once at a camera, however long it stayed.
        prior: Groups of one person or two.

    Returns:
        Float32 (N, D) of length 1.
    """
    vectors = unit(np.asarray(features, np.float32))
    _, places = np.unique(cameras, return_inverse=True)
    _, visits, images = np.unique(np.stack([places, groups]), axis=1, return_inverse=True, return_counts=True)
    shares = scipy.sparse.csr_array((1 / images[visits], (places, np.arange(len(places)))))
    sums, counts = shares @ vectors, shares.sum(axis=1)[:, None]  # (C, D), (C, 1)
    of_all = sums.sum(axis=0) / counts.sum()
    means = (sums + prior * of_all) / (counts + prior)
    return unit(vectors - means[places].astype(np.float32))
