import os
import time
from itertools import islice
from typing import get_args

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.config import ConfigError
from src.data import pipeline
from src.data.pipeline import evaluation_batches, load_images, load_pixels, training_batches
from src.data.preprocessing import Interpolation, Preprocessing
from src.data.sample import Sample
from src.data.samplers import pk_batches

PLAIN = Preprocessing((32, 16, 3), scale=1.0, offset=0.0)
LABELS = np.repeat(np.arange(5), 4)


def write(path, image):
    Image.fromarray(image).save(path)
    return Sample(path, "7", 1)


def noise(height, width, channels=3, seed=0):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return image[..., 0] if channels == 1 else image


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [write(folder / f"{i}.png", noise(48, 24, seed=i)) for i in range(20)]


def batches_of(samples, **arguments):
    arguments = {"preprocessing": PLAIN, "p": 3, "k": 2, "seed": 4} | arguments
    return list(training_batches(samples, LABELS, **arguments).as_numpy_iterator())


def test_training_batches_hold_the_images_of_the_sampler(samples):
    expected = pk_batches(LABELS, 3, 2, seed=4, epoch=2)
    pixels = load_pixels(samples, PLAIN)
    batches = batches_of(samples, epoch=2)
    np.testing.assert_array_equal([batch["index"] for batch in batches], expected)
    for batch in batches:
        np.testing.assert_array_equal(batch["images"], pixels[batch["index"]])
        np.testing.assert_array_equal(batch["labels"], LABELS[batch["index"]])
        assert {name: value.dtype.name for name, value in batch.items()} == {
            "images": "float32",
            "labels": "int32",
            "index": "int32",
        }


def test_a_stream_of_epochs_is_the_epochs_one_after_another(samples):
    stream = batches_of(samples, epoch=1, epochs=3, augment=noisy)
    single = [batch for epoch in (1, 2, 3) for batch in batches_of(samples, epoch=epoch, augment=noisy)]
    assert len(stream) == len(single) == 12
    for one, other in zip(stream, single, strict=True):
        np.testing.assert_array_equal(one["images"], other["images"])
        np.testing.assert_array_equal(one["index"], other["index"])


def noisy(images, seed):
    return images + tf.random.stateless_uniform(tf.shape(images), seed)


def test_augmentation_sees_pixels_and_a_new_seed_each_step(samples):
    seen = []

    def spy(images, seed):
        tf.numpy_function(lambda i, s: seen.append((i.min(), i.max(), *s)) or i, [images, seed], tf.float32)
        return images * 0 + 51

    half = Preprocessing((32, 16, 3), scale=1 / 255, offset=0.5)
    batches = batches_of(samples, preprocessing=half, epoch=3, augment=spy)
    assert all(np.allclose(batch["images"], 0.7) for batch in batches)
    assert sorted(seed for *_, seed in seen) == [12, 13, 14, 15]
    assert {seed for _, _, seed, _ in seen} == {4}
    assert max(high for _, high, *_ in seen) > 200


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_cache_changes_nothing_but_speed(samples, tmp_path, where, monkeypatch):
    monkeypatch.setattr(pipeline, "_CHUNK", 7)
    cache = "memory" if where == "memory" else tmp_path / "cache"
    for cached, plain in zip(batches_of(samples, cache=cache), batches_of(samples), strict=True):
        np.testing.assert_array_equal(cached["images"], plain["images"])
        np.testing.assert_array_equal(cached["index"], plain["index"])


def test_cache_in_a_folder_is_found_again_and_follows_the_files(tmp_path):
    images = [write(tmp_path / f"{i}.bmp", noise(48, 24, seed=i)) for i in range(20)]
    cache = tmp_path / "cache"
    batches_of(images, cache=cache)
    (first,) = cache.iterdir()
    written = first.stat().st_mtime_ns
    batches_of(images, cache=cache, preprocessing=Preprocessing((32, 16, 3)))
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [written]  # rescaling is not part of it
    batches_of(images, cache=cache, preprocessing=Preprocessing((32, 16, 3), interpolation="area"))
    assert len(list(cache.iterdir())) == 2
    write(images[0].path, noise(48, 24, seed=99))  # of the same size in bytes
    fresh = batches_of(images, cache=cache)
    assert len(list(cache.iterdir())) == 3
    np.testing.assert_array_equal(fresh[0]["images"], batches_of(images)[0]["images"])


