"""What every augmentation owes: it is a pure function of images and seed, and each image has its own draw."""

import numpy as np
import pytest
import tensorflow as tf

from common.config import ConfigError
from src.augmentation._sequence import sequence
from src.registries import AUGMENTATIONS

IMAGES = np.random.default_rng(0).uniform(1, 255, (64, 24, 12, 3)).astype(np.float32)

# Arguments for what has none by default, strong enough to change every image.
ARGUMENTS = {
    "random_blur": {"filter_size": (2, 4)},
    "random_brightness": {"factor": 0.3},
    "random_contrast": {"factor": 0.4},
    "random_gamma": {"gamma": (0.5, 2)},
    "random_gaussian_noise": {"stddev": (0.02, 0.1)},
    "random_hsv": {"hue_delta": 0.1, "saturation_delta": 0.2, "value_delta": 0.2},
    "random_hue": {"delta": 0.2},
    "random_jpeg_quality": {"jpeg_quality": (20, 60)},
    "random_posterize": {"bits": (1, 6)},
    "random_rotation": {"factor": 0.1},
    "random_saturation": {"delta": 0.3},
    "random_sharpness": {"factor": (0.5, 2)},
    "random_shear": {"factor": 0.05},
    "random_shear_x": {"factor": 0.05},
    "random_shear_y": {"factor": 0.05},
    "random_translation": {"width_factor": 0.2, "height_factor": 0.1},
    "random_value": {"delta": 0.3},
    "random_zoom": {"width_factor": 0.25},
    "random_rectangle_erasing": {"nrec": (1, 3)},
}
NAMES = list(AUGMENTATIONS)
WITH_RATE = [name for name in NAMES if "change_rate" in AUGMENTATIONS.find(name).parameters]
SAME_FOR_COPIES = {
    *("random_autocontrast", "random_equalize", "random_invert"),
    *("random_flip", "random_rgb_to_grayscale", "random_rgb_to_hsv"),
}  # changed or not is their only draw
NEEDS_COLOUR = {
    *(
        "channel_adaptive_gray",
        "random_channel_exchange",
        "rand_augment",
        "random_color_jitter",
        "random_hsv",
        "random_hue",
        "random_rgb_to_grayscale",
    ),
    *("random_rgb_to_hsv", "random_saturation", "random_value"),
}
GEOMETRIC = {
    *("random_blur", "random_crop", "random_crop_pad", "random_erasing", "random_flip", "random_rotation"),
    *("random_shear", "random_shear_x", "random_shear_y", "random_translation", "random_zoom"),
}  # they change a fourth channel as the others

ZOO = {
    "random_contrast": "factor, change_rate=1.0",
    "random_brightness": "factor, change_rate=1.0",
    "random_gamma": "gamma, change_rate=1.0",
    "random_hue": "delta, change_rate=1.0",
    "random_saturation": "delta, change_rate=1.0",
    "random_value": "delta, change_rate=1.0",
    "random_hsv": "hue_delta, saturation_delta, value_delta, change_rate=1.0",
    "random_rgb_to_hsv": "change_rate=0.25",
    "random_rgb_to_grayscale": "change_rate=0.25",
    "random_sharpness": "factor, change_rate=1.0",
    "random_posterize": "bits, change_rate=1.0",
    "random_invert": "change_rate=0.25",
    "random_solarize": "change_rate=0.25",
    "random_autocontrast": "cutoff=10, change_rate=0.25",
    "random_blur": "filter_size, padding='reflect', constant_values=0, change_rate=1.0",
    "random_gaussian_noise": "stddev, change_rate=1.0",
    "random_crop": "crop_center_x=(0.25, 0.75), crop_center_y=(0.25, 0.75), crop_width=(0.6, 0.9), "
    "crop_height=(0.6, 0.9), interpolation='bilinear', change_rate=0.9",
    "random_jpeg_quality": "jpeg_quality, change_rate=1.0",
    "random_flip": "mode, change_rate=0.5",
    "random_translation": "width_factor, height_factor, fill_mode='reflect', interpolation='bilinear', "
    "fill_value=0.0, change_rate=1.0",
    "random_rotation": "factor, fill_mode='reflect', interpolation='bilinear', fill_value=0.0, change_rate=1.0",
    "random_shear": "factor, fill_mode='reflect', interpolation='bilinear', fill_value=0.0, change_rate=1.0",
    "random_shear_x": "factor, fill_mode='reflect', interpolation='bilinear', fill_value=0.0, change_rate=1.0",
    "random_shear_y": "factor, fill_mode='reflect', interpolation='bilinear', fill_value=0.0, change_rate=1.0",
    "random_zoom": "width_factor, height_factor=None, fill_mode='reflect', interpolation='bilinear', "
    "fill_value=0.0, change_rate=1.0",
    "random_rectangle_erasing": "nrec=(0, 3), area=(0.05, 0.2), wh_ratio=(0.2, 1.5), fill_method='random', "
    "color=None, mode='image', change_rate=1.0",
}  # the model zoo's functions, arguments and defaults
OWN_ARGUMENTS = {
    ("random_solarize", "threshold"),
    ("random_flip", "mode"),
}  # with a default that the zoo has not


