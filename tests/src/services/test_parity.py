"""Two runtimes of one graph: how far apart they may be, and what is said beyond that."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from common.artifacts import Model
from src.data.preprocessing import Preprocessing
from src.services import _parity
from src.services._parity import LEAST_LIMIT, UNKNOWN_LIMIT, disagreement, fixed_images, rounding_limit

IMAGES = np.zeros((2, 4, 4, 3), np.float32)
ROWS = np.eye(2, dtype=np.float32)


@pytest.mark.parametrize(
    ("found", "refused"),
    [([1.0, 0.85], False), ([0.9, 0.5], True), ([1.0, float("nan")], True)],
)
def test_a_gap_beyond_the_limit_and_nan_are_refused(found, refused):
    said = disagreement("a.onnx against b.onnx", np.array(found), 0.1)
    assert (said is not None) == refused
    assert not refused or said.startswith("a.onnx against b.onnx: the mean gap (1 - cosine) of 2 images is ")


def test_the_threads_are_those_that_are_asked_for(monkeypatch):
    asked = []

    def open_model(path, threads=None, input_name=""):
        asked.append((path, threads))
        return nullcontext(SimpleNamespace(batch_size=2, embed=lambda images: ROWS[: len(images)]))

    monkeypatch.setattr(_parity, "open_model", open_model)
    _parity.embedded("m.onnx", IMAGES, 3)
    _parity.emulated("context.onnx", IMAGES, 2)
    assert asked == [("m.onnx", 3), ("context.onnx", 2)]


def test_the_limit_is_twice_what_rounding_does(tmp_path, monkeypatch):
    (tmp_path / "best.keras").touch()
    source = Model({"keras": tmp_path / "best.keras"}, "float32", (4, 4, 3), 2)
    model = Model({"onnx": tmp_path / "m.onnx"}, "int8", (4, 4, 3), 2, source=source)
    near = np.array([[0.98, 0.2], [0.2, 0.98]], np.float32)
    monkeypatch.setattr(_parity, "embedded", lambda path, images, threads, name: near)
    assert rounding_limit(model, ROWS, IMAGES, 1) == pytest.approx(0.04)
    monkeypatch.setattr(_parity, "embedded", lambda path, images, threads, name: ROWS)
    assert rounding_limit(model, ROWS, IMAGES, 1) == LEAST_LIMIT
    (tmp_path / "best.keras").unlink()
    assert rounding_limit(model, ROWS, IMAGES, 1) == UNKNOWN_LIMIT
    assert rounding_limit(source, ROWS, IMAGES, 1) == LEAST_LIMIT


def test_fixed_images_are_the_same_each_time_and_scaled_as_a_network_takes_them():
    preprocessing = Preprocessing((16, 8, 3), 1 / 127.5, -1.0, "bilinear", "fit", "rgb")
    images = fixed_images(preprocessing, 4)
    assert images.shape == (4, 16, 8, 3) and images.dtype == np.float32
    assert images.min() >= -1 and images.max() <= 1 and images.std() > 0.3
    assert np.array_equal(images, fixed_images(preprocessing, 4))
