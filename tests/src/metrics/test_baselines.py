import colorsys

import numpy as np
import pytest

from src.metrics import baselines
from src.registries import BASELINES

ALL = (baselines.mean_colour, baselines.raw_pixels, baselines.hsv_stripes)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (5, 24, 12, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)  # (5, 96, 48, 3)


def test_the_registry_finds_them():
    assert sorted(BASELINES) == ["hsv_stripes", "mean_colour", "raw_pixels"]


@pytest.mark.parametrize("baseline", ALL)
def test_features_are_unit_vectors_of_each_image_alone(images, baseline):
    features = baseline(images)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    for image, feature in zip(images, features, strict=True):
        np.testing.assert_allclose(baseline(image[None])[0], feature, atol=1e-6)


def test_mean_colour_of_a_known_image():
    image = np.zeros((1, 4, 2, 3), np.uint8)
    image[:, :2] = (60, 0, 80)
    np.testing.assert_allclose(baselines.mean_colour(image), [[0.6, 0, 0.8]], rtol=1e-6)


def test_raw_pixels_against_block_means(images):
    blocks = images.reshape(5, 16, 6, 8, 6, 3).astype(float).mean(axis=(2, 4)).reshape(5, -1)
    expected = blocks - blocks.mean(axis=1, keepdims=True)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(baselines.raw_pixels(images), expected, atol=2e-3)


def test_raw_pixels_ignore_brightness(images):
    darker = images // 2
    similarity = (baselines.raw_pixels(images) * baselines.raw_pixels(darker)).sum(axis=1)
    assert similarity.min() > 0.999


def test_hsv_stripes_against_counting_pixels(images):
    expected = np.zeros((5, 6, 8, 3, 3))
    for number, image in enumerate(images):
        for row, line in enumerate(image):
            for red, green, blue in line[::4]:
                h, s, v = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
                expected[number, row // 16, int(h * 8), min(2, int(s * 3)), min(2, int(v * 3))] += 4
    expected = np.sqrt(expected.reshape(5, -1))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    # OpenCV rounds hue to 2 degrees, which moves a pixel at the edge of a bin into the next one.
    assert (baselines.hsv_stripes(images) * expected).sum(axis=1).min() > 0.98


def test_hsv_stripes_know_the_height_of_a_colour():
    red_above, red_below = np.zeros((2, 1, 12, 4, 3), np.uint8)
    red_above[:, :6] = red_below[:, 6:] = (255, 0, 0)
    similarity = baselines.hsv_stripes(red_above) @ baselines.hsv_stripes(red_below).T
    assert similarity.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("baseline", ALL)
def test_a_black_image_has_a_finite_feature(baseline):
    assert np.isfinite(baseline(np.zeros((1, 32, 16, 3), np.uint8))).all()


@pytest.mark.parametrize("baseline", ALL)
@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 8, 4, 3), np.float32), np.zeros((8, 4, 3), np.uint8), np.zeros((2, 8, 4, 1), np.uint8)],
)
def test_other_arrays_are_refused(baseline, wrong):
    with pytest.raises(ValueError, match=r"expected uint8 images \(N, H, W, 3\), got"):
        baseline(wrong)