def built(name, **arguments):
    return AUGMENTATIONS.build(name, {**ARGUMENTS.get(name, {}), **arguments})


def always(name):
    return built(name, change_rate=1.0) if name in WITH_RATE else built(name)


def applied(function, images=IMAGES, seed=(3, 1)):
    return function(tf.constant(images), tf.constant(seed, tf.int32)).numpy()


def changed(result, images=IMAGES):
    return (result != images).any((1, 2, 3))


def test_the_zoo_is_complete_with_its_arguments_and_defaults():
    for name, signature in ZOO.items():
        parameters = AUGMENTATIONS.find(name).parameters
        ours = [
            argument if default is None else f"{argument}={default}"
            for argument, default in parameters.items()
            if (name, argument) not in OWN_ARGUMENTS
        ]
        assert ", ".join(ours) == signature.replace("mode, change_rate=0.5", "change_rate=0.5"), name
    assert len(ZOO) == 26


@pytest.mark.parametrize("name", NAMES)
def test_contract_of_every_augmentation(name):
    function = built(name)
    result = applied(function)
    assert result.shape == IMAGES.shape and result.dtype == np.float32
    assert result.min() >= 0 and result.max() <= 255
    np.testing.assert_array_equal(result, applied(function))
    assert not np.array_equal(result, applied(function, seed=(3, 2)))
    assert not np.array_equal(result, applied(function, seed=(4, 1)))
    # Copies of one image come out in different ways.
    copies = applied(always(name), np.repeat(IMAGES[:1], 64, axis=0))
    assert (len(np.unique(copies.reshape(64, -1), axis=0)) > 1) == (name not in SAME_FOR_COPIES)


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_traces_once_and_gives_the_same(name):
    function, traces = built(name), []

    def augment(step, images):
        traces.append(step)
        return function(images, tf.stack([3, tf.cast(step, tf.int32)]))

    batches = [IMAGES[:5], IMAGES[5:10], IMAGES[10:11]]  # the batch's size is not known in the graph
    stream = tf.data.Dataset.from_generator(
        lambda: iter(batches), output_signature=tf.TensorSpec((None, 24, 12, 3), tf.float32)
    )
    results = list(stream.enumerate().map(augment).as_numpy_iterator())
    assert len(traces) == 1
    for step, (images, result) in enumerate(zip(batches, results, strict=True)):
        # Less than one pixel value: a graph adds up in another order, and a threshold may fall on the other side.
        difference = np.abs(result - applied(function, images, (3, step)))
        assert (difference > 0.01).mean() < 0.01, name


@pytest.mark.parametrize("name", WITH_RATE)
def test_change_rate(name):
    np.testing.assert_array_equal(applied(built(name, change_rate=0)), IMAGES)
    # Some draws change little or nothing: the share is taken of what changes when all images may change.
    possible = changed(applied(built(name, change_rate=1))).mean()
    assert possible > 0.6
    many = np.repeat(IMAGES, 4, axis=0)
    share = changed(applied(built(name, change_rate=0.3), many), many).mean()
    assert abs(share - 0.3 * possible) < 0.12
    for wrong in (-0.1, 1.1, "often"):
        with pytest.raises(ValueError, match=f"{name}: change_rate must be a number"):
            built(name, change_rate=wrong)


