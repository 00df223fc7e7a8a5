"""Features that know nothing of people: a data set on which they retrieve well leaks identity."""

import cv2
import numpy as np

from common.vectors import unit

_STRIPES = 6
_BINS = (8, 3, 3)  # hue, saturation, value
_RAW_SIZE = (8, 16)  # width, height


def mean_colour(images: np.ndarray) -> np.ndarray:
    """Return the mean of each channel: uint8 images (N, H, W, 3) to float32 (N, 3), L2-normalised."""
    _check(images)
    return unit(images.mean(axis=(1, 2), dtype=np.float32))


def raw_pixels(images: np.ndarray) -> np.ndarray:
    """Return 16 x 8 pixels less their mean: uint8 (N, H, W, 3) to float32 (N, 384), L2-normalised."""
    _check(images)
    small = [cv2.resize(image, _RAW_SIZE, interpolation=cv2.INTER_AREA) for image in images]
    flat = np.array(small, np.float32).reshape(len(images), -1)
    return unit(flat - flat.mean(axis=1, keepdims=True))


def hsv_stripes(images: np.ndarray) -> np.ndarray:
    """Return HSV histograms of 6 stripes: uint8 (N, H, W, 3) to float32 (N, 432), L2-normalised.

    Square roots of the counts, so that the inner product is the Bhattacharyya coefficient (Gray and Tao,
    "Viewpoint invariant pedestrian recognition with an ensemble of localized features", 2008, divide a
    person into six stripes).
    """
    _check(images)
    return unit(np.sqrt(np.array([_histograms(image) for image in images], np.float32)))


def _histograms(image: np.ndarray) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    ranges = [0, 180, 0, 256, 0, 256]
    counts = [
        cv2.calcHist([stripe], [0, 1, 2], None, list(_BINS), ranges).ravel()
        for stripe in np.array_split(hsv, _STRIPES)
    ]
    return np.concatenate(counts)


def _check(images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"expected uint8 images (N, H, W, 3), got {images.dtype} {images.shape}")
