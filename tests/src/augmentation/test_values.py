"""Each augmentation against Pillow, a hand-made value, or a slow and obvious reference."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from src.augmentation._augment import choose, uniform, whole
from src.augmentation.augmix import _dirichlet, augmix
from src.augmentation.channel_adaptive_gray import channel_adaptive_gray
from src.augmentation.rand_augment import rand_augment
from src.augmentation.random_autocontrast import random_autocontrast
from src.augmentation.random_blur import random_blur
from src.augmentation.random_brightness import random_brightness
from src.augmentation.random_channel_erasing import random_channel_erasing
from src.augmentation.random_channel_exchange import random_channel_exchange
from src.augmentation.random_color_jitter import random_color_jitter
from src.augmentation.random_contrast import random_contrast
from src.augmentation.random_crop import random_crop
from src.augmentation.random_crop_pad import random_crop_pad
from src.augmentation.random_equalize import random_equalize
from src.augmentation.random_erasing import random_erasing
from src.augmentation.random_flip import random_flip
from src.augmentation.random_gaussian_noise import random_gaussian_noise
from src.augmentation.random_hsv import random_hsv, random_hue, random_saturation, random_value
from src.augmentation.random_invert import random_invert
from src.augmentation.random_jpeg_quality import random_jpeg_quality
from src.augmentation.random_posterize import random_posterize
from src.augmentation.random_rectangle_erasing import random_rectangle_erasing
from src.augmentation.random_rgb_to_grayscale import random_rgb_to_grayscale
from src.augmentation.random_rgb_to_hsv import random_rgb_to_hsv
from src.augmentation.random_rotation import random_rotation
from src.augmentation.random_sharpness import random_sharpness
from src.augmentation.random_shear import random_shear, random_shear_x, random_shear_y
from src.augmentation.random_solarize import random_solarize
from src.augmentation.random_translation import random_translation
from src.augmentation.random_zoom import random_zoom

RNG = np.random.default_rng(0)
# Whole values of three different distributions: the channels must be told apart.
WHOLE = np.stack(
    [
        RNG.integers(40, 200, (8, 20, 14)),
        RNG.integers(0, 120, (8, 20, 14)),
        RNG.binomial(255, 0.7, (8, 20, 14)),
    ],
    axis=-1,
).astype(np.float32)


def applied(function, images=WHOLE, seed=(3, 1)):
    return function(tf.constant(images, tf.float32), tf.constant(seed, tf.int32)).numpy()


def with_pillow(function, images=WHOLE):
    return np.stack([np.asarray(function(Image.fromarray(image.astype(np.uint8)))) for image in images])


# ------------------------------------------------------------------------------------------------------------
# Draws


def test_draws_fill_their_range():
    many = tf.zeros((4000, 1, 1, 1))
    values = uniform(many, (1, 2), (-0.5, 1.5)).numpy()
    assert values.shape == (4000, 1, 1, 1)
    assert -0.5 <= values.min() < -0.48 and 1.48 < values.max() <= 1.5 and abs(values.mean() - 0.5) < 0.05
    numbers = whole(many, (1, 2), (2, 5)).numpy()
    assert sorted(set(numbers)) == [2, 3, 4, 5] and min(np.bincount(numbers)[2:]) > 900


def test_choose_sends_each_image_through_its_function():
    images = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)
    functions = [lambda x, seed: x, lambda x, seed: x + 10, lambda x, seed: x / 0, lambda x, seed: -x]
    choice = tf.constant([1, 0, 3, 1, 0, 3])
    result = choose(functions, choice, tf.constant(images), tf.constant((1, 2)))
    np.testing.assert_array_equal(result.numpy().ravel(), [10, 1, -2, 13, 4, -5])


# ------------------------------------------------------------------------------------------------------------
# Colour


def test_contrast():
    mean = WHOLE.mean((1, 2), keepdims=True)
    for factor in (-1, -0.5, 0.8):
        expected = np.clip(mean + (1 + factor) * (WHOLE - mean), 0, 255)
        np.testing.assert_allclose(applied(random_contrast((factor, factor))), expected, atol=1e-3)


def test_brightness():
    for factor in (-0.3, 0.2):
        expected = np.clip(WHOLE + 255 * factor, 0, 255)
        np.testing.assert_allclose(applied(random_brightness((factor, factor))), expected, atol=1e-3)
    shifts = (applied(random_brightness(0.1), np.full((500, 1, 1, 1), 127.0)) - 127) / 255
    assert -0.1 <= shifts.min() < -0.095 and 0.095 < shifts.max() <= 0.1


def slow_hsv(images, hue=0.0, saturation=0.0, value=0.0):
    pixels = []
    for pixel in images.reshape(-1, 3) / 255:
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        h, s, v = (h + hue) % 1, min(max(s + saturation, 0), 1), min(max(v + value, 0), 1)
        pixels.append(colorsys.hsv_to_rgb(h, s, v))
    return 255 * np.reshape(pixels, images.shape)


@pytest.mark.parametrize(
    "shift", [(0.3, 0, 0), (-0.45, 0, 0), (0, 0.4, 0), (0, -0.7, 0), (0, 0, -0.2), (0.9, 0.1, 0.3)]
)
def test_hsv(shift):
    function = random_hsv(*((s, s) for s in shift))
    np.testing.assert_allclose(applied(function, WHOLE[:2]), slow_hsv(WHOLE[:2], *shift), atol=2e-2)


@pytest.mark.parametrize(
    ("function", "part"), [(random_hue, "hue"), (random_saturation, "saturation"), (random_value, "value")]
)
def test_one_of_hue_saturation_and_value(function, part):
    expected = slow_hsv(WHOLE[:2], **{part: -0.3})
    np.testing.assert_allclose(applied(function((-0.3, -0.3)), WHOLE[:2]), expected, atol=2e-2)


def test_conversions():
    grey = WHOLE @ np.float32([0.299, 0.587, 0.114])
    np.testing.assert_allclose(applied(random_rgb_to_grayscale(1)), np.stack([grey] * 3, -1), atol=1e-3)
    red, white = np.float32([255, 0, 0]), np.float32([255, 255, 255])
    hsv = applied(random_rgb_to_hsv(1), np.stack([red, white, red[[1, 0, 2]]]).reshape(1, 3, 1, 3))
    np.testing.assert_allclose(hsv[0, :, 0], [[0, 255, 255], [0, 0, 255], [85, 255, 255]], atol=1e-3)


def slow_jitter(images, bright, contrast, saturation, hue):
    weights = np.float32([0.299, 0.587, 0.114])
    images = images * bright
    mean = (images @ weights).mean((1, 2))[:, None, None, None]
    images = contrast * images + (1 - contrast) * mean
    grey = (images @ weights)[..., None]
    return slow_hsv(np.clip(saturation * images + (1 - saturation) * grey, 0, 255), hue)


@pytest.mark.parametrize("factors", [(0.3, 0, 0, 0), (0, -0.4, 0, 0), (0, 0, 0.5, 0), (0.1, 0.2, -0.5, 0.1)])
def test_color_jitter(factors):
    bright, contrast, saturation, hue = factors
    function = random_color_jitter(*((f, f) for f in factors), change_rate=1)
    expected = slow_jitter(WHOLE[:2], 1 + bright, 1 + contrast, 1 + saturation, hue)
    np.testing.assert_allclose(applied(function, WHOLE[:2]), expected, atol=5e-2)


def test_pillow_agrees_where_it_has_the_operation():
    exact = [
        (random_invert(1), ImageOps.invert),
        (random_equalize(1), ImageOps.equalize),
        *(
            (random_posterize(bits), lambda image, bits=bits: ImageOps.posterize(image, bits))
            for bits in (1, 3, 7)
        ),
        *((random_solarize(t, 1), lambda image, t=t: ImageOps.solarize(image, t)) for t in (0, 77, 200)),
    ]
    for function, pillow in exact:
        np.testing.assert_array_equal(applied(function), with_pillow(pillow))
    for cutoff in (0, 10, 33):
        expected = with_pillow(lambda image, cutoff=cutoff: ImageOps.autocontrast(image, cutoff))
        difference = applied(random_autocontrast(cutoff, 1)) - expected
        assert difference.min() > -0.01 and difference.max() < 1.01  # Pillow cuts what follows the point
    for factor in (0.5, 2):
        # Pillow rounds the smoothed copy first.
        expected = with_pillow(lambda image, factor=factor: ImageEnhance.Sharpness(image).enhance(1 + factor))
        assert np.abs(applied(random_sharpness((factor, factor))) - expected).max() < 1.01 + 0.5 * factor


def test_operations_on_histograms_leave_images_of_one_value_as_they_are():
    plain = np.full((2, 6, 4, 3), 77.0)
    for function in (random_autocontrast(10, 1), random_equalize(1)):
        np.testing.assert_array_equal(applied(function, plain), plain)


def test_noise_has_the_deviation_that_is_asked_for():
    grey = np.full((4, 60, 60, 3), 127.0)
    noise = (applied(random_gaussian_noise(0.05), grey) - grey) / 255
    assert np.abs(noise.std((1, 2, 3)) - 0.05).max() < 0.002 and abs(noise.mean()) < 0.001
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.03
    spread = (applied(random_gaussian_noise((0.01, 0.1)), grey.repeat(50, 0)) - 127).std((1, 2, 3)) / 255
    assert spread.min() < 0.02 and spread.max() > 0.09


def test_jpeg_is_tensorflows_own():
    for quality in (10, 75):
        expected = [
            tf.io.decode_jpeg(tf.io.encode_jpeg(image.astype(np.uint8), quality=quality)).numpy()
            for image in WHOLE
        ]
        np.testing.assert_array_equal(applied(random_jpeg_quality(quality)), expected)


@pytest.mark.parametrize("padding", ["reflect", "symmetric", "constant"])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_blur_is_the_mean_of_a_square(padding, size):
    before, after = (size - 1) // 2, size // 2
    value = {"constant_values": 9} if padding == "constant" else {}
    padded = np.pad(WHOLE, ((0, 0), (before, after), (before, after), (0, 0)), padding, **value)
    expected = np.mean(
        [padded[:, r : r + 20, c : c + 14] for r in range(size) for c in range(size)],
        axis=0,
        dtype=np.float64,
    )
    np.testing.assert_allclose(applied(random_blur(size, padding, 9)), expected, atol=1e-3)


# ------------------------------------------------------------------------------------------------------------
# Geometry


@pytest.mark.parametrize(
    ("mode", "axes"), [("horizontal", [(2,)]), ("vertical", [(1,)]),
                       ("horizontal_and_vertical", [(1,), (2,), (1, 2)])],
)  # fmt: skip
@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_flip_gives_each_mirror_image_about_equally_often(mode, axes, rate):
    many = np.repeat(WHOLE, 75, axis=0)
    result = applied(random_flip(mode, rate), many)
    unchanged = sum((many == result).all((1, 2, 3)))
    counts = [sum((np.flip(many, axis) == result).all((1, 2, 3))) for axis in axes]
    assert unchanged + sum(counts) == len(many)
    assert abs(unchanged / len(many) - (1 - rate)) < 0.06
    assert min(counts) > 0.8 * rate * len(many) / len(axes)


def test_translation_goes_right_and_down():
    move = {"fill_mode": "constant", "fill_value": 5}
    result = applied(random_translation((2 / 14, 2 / 14), (3 / 20, 3 / 20), **move))
    expected = np.pad(WHOLE, ((0, 0), (3, 0), (2, 0), (0, 0)), constant_values=5)[:, :20, :14]
    np.testing.assert_allclose(result, expected, atol=1e-2)
    left = applied(random_translation((-2 / 14, -2 / 14), 0, "nearest"))
    expected = np.pad(WHOLE, ((0, 0), (0, 0), (0, 2), (0, 0)), "edge")[:, :, 2:]
    np.testing.assert_allclose(left, expected, atol=1e-2)


def test_rotation_is_counter_clockwise_about_the_centre():
    square = WHOLE[:, :14]
    for turns in (1, 2, 3):
        result = applied(random_rotation((turns / 4, turns / 4)), square)
        np.testing.assert_allclose(result, np.rot90(square, turns, (1, 2)), atol=1e-2)
    # The centre of an image that is not square: half a turn mirrors both directions.
    np.testing.assert_allclose(applied(random_rotation((0.5, 0.5))), WHOLE[:, ::-1, ::-1], atol=1e-2)


def ramp(height=21, width=15):
    """An image whose first channel is the row and whose second is the column."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns, 0 * rows], -1)[None].astype(np.float32)