def test_an_unfinished_cache_leaves_nothing_behind(samples, tmp_path):
    broken = Sample(tmp_path / "broken.png", "7", 1)
    broken.path.write_bytes(b"not an image")
    with pytest.raises(tf.errors.InvalidArgumentError):
        batches_of([*samples[:-1], broken], cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_training_batches_know_their_number_and_shape(samples):
    dataset = training_batches(samples, LABELS, PLAIN, 3, 2, seed=0, epochs=5)
    assert int(dataset.cardinality()) == 20
    assert dataset.element_spec["images"].shape == (6, 32, 16, 3)
    assert dataset.element_spec["labels"].shape == (6,)


def test_an_endless_looking_stream_starts_at_once(samples):
    stream = training_batches(samples, LABELS, PLAIN, 3, 2, seed=0, epochs=10**9)
    assert len(list(islice(stream, 9))) == 9


def test_mistakes_are_named(samples):
    with pytest.raises(ConfigError, match="P = 6 identities cannot be drawn from 5"):
        batches_of(samples, p=6)
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\)"):
        training_batches(samples[:3], LABELS, PLAIN, 3, 2, seed=0)


def test_evaluation_batches_are_all_images_in_order(samples):
    parts = list(evaluation_batches(samples, PLAIN, 8).as_numpy_iterator())
    assert [len(part) for part in parts] == [8, 8, 4]
    np.testing.assert_array_equal(np.concatenate(parts), load_pixels(samples, PLAIN))


def test_training_evaluation_and_loading_agree(samples, monkeypatch):
    monkeypatch.setattr(pipeline, "_CHUNK", 7)
    preprocessing = Preprocessing((40, 40, 3), interpolation="bicubic", aspect_ratio="padding")
    loaded = load_images(samples, preprocessing)
    np.testing.assert_array_equal(
        np.concatenate(list(evaluation_batches(samples, preprocessing, 7).as_numpy_iterator())), loaded
    )
    for batch in batches_of(samples, preprocessing=preprocessing):
        np.testing.assert_array_equal(batch["images"], loaded[batch["index"]])
    assert loaded.dtype == np.float32 and loaded.min() == -1 and 0.9 < loaded.max() <= 1


def test_nothing_to_load():
    assert load_images([], PLAIN).shape == (0, 32, 16, 3)


def test_files_of_the_right_size_keep_their_pixels(tmp_path):
    image = noise(32, 16)
    for interpolation in get_args(Interpolation):
        same = Preprocessing((32, 16, 3), interpolation=interpolation)
        np.testing.assert_array_equal(load_pixels([write(tmp_path / "a.png", image)], same)[0], image)


@pytest.mark.parametrize("interpolation", ["bilinear", "area"])
@pytest.mark.parametrize("size", [(20, 40), (12, 24), (7, 31), (30, 90)])
def test_interpolations_agree_with_opencv(tmp_path, interpolation, size):
    if interpolation == "area" and size == (30, 90):
        size = (24, 16)  # OpenCV has no area interpolation that enlarges
    smooth = cv2.GaussianBlur(noise(24, 48), (7, 7), 3)
    sample = write(tmp_path / "a.png", smooth)
    ours = load_pixels([sample], Preprocessing((*size, 3), interpolation=interpolation))[0]
    method = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}[interpolation]
    difference = ours.astype(int) - cv2.resize(smooth, size[::-1], interpolation=method)
    assert np.abs(difference).max() <= 1
    assert abs(difference.mean()) < 0.15  # rounded, not cut off


