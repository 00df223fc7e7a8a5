import numpy as np
import pytest

from common.config import ConfigError
from src.data.preprocessing import Preprocessing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interpolation": "cubic"}, "interpolation must be one of bilinear, nearest.*got 'cubic'"),
        ({"aspect_ratio": "pad"}, "aspect_ratio must be one of fit, crop, padding, got 'pad'"),
        ({"color_mode": "bgr"}, "color_mode must be one of grayscale, rgb, rgba, got 'bgr'"),
        ({"color_mode": "grayscale"}, r"'grayscale' has 1 channel\(s\).*asks for 3"),
        ({"input_shape": (256, 128)}, r"must be \(height, width, channels\), got \(256, 128\)"),
        ({"input_shape": (256, 0, 3)}, "must be"),
        (
            {"scale": (1.0, 2.0)},
            r"rescaling.scale: .* or one for each of 3 channel\(s\), received \[1.0, 2.0\]",
        ),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**({"input_shape": (256, 128, 3)} | arguments))


def test_rescaling():
    preprocessing = Preprocessing((256, 128, 3), scale=1 / 127.5, offset=-1)
    np.testing.assert_allclose(preprocessing.rescale(np.array([0.0, 127.5, 255.0])), [-1, 0, 1], atol=1e-12)
    assert preprocessing.size == (256, 128)


def test_rescaling_of_each_channel():
    """ImageNet's mean and deviation; a manifest brings lists."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    arguments = {"scale": list(1 / (255 * deviation)), "offset": list(-mean / deviation)}
    preprocessing = Preprocessing((256, 128, 3), **arguments)
    assert preprocessing == Preprocessing((256, 128, 3), **{k: tuple(v) for k, v in arguments.items()})
    pixels = np.arange(12, dtype="float32").reshape(2, 2, 3) * 20
    found = preprocessing.rescale(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (pixels / 255 - mean) / deviation, atol=1e-6)