def test_zoom_out_shows_more_and_zoom_in_less():
    image = ramp()
    inside = np.s_[:, 8:13, 6:9]
    wide = applied(random_zoom((0.5, 0.5)), image)[inside]  # one factor: both directions
    np.testing.assert_allclose(wide[..., 0], 10 + 1.5 * (image[inside][..., 0] - 10), atol=1e-3)
    np.testing.assert_allclose(wide[..., 1], 7 + 1.5 * (image[inside][..., 1] - 7), atol=1e-3)
    tall = applied(random_zoom((0, 0), (-0.5, -0.5)), image)[inside]
    np.testing.assert_allclose(tall[..., 0], 10 + 0.5 * (image[inside][..., 0] - 10), atol=1e-3)
    np.testing.assert_allclose(tall[..., 1], image[inside][..., 1], atol=1e-3)


@pytest.mark.parametrize(("build", "axis", "other"), [(random_shear_x, 1, 0), (random_shear_y, 0, 1)])
def test_shear_moves_along_one_axis_by_the_tangent(build, axis, other):
    image = ramp()
    inside = np.s_[:, 7:14, 5:10]
    for factor in (0.05, -0.1):
        result = applied(build((factor, factor)), image)[inside]
        away = image[inside][..., other] - (10, 7)[other]
        expected = image[inside][..., axis] + np.tan(2 * np.pi * factor) * away
        np.testing.assert_allclose(result[..., axis], expected, atol=1e-3)
        np.testing.assert_allclose(result[..., other], image[inside][..., other], atol=1e-3)