@pytest.mark.parametrize("size", [(20, 60), (12, 24), (7, 31), (30, 90)])
def test_nearest_takes_the_pixel_under_the_centre(tmp_path, size):
    image = noise(24, 48)
    rows, columns = (
        ((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(size, (24, 48), strict=True)
    )
    sample = write(tmp_path / "a.png", image)
    ours = load_pixels([sample], Preprocessing((*size, 3), interpolation="nearest"))[0]
    np.testing.assert_array_equal(ours, image[rows][:, columns])


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
@pytest.mark.parametrize("aspect_ratio", ["fit", "crop", "padding"])
def test_every_interpolation_keeps_the_range_and_a_flat_colour(tmp_path, interpolation, aspect_ratio):
    stripes = np.zeros((60, 60, 3), np.uint8)
    stripes[:, ::7] = 255
    flat = np.full((60, 60, 3), 77, np.uint8)
    both = [write(tmp_path / "a.png", stripes), write(tmp_path / "b.png", flat)]
    pixels = load_pixels(
        both, Preprocessing((96, 40, 3), interpolation=interpolation, aspect_ratio=aspect_ratio)
    )
    # A kernel that overshoots would wrap around without clipping: dark stripes would hold values near 255.
    assert pixels[0].mean() < 80
    inner = pixels[1][28:68] if aspect_ratio == "padding" else pixels[1]
    assert np.abs(inner.astype(int) - 77).max() <= 1


def test_fit_crop_and_padding(tmp_path):
    # Four vertical bands of 20 pixels in an image of 40 x 80, for an input of 40 x 40.
    image = np.repeat(np.array([10, 60, 120, 200], np.uint8), 20)[None, :, None] * np.ones(
        (40, 1, 3), np.uint8
    )
    sample = write(tmp_path / "a.png", image)

    def columns(aspect_ratio, shape=(40, 40, 3)):
        return load_pixels(
            [sample], Preprocessing(shape, interpolation="nearest", aspect_ratio=aspect_ratio)
        )[0]

    assert columns("fit")[20, ::10, 0].tolist() == [10, 60, 120, 200]
    assert columns("crop")[20, [0, 19, 20, 39], 0].tolist() == [60, 60, 120, 120]
    padded = columns("padding")
    assert padded[[0, 9, 10, 29, 30, 39], 0, 0].tolist() == [0, 0, 10, 10, 0, 0]
    assert padded[20, ::10, 0].tolist() == [10, 60, 120, 200]
    # Odd remainders still fill the input exactly.
    assert columns("padding", (41, 33, 3)).shape == (41, 33, 3)
    assert columns("crop", (41, 33, 3)).shape == (41, 33, 3)


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (1, 1), (7, 5)])
@pytest.mark.parametrize("aspect_ratio", ["fit", "crop", "padding"])
def test_extreme_sizes(tmp_path, shape, aspect_ratio):
    sample = write(tmp_path / "a.png", noise(*shape))
    assert load_pixels([sample], Preprocessing((64, 32, 3), aspect_ratio=aspect_ratio)).shape == (
        1,
        64,
        32,
        3,
    )


MODES = {"grayscale": 1, "rgb": 3, "rgba": 4}
SAVED = {"jpg": ("L", "RGB", "CMYK"), "png": ("L", "RGB", "RGBA", "P", "LA"), "bmp": ("L", "RGB")}


@pytest.mark.parametrize("color_mode", MODES)
def test_any_file_is_decoded_to_the_colour_mode(tmp_path, color_mode):
    smooth = cv2.GaussianBlur(noise(32, 16), (7, 7), 3)
    smooth[..., 2] //= 2
    paths = [tmp_path / f"{mode}.{suffix}" for suffix, modes in SAVED.items() for mode in modes]
    for path in paths:
        quality = {"quality": 98} if path.suffix == ".jpg" else {}
        Image.fromarray(smooth).convert(path.stem).save(path, **quality)
    to = Preprocessing((32, 16, MODES[color_mode]), color_mode=color_mode)
    decoded = load_pixels([Sample(path, "7", 1) for path in paths], to).astype(int)
    for path, pixels in zip(paths, decoded, strict=True):
        with Image.open(path) as file:
            colour = file.convert("RGBA" if path.stem in ("RGBA", "LA") else "RGB").convert("RGB")
        expected = np.asarray(colour.convert("L" if color_mode == "grayscale" else color_mode.upper()), int)
        tolerance = 12 if path.suffix == ".jpg" else 1
        gap = np.abs(pixels - expected.reshape(pixels.shape))
        assert gap.mean() <= tolerance / 4 and gap.max() <= tolerance, path.name
        if color_mode == "rgba":
            assert (pixels[..., 3] == 255).all(), path.name


def test_prefetch_is_bounded(samples):
    """A slow consumer must not let the pipeline fill the memory."""
    produced = []

    def count(images, seed):
        tf.numpy_function(lambda s: produced.append(int(s)) or s, [seed[1]], tf.int32)
        return images

    stream = iter(training_batches(samples, LABELS, PLAIN, 3, 2, seed=0, epochs=100, augment=count))
    next(stream)
    time.sleep(0.5)
    assert len(produced) <= 2 * pipeline._READY_BATCHES + 4 * (os.cpu_count() or 1) < 100