@pytest.mark.parametrize("name", NAMES)
def test_grey_images_are_changed_or_refused_by_name(name):
    grey = IMAGES[..., :1]
    if name in NEEDS_COLOUR:
        with pytest.raises(ConfigError, match=f"data_augmentation.{name} needs colour images .* received 1"):
            applied(always(name), grey)
        with pytest.raises(ConfigError, match=f"data_augmentation.{name} needs colour images"):
            rate = {"change_rate": 1} if name in WITH_RATE else {}
            sequence({name: {**ARGUMENTS.get(name, {}), **rate}}, (24, 12, 1))
        assert sequence({name: ARGUMENTS.get(name, {})}, (24, 12, 3)) is not None
    else:
        assert applied(always(name), grey).shape == grey.shape


@pytest.mark.parametrize("name", NAMES)
def test_alpha_moves_with_the_picture_and_has_no_colour(name):
    images = np.concatenate([IMAGES, IMAGES[..., :1]], axis=-1)
    result = applied(always(name), images)
    assert result.shape == images.shape
    if name in GEOMETRIC:
        np.testing.assert_allclose(result[..., 3], result[..., 0], atol=1e-2)
    else:
        assert np.array_equal(result[..., 3], images[..., 3])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("random_contrast", {"factor": 0}),
        ("random_brightness", {"factor": 0}),
        ("random_gamma", {"gamma": 1}),
        ("random_hue", {"delta": 0}),
        ("random_saturation", {"delta": 0}),
        ("random_value", {"delta": 0}),
        ("random_hsv", {"hue_delta": 0, "saturation_delta": 0, "value_delta": 0}),
        ("random_sharpness", {"factor": 0}),
        ("random_blur", {"filter_size": 1}),
        ("random_gaussian_noise", {"stddev": 0}),
        ("random_solarize", {"threshold": 255}),
        ("random_crop", {"crop_center_x": 0.5, "crop_center_y": 0.5, "crop_width": 1, "crop_height": 1}),
        ("random_crop_pad", {"padding": 0}),
        ("random_translation", {"width_factor": 0, "height_factor": 0}),
        ("random_rotation", {"factor": 0}),
        ("random_shear", {"factor": 0}),
        ("random_shear_x", {"factor": 0}),
        ("random_shear_y", {"factor": 0}),
        ("random_zoom", {"width_factor": 0}),
        ("random_rectangle_erasing", {"nrec": 0}),
        ("random_erasing", {"probability": 0}),
        (
            "random_color_jitter",
            {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "change_rate": 1},
        ),
    ],
)
def test_no_strength_changes_nothing(name, arguments):
    np.testing.assert_allclose(applied(AUGMENTATIONS.build(name, arguments)), IMAGES, atol=2e-3)


def test_whole_values_keep_eight_bits():
    whole = np.round(IMAGES)
    np.testing.assert_array_equal(applied(built("random_posterize", bits=8), whole), whole)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("random_flip", {"mode": "both"}, "mode must be one of horizontal, vertical.*got 'both'"),
        ("random_crop_pad", {"padding": -1}, "padding must be 0 or more"),
        ("random_erasing", {"probability": 1.2}, "probability must be a number .* from 0 to 1, got 1.2"),
        ("random_erasing", {"area": (0.4, 0.1)}, r"area must be .* low <= high.*got \(0.4, 0.1\)"),
        ("random_erasing", {"aspect": (0.0, 1.0)}, "aspect must be"),
        ("random_contrast", {"factor": "strong"}, "random_contrast: factor must be a number .*got 'strong'"),
        ("random_contrast", {"factor": True}, "factor must be a number"),
        ("random_contrast", {"factor": (0.1, 0.2, 0.3)}, "factor must be"),
        ("random_contrast", {"factor": None}, "factor must be"),
        ("random_contrast", {"factor": -2}, "-1 or more, got -2"),
        ("random_contrast", {"factor": float("nan")}, "factor must be"),
        ("random_brightness", {"factor": 40}, "from -1 to 1, got 40"),
        ("random_gamma", {"gamma": (0, 1)}, "0.01 or more"),
        ("random_sharpness", {"factor": -1}, "0 or more, got -1"),
        ("random_posterize", {"bits": (2, 9)}, "bits must be a whole number .* from 1 to 8"),
        ("random_posterize", {"bits": (2.5, 8)}, "whole number"),
        ("random_autocontrast", {"cutoff": 50}, "cutoff must be a number .* from 0 to 49"),
        ("random_blur", {"filter_size": 0}, "filter_size must be a whole number .* 1 or more"),
        ("random_blur", {"filter_size": 3, "padding": "wrap"}, "padding must be one of reflect"),
        ("random_jpeg_quality", {"jpeg_quality": (50, 101)}, "from 0 to 100"),
        ("random_crop", {"crop_width": 0}, "crop_width must be"),
        ("random_crop", {"interpolation": "bicubic"}, "interpolation must be one of nearest, bilinear"),
        ("random_translation", {"width_factor": 0.1, "height_factor": 2}, "height_factor must be .* from -1 to 1"),
        ("random_rotation", {"factor": 0.1, "fill_mode": "mirror"}, "fill_mode must be one of constant, reflect"),
        ("random_rotation", {"factor": 0.1, "fill_value": 300}, "fill_value must be .* from 0 to 255"),
        ("random_zoom", {"width_factor": -1}, "width_factor must be"),
        ("random_shear_x", {"factor": 0.25}, "random_shear_x: factor must be .* from -0.249 to 0.249"),
        ("random_rectangle_erasing", {"fill_method": "noise"}, "fill_method must be one of uniform, random, mosaic"),
        ("random_rectangle_erasing", {"color": 3}, "color is for fill_method 'uniform' only"),
        ("random_rectangle_erasing", {"mode": "set"}, "mode must be one of image, batch"),
        ("rand_augment", {"magnitude": 31}, "magnitude must be .* from 0 to 30"),
        ("augmix", {"width": 0}, "width must be a whole number .* 1 or more"),
    ],
)  # fmt: skip
def test_mistakes_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        AUGMENTATIONS.build(name, arguments)