def test_shear_along_both_axes_draws_for_each():
    images = np.repeat(ramp(), 40, axis=0)
    result = applied(random_shear(0.1), images)
    slope_x = result[:, 11, 7, 1] - 7
    slope_y = result[:, 10, 8, 0] - 10
    assert min(slope_x.min(), slope_y.min()) < -0.4 and max(slope_x.max(), slope_y.max()) > 0.4
    assert abs(np.corrcoef(slope_x, slope_y)[0, 1]) < 0.5


def test_crop_scales_a_rectangle_to_the_whole_image():
    image = ramp()
    result = applied(random_crop(0.25, 0.5, 0.5, 1, change_rate=1), image)[0]
    np.testing.assert_allclose(result[..., 0], image[0, ..., 0], atol=1e-3)
    np.testing.assert_allclose(result[..., 1], np.tile(np.linspace(0, 7, 15), (21, 1)), atol=1e-3)
    # A rectangle that reaches out is cut: its right half is missing.
    cut = applied(random_crop(1, 0.5, 0.5, 1, change_rate=1), image)[0]
    np.testing.assert_allclose(cut[0, :, 1], np.linspace(10.5, 14, 15), atol=1e-3)


def test_crop_pad_moves_by_up_to_the_padding():
    result = applied(random_crop_pad(2), np.repeat(WHOLE[:1], 512, axis=0))
    padded = np.pad(WHOLE[0], ((2, 2), (2, 2), (0, 0)))
    windows = [padded[r : r + 20, c : c + 14] for r in range(5) for c in range(5)]
    counts = [sum((window == result).all((1, 2, 3))) for window in windows]
    assert sum(counts) == 512 and min(counts) > 0


