import logging

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from common.config import ConfigError
from src.data import checks
from src.data.checks import check_images
from src.data.sample import Sample

SUFFIXES = [".jpg", ".png", ".bmp"]


def photo(height=96, width=48, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height))


def sample_of(path):
    return Sample(path, "7", 1)


def encoded(suffix):
    return cv2.imencode(suffix, photo())[1].tobytes()


def tensorflow_decodes(content):
    try:
        tf.io.decode_image(content, channels=3)
    except tf.errors.InvalidArgumentError:
        return False
    return True


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_truncation_that_tensorflow_refuses_is_found(tmp_path, suffix):
    whole = encoded(suffix)
    lengths = sorted({0, 1, 2, 3, 8, 30, *np.linspace(40, len(whole) - 1, 12, dtype=int), len(whole) - 2})
    paths = [tmp_path / f"{length}{suffix}" for length in [*lengths, len(whole)]]
    for path in paths:
        path.write_bytes(whole[: int(path.stem)])
    good = [sample.path for sample in check_images([sample_of(path) for path in paths], "skip")]
    assert good == [path for path in paths if tensorflow_decodes(path.read_bytes())] == paths[-1:]


def test_progressive_jpeg_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(photo()).save(path, progressive=True)
    assert check_images([sample_of(path)]) == [sample_of(path)]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"1 of 1 images cannot be decoded:\n  .*a\.jpg: .*truncated"):
        check_images([sample_of(path)])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_bytes_end_in_an_answer(tmp_path, suffix):
    """Whatever is wrong with a file: no unexpected exception, and what passes can be trained on."""
    whole, random = bytearray(encoded(suffix)), np.random.default_rng(0)
    paths = [tmp_path / f"{number}{suffix}" for number in range(150)]
    for path in paths:
        damaged = bytearray(whole)
        for position in random.integers(0, min(400, len(whole)), 4):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged)
    good = check_images([sample_of(path) for path in [*paths, _good(tmp_path)]], "skip")
    assert all(tensorflow_decodes(sample.path.read_bytes()) for sample in good)


def _good(tmp_path):
    path = tmp_path / "good.png"
    cv2.imwrite(str(path), photo())
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_modes_of_jpeg(tmp_path, mode):
    Image.fromarray(photo()).convert(mode).save(tmp_path / "a.jpg")
    assert len(check_images([sample_of(tmp_path / "a.jpg")])) == 1


def test_formats_that_tensorflow_does_not_decode_are_bad(tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.jpg", format="WEBP")
    (tmp_path / "empty.jpg").touch()
    Image.fromarray(photo()).convert("P").save(tmp_path / "palette.bmp")
    paths = [tmp_path / name for name in ("a.jpg", "empty.jpg", "palette.bmp", "missing.jpg")]
    with pytest.raises(ConfigError) as error:
        check_images([sample_of(path) for path in paths])
    lines = str(error.value).split("\n")
    assert "4 of 4" in lines[0]
    assert "not a JPEG, PNG or BMP" in lines[1]
    assert "empty file" in lines[2]
    assert "palette" in lines[3]
    assert "missing.jpg" in lines[4] and "No such file" in lines[4]
    assert "on_bad_image: skip" in lines[5]


def test_long_lists_are_cut(tmp_path):
    samples = [sample_of(tmp_path / f"{i}.jpg") for i in range(33)]
    with pytest.raises(ConfigError, match=r"33 of 33[\s\S]*\.\.\. and 13 more") as error:
        check_images(samples)
    assert str(error.value).count(".jpg: ") == 20


def test_skip_keeps_the_order_and_counts(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(checks, "_WORTH_A_BAR", 3)
    samples = [sample_of(tmp_path / f"{i}.png") for i in range(8)]
    for i, sample in enumerate(samples):
        content = encoded(".png")
        sample.path.write_bytes(content[:-30] if i in (2, 5) else content)
    with caplog.at_level(logging.WARNING):
        assert check_images(samples, "skip") == [s for i, s in enumerate(samples) if i not in (2, 5)]
    assert "2 of 8 images cannot be decoded" in caplog.text


def test_skipping_everything_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="1 of 1 images"):
        check_images([sample_of(tmp_path / "none.jpg")], "skip")