def test_a_colour_for_images_of_other_channels_is_refused():
    function = built("random_rectangle_erasing", fill_method="uniform", color=[1, 2])
    with pytest.raises(ConfigError, match=r"color has 2 values, the images have 3 channel\(s\)"):
        applied(function)


def test_names_and_arguments_of_the_zoos_documentation_are_answered_with_the_right_ones():
    for name, arguments, right in [
        ("random_gamma_adjust", {"gamma": (0.5, 2)}, "did you mean 'random_gamma'"),
        (
            "random_hsv",
            {"delta_hue": 1, "delta_saturation": 1, "delta_value": 1},
            "hue_delta, saturation_delta, value_delta",
        ),
        ("color_jitter", {}, "did you mean 'random_color_jitter'"),
    ]:
        with pytest.raises(ConfigError, match=right):
            AUGMENTATIONS.check(name, arguments)


def test_ranges_are_read_in_every_spelling():
    as_pair = applied(built("random_contrast", factor=(-0.25, 0.25)))
    for spelling in (0.25, "0.25", "1/4", [-0.25, 0.25], "(-0.25, 0.25)"):
        np.testing.assert_array_equal(applied(built("random_contrast", factor=spelling)), as_pair)


def test_a_sequence_keeps_the_order_and_gives_each_function_a_seed_of_its_own():
    invert, grey = {"random_invert": {"change_rate": 1}}, {"random_gamma": {"gamma": 2}}
    there, back = sequence({**invert, **grey}), sequence({**grey, **invert})
    np.testing.assert_allclose(applied(there), 255 * ((255 - IMAGES) / 255) ** 2, atol=0.01)
    np.testing.assert_allclose(applied(back), 255 - 255 * (IMAGES / 255) ** 2, atol=0.01)
    assert sequence({}) is None
    with_default = sequence({"random_flip": None, "random_invert": {"change_rate": 0.5}})
    result = applied(with_default)
    is_inverted = np.isclose(result.mean((1, 2, 3)), 255 - IMAGES.mean((1, 2, 3)), atol=1e-2)
    is_flipped = np.isclose(result[:, 0, 0, 0], np.where(is_inverted, 255, 0) + np.where(
        is_inverted, -1, 1) * IMAGES[:, 0, -1, 0], atol=1e-2)  # fmt: skip
    assert 0 < (is_inverted & is_flipped).mean() < min(is_inverted.mean(), is_flipped.mean())


def test_a_sequence_names_the_mistake():
    with pytest.raises(
        ConfigError, match="augmentation 'random_flip' cannot be made: random_flip: mode must"
    ):
        sequence({"random_flip": {"mode": "sideways"}})
    with pytest.raises(ConfigError, match="unknown augmentation 'random_flop'"):
        sequence({"random_flop": {}})
