import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from common.config import ConfigError
from src.models.mobilenetv1 import mobilenetv1_a025
from src.models.mobilenetv2 import mobilenetv2_a035, mobilenetv2_a140
from src.models.resnet50v2 import resnet50v2

V1_FILE = "mobilenet_2_5_224_tf_no_top.h5"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of weights; and no network, whatever the machine has."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def refuse(url, *_, **__):
        raise OSError("no network")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", refuse)
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def publish(path, network):
    """Write weights in the format of the published files."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)


@pytest.mark.parametrize("shape", [(256, 128, 3), (128, 128, 3)])
def test_published_weights_are_loaded_for_any_size(folder, shape):
    published = keras.applications.MobileNet((224, 224, 3), alpha=0.25, include_top=False, weights=None)
    publish(folder / V1_FILE, published)
    backbone = mobilenetv1_a025(shape, pretrained=True)
    assert len(backbone.get_weights()) == len(published.get_weights())
    for found, expected in zip(backbone.get_weights(), published.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("builder", "file"),
    [
        (mobilenetv1_a025, V1_FILE),
        (mobilenetv2_a035, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"),
        (mobilenetv2_a140, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.4_224_no_top.h5"),
        (resnet50v2, "resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5"),
    ],
)
def test_without_network_the_message_says_what_to_do(folder, builder, file):
    with pytest.raises(ConfigError) as error:
        builder((64, 32, 3), pretrained=True)
    for part in (
        file,
        "https://storage.googleapis.com/tensorflow/keras-applications/",
        str(folder),
        "pretrained: False",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("content", [b"<html>sign in</html>", b""])
def test_a_damaged_file_is_named(folder, content):
    (folder / V1_FILE).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{V1_FILE} does not hold the expected weights"):
        mobilenetv1_a025((64, 32, 3), pretrained=True)


def test_weights_of_another_network_are_refused(folder):
    publish(
        folder / V1_FILE,
        keras.applications.MobileNet((64, 64, 3), alpha=0.5, include_top=False, weights=None),
    )
    with pytest.raises(ConfigError, match="does not hold the expected weights"):
        mobilenetv1_a025((64, 32, 3), pretrained=True)


def test_weights_are_for_three_channels(folder):
    with pytest.raises(ConfigError, match="3 channels, but input_shape has 1"):
        mobilenetv1_a025((64, 32, 1), pretrained=True)
