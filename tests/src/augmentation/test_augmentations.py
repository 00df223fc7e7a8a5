"""What every augmentation owes: it is a pure function of images and seed, and each image has its own draw."""

import numpy as np
import pytest
import tensorflow as tf

from src.augmentation.random_crop_pad import random_crop_pad
from src.augmentation.random_erasing import random_erasing
from src.augmentation.random_flip import random_flip
from src.registries import AUGMENTATIONS

IMAGES = np.random.default_rng(0).uniform(1, 255, (64, 24, 12, 3)).astype(np.float32)


def applied(function, images=IMAGES, seed=(3, 1)):
    return function(tf.constant(images), tf.constant(seed, tf.int32)).numpy()


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_contract_of_every_augmentation(name):
    function = AUGMENTATIONS.build(name)
    result = applied(function)
    assert result.shape == IMAGES.shape and result.dtype == np.float32
    assert result.min() >= 0 and result.max() <= 255
    np.testing.assert_array_equal(result, applied(function))
    assert not np.array_equal(result, applied(function, seed=(3, 2)))
    assert not np.array_equal(result, applied(function, seed=(4, 1)))
    np.testing.assert_allclose(applied(tf.function(function)), result, atol=1e-4)
    # Copies of one image come out in different ways.
    copies = applied(function, np.repeat(IMAGES[:1], 64, axis=0))
    assert len(np.unique(copies.reshape(64, -1), axis=0)) > 1


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(name, channels):
    assert applied(AUGMENTATIONS.build(name), IMAGES[..., :1].repeat(channels, -1)).shape[-1] == channels


@pytest.mark.parametrize(
    ("mode", "axes"), [("horizontal", [(), (2,)]), ("vertical", [(), (1,)]),
                       ("horizontal_and_vertical", [(), (1,), (2,), (1, 2)])],
)  # fmt: skip
def test_flip_gives_each_mirror_image_about_equally_often(mode, axes):
    many = np.repeat(IMAGES, 8, axis=0)
    result = applied(random_flip(mode), many)
    counts = [sum((np.flip(many, axis) == result).all((1, 2, 3))) for axis in axes]
    assert sum(counts) == len(many)
    assert min(counts) > 0.6 * len(many) / len(axes)


def test_crop_pad_moves_by_up_to_the_padding():
    result = applied(random_crop_pad(2), np.repeat(IMAGES[:1], 512, axis=0))
    padded = np.pad(IMAGES[0], ((2, 2), (2, 2), (0, 0)))
    windows = [padded[r : r + 24, c : c + 12] for r in range(5) for c in range(5)]
    counts = [sum((window == result).all((1, 2, 3))) for window in windows]
    assert sum(counts) == 512 and min(counts) > 0


def test_no_padding_changes_nothing():
    np.testing.assert_array_equal(applied(random_crop_pad(0)), IMAGES)


def test_erasing_covers_one_rectangle_with_the_mean():
    images = np.random.default_rng(0).uniform(1, 255, (400, 40, 40, 3)).astype(np.float32)
    changed = (applied(random_erasing(1.0, (0.1, 0.2), (0.5, 2.0)), images) != images).any(-1)
    shares = []
    for mask in changed:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert mask.sum() == len(rows) * len(columns)
        shares.append(mask.mean())
        assert 0.4 < len(rows) / len(columns) < 2.5
    assert 0.08 < min(shares) < 0.11 and 0.19 < max(shares) < 0.23
    assert changed.any((0, 1)).all() and changed.any((0, 2)).all()  # up to the borders
    first = np.flatnonzero(changed[0].ravel())
    erased = applied(random_erasing(1.0, (0.1, 0.2), (0.5, 2.0)), images)[0].reshape(-1, 3)[first]
    np.testing.assert_allclose(erased, np.tile(images[0].mean((0, 1)), (len(first), 1)), rtol=1e-4)


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.3, 0.2, 0.4), (1.0, 1, 1)])
def test_erasing_probability(probability, low, high):
    images = np.repeat(IMAGES, 8, axis=0)
    share = (applied(random_erasing(probability), images) != images).any((1, 2, 3)).mean()
    assert low <= share <= high


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: random_flip("both"), "mode must be one of horizontal, vertical.*got 'both'"),
        (lambda: random_crop_pad(-1), "padding must be 0 or more"),
        (lambda: random_erasing(1.2), "probability must lie in"),
        (lambda: random_erasing(area=(0.4, 0.1)), "area must be"),
        (lambda: random_erasing(aspect=(0.0, 1.0)), "aspect must be"),
    ],
)
def test_mistakes_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
