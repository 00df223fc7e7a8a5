"""Batches of two modalities: which images, in which order, augmented how."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.config import ConfigError
from src.data.pipeline import View, cross_modal_training_batches, load_pixels
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.samplers import cross_modal_batches

P, K, SEED = 2, 2, 3
COLOUR = Preprocessing((32, 16, 3), scale=1.0, offset=0.0)
PREPROCESSING = {"visible": COLOUR, "thermal": COLOUR.of_shape((32, 16, 1))}
VIEWS = (View("visible"), View("thermal"))
# Identity 3 was seen by a visible camera only; the order of the files says nothing.
SEEN = [(identity, modality) for identity in range(3) for modality in ("thermal", "visible", "visible") * 2]
SEEN += [(3, "visible")] * 2
LABELS = np.array([identity for identity, _ in SEEN], np.int32)
THERMAL = np.array([modality == "thermal" for _, modality in SEEN])


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number, (_, modality) in enumerate(SEEN):
        shape = (32, 16) if modality == "thermal" else (32, 16, 3)
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{number}.png")
    return [Sample(folder / f"{n}.png", label, 1, modality) for n, (label, modality) in enumerate(SEEN)]


def batches_of(samples, views=VIEWS, preprocessing=PREPROCESSING, **more):
    dataset = cross_modal_training_batches(samples, LABELS, preprocessing, views, P, K, SEED, **more)
    assert len(dataset) > 0
    return list(dataset.as_numpy_iterator())


def test_batches_hold_the_images_of_the_sampler_by_modality(samples):
    expected = cross_modal_batches(LABELS, THERMAL, P, K, SEED, epoch=1)
    batches = batches_of(samples, epoch=1)
    assert len(batches) == len(expected) == 3  # 12 visible images of three people
    for batch, index in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(batch["index"], index)
        np.testing.assert_array_equal(batch["labels"], LABELS[index])
        halves = dict(zip(("visible", "thermal"), np.split(index, 2), strict=True))
        for modality, own in halves.items():
            pixels = load_pixels([samples[i] for i in own], PREPROCESSING[modality])
            np.testing.assert_array_equal(batch["images"][modality], pixels)


def test_a_second_view_repeats_the_visible_images_with_changes_of_their_own(samples):
    def brighter(images, seed):
        return images + 1000.0

    views = (View("visible"), View("visible", brighter), View("thermal"))
    for batch, plain in zip(batches_of(samples, views), batches_of(samples), strict=True):
        first, second = np.split(batch["images"]["visible"], 2)
        np.testing.assert_array_equal(first, plain["images"]["visible"])
        np.testing.assert_array_equal(second, first + 1000.0)
        np.testing.assert_array_equal(batch["images"]["thermal"], plain["images"]["thermal"])
        visible, thermal = np.split(plain["index"], 2)
        np.testing.assert_array_equal(batch["index"], np.concatenate([visible, visible, thermal]))
        np.testing.assert_array_equal(batch["labels"], LABELS[batch["index"]])


def noisy(images, seed):
    return images + tf.random.stateless_uniform(tf.shape(images), seed)


def test_every_view_draws_for_itself_and_rescaling_comes_last(samples):
    half = {
        name: Preprocessing(p.input_shape, 0.5, 7.0, color_mode=p.color_mode)
        for name, p in PREPROCESSING.items()
    }
    views = (View("visible", noisy), View("visible", noisy), View("thermal", noisy))
    for batch, plain in zip(batches_of(samples, views, half), batches_of(samples), strict=True):
        first, second = np.split(batch["images"]["visible"], 2)
        assert np.abs(first - second).mean() > 0.1
        for part in (first, second):
            noise = (part - 7.0) / 0.5 - plain["images"]["visible"]
            assert noise.min() > -1e-3 and noise.max() < 1.001


def test_a_stream_can_be_entered_anywhere(samples):
    stream = batches_of(samples, [View("visible", noisy), View("thermal", noisy)], epochs=3)
    later = batches_of(samples, [View("visible", noisy), View("thermal", noisy)], epoch=1, epochs=2)
    for one, other in zip(stream[3:], later, strict=True):
        np.testing.assert_array_equal(one["index"], other["index"])
        for modality in PREPROCESSING:
            np.testing.assert_array_equal(one["images"][modality], other["images"][modality])


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_cache_changes_nothing_but_speed(samples, tmp_path, where):
    cache = "memory" if where == "memory" else tmp_path / "cache"
    for cached, plain in zip(batches_of(samples, cache=cache), batches_of(samples), strict=True):
        for modality in PREPROCESSING:
            np.testing.assert_array_equal(cached["images"][modality], plain["images"][modality])
    assert where == "memory" or len(list(cache.iterdir())) == 2  # one file a modality


def test_too_few_identities_in_both_modalities_are_named(samples):
    with pytest.raises(
        ConfigError, match="P = 4 identities with images of both modalities cannot be drawn: 3 "
    ):
        cross_modal_training_batches(samples, LABELS, PREPROCESSING, VIEWS, 4, K, SEED)