# ------------------------------------------------------------------------------------------------------------
# Erasing


def rectangle_of(mask):
    """Rows and columns of the one full rectangle that a mask (H, W) marks."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert mask.sum() == len(rows) * len(columns)
    return len(rows), len(columns)


def test_erasing_covers_one_rectangle_with_the_mean():
    images = np.random.default_rng(0).uniform(1, 255, (400, 40, 40, 3)).astype(np.float32)
    result = applied(random_erasing(1.0, (0.1, 0.2), (0.5, 2.0)), images)
    changed = (result != images).any(-1)
    sizes = [rectangle_of(mask) for mask in changed]
    assert all(0.4 < height / width < 2.5 for height, width in sizes)
    shares = changed.mean((1, 2))
    assert 0.08 < min(shares) < 0.11 and 0.19 < max(shares) < 0.23
    assert changed.any((0, 1)).all() and changed.any((0, 2)).all()  # up to the borders
    colour = result[0][changed[0]]
    np.testing.assert_allclose(colour, np.tile(images[0].mean((0, 1)), (len(colour), 1)), rtol=1e-4)


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.3, 0.2, 0.4), (1.0, 1, 1)])
def test_erasing_probability(probability, low, high):
    images = np.repeat(WHOLE, 64, axis=0)
    share = (applied(random_erasing(probability), images) != images).any((1, 2, 3)).mean()
    assert low <= share <= high


def test_rectangles_have_the_size_number_and_colour_that_are_asked_for():
    images = np.random.default_rng(0).uniform(1, 250, (300, 40, 30, 3)).astype(np.float32)
    args = {"area": 0.1, "wh_ratio": 0.5, "fill_method": "uniform", "color": (255, 0, 3)}
    one = applied(random_rectangle_erasing(1, **args), images)
    covered = (one != images).any(-1)
    np.testing.assert_array_equal(one[covered], np.tile(np.float32([255, 0, 3]), (covered.sum(), 1)))
    sizes = [rectangle_of(mask) for mask in covered if mask.any()]
    assert max(sizes) == (15, 8) or max(sizes) == (16, 8)  # 120 of 1200 pixels, twice as high as wide
    assert covered[:, 0].any() and covered[:, -1].any() and covered[:, :, 0].any() and covered[:, :, -1].any()
    numbers = applied(random_rectangle_erasing((0, 2), **args), images)
    shares = [(numbers[i] != images[i]).any(-1).mean() for i in range(300)]
    assert 0.2 < np.mean(np.array(shares) == 0) < 0.5 and max(shares) > 0.15


def test_random_colours_are_one_a_rectangle_and_mosaics_one_a_pixel():
    images = np.random.default_rng(0).uniform(0.1, 0.9, (60, 40, 30, 3)).astype(np.float32)
    plain = applied(random_rectangle_erasing(1, 0.2, 1), images)
    colours = [np.unique(p[(p != i).any(-1)], axis=0) for p, i in zip(plain, images, strict=True)]
    assert max(len(colour) for colour in colours) == 1
    assert len(np.unique(np.concatenate(colours), axis=0)) > 50
    mosaic = applied(random_rectangle_erasing(1, 0.2, 1, "mosaic"), images)
    assert min(len(np.unique(m[(m != i).any(-1)])) for m, i in zip(mosaic, images, strict=True)) > 20


@pytest.mark.parametrize("method", ["random", "mosaic"])
def test_grey_images_get_grey_rectangles(method):
    grey = np.repeat(np.random.default_rng(0).uniform(1, 250, (40, 20, 10, 1)), 3, axis=-1)
    result = applied(random_rectangle_erasing(2, fill_method=method), grey)
    assert np.ptp(result, axis=-1).max() == 0
    assert (result != grey.astype(np.float32)).any()


def test_the_mode_batch_erases_the_same_in_all_images():
    images = np.random.default_rng(0).uniform(0.1, 0.9, (10, 20, 10, 3)).astype(np.float32)
    covered = applied(random_rectangle_erasing(2, mode="batch"), images) != images
    assert (covered == covered[:1]).all() and covered.any()
    apart = applied(random_rectangle_erasing(2, mode="image"), images) != images
    assert not (apart == apart[:1]).all()


# ------------------------------------------------------------------------------------------------------------
# Visible and thermal


def outcomes(result, images):
    """Share of the images that became red, green, blue, grey, and of those that are as before."""
    channels = [np.repeat(images[..., c : c + 1], 3, axis=-1) for c in range(3)]
    grey = np.repeat(images @ np.float32([[0.299], [0.587], [0.114]]), 3, axis=-1)
    same = [np.isclose(result, one, atol=1e-3).all((1, 2, 3)) for one in (*channels, grey, images)]
    np.testing.assert_array_equal(np.sum(same, axis=0), 1)
    return np.mean(same, axis=1)


@pytest.mark.parametrize(
    ("function", "shares"),
    [
        (random_channel_exchange(), (1 / 3, 1 / 3, 1 / 3, 0, 0)),
        (random_channel_exchange(0.6), (0.2, 0.2, 0.2, 0, 0.4)),
        (channel_adaptive_gray(), (0.25, 0.25, 0.25, 0.125, 0.125)),
        (channel_adaptive_gray(1), (0.25, 0.25, 0.25, 0.25, 0)),
        (channel_adaptive_gray(0), (0.25, 0.25, 0.25, 0, 0.25)),
    ],
)
def test_channels_are_exchanged_as_often_as_published(function, shares):
    images = np.random.default_rng(0).uniform(0, 255, (4000, 3, 2, 3)).astype(np.float32)
    found = outcomes(applied(function, images), images)
    np.testing.assert_allclose(found, shares, atol=0.03)  # 4 deviations
    np.testing.assert_array_equal(found[np.array(shares) == 0], 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_erasing_covers_one_rectangle_with_the_published_fill(channels):
    images = np.random.default_rng(0).uniform(0, 100, (60, 40, 30, channels)).astype(np.float32)
    result = applied(random_channel_erasing(1.0, (0.1, 0.2), (0.5, 2.0)), images)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    fill = 255 * (mean + deviation * [0.4914, 0.4822, 0.4465])
    changed = (result != images).any(-1)
    expected = fill if channels == 3 else [fill.mean()]
    np.testing.assert_allclose(result[changed], np.tile(expected, (changed.sum(), 1)), atol=0.1)
    for mask in changed:
        height, width = rectangle_of(mask)
        assert height * width == mask.sum() and 0.08 < mask.mean() < 0.23
    untouched = applied(random_channel_erasing(0.5), np.repeat(images[:1], 400, axis=0)) == images[:1]
    assert 0.42 < untouched.all((1, 2, 3)).mean() < 0.58


# ------------------------------------------------------------------------------------------------------------
# Mixtures


def test_weights_of_a_mixture_sum_to_one():
    weights = _dirichlet(2000, tf.constant((1, 2)), 3, 1.0).numpy()
    assert weights.shape == (3, 2000, 1, 1, 1) and weights.min() >= 0
    np.testing.assert_allclose(weights.sum(0), 1, rtol=1e-5)
    np.testing.assert_allclose(weights.mean((1, 2, 3, 4)), 1 / 3, atol=0.02)


def test_no_operation_of_strength_0_changes_a_plain_image():
    plain = np.full((200, 8, 8, 3), 77.0)
    np.testing.assert_allclose(applied(augmix(severity=0), plain), plain, atol=1e-2)
    np.testing.assert_allclose(applied(rand_augment(magnitude=0), plain), plain, atol=1e-2)


def test_strength_grows_with_the_magnitude():
    for build, weak, strong in ((rand_augment, 3, 30), (augmix, 1, 10)):
        argument = {rand_augment: "magnitude", augmix: "severity"}[build]
        images = np.repeat(WHOLE, 16, axis=0)
        little, much = (
            np.abs(applied(build(**{argument: value}), images) - images).mean() for value in (weak, strong)
        )
        assert 0 < little < 0.8 * much
