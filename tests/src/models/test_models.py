"""What every model of the folder keeps."""

import keras
import numpy as np
import pytest

from common.config import ConfigError
from common.layers.rewrite import with_fused_batch_norm
from src.losses.cross_entropy import cross_entropy
from src.losses.triplet import triplet
from src.models._head import embedding_model, reid_network
from src.registries import MODELS

DIMENSIONS = {
    "custom_model": 256,
    "plain_cnn": 192,
    **dict.fromkeys(["osnet_a025", "osnet_a050", "osnet_a075", "osnet_a100"], 512),
    "mobilenetv1_a025": 256,
    "mobilenetv1_a050": 512,
    "mobilenetv1_a075": 768,
    "mobilenetv1_a100": 1024,
    **dict.fromkeys(["mobilenetv2_a035", "mobilenetv2_a050", "mobilenetv2_a075", "mobilenetv2_a100"], 1280),
    "mobilenetv2_a130": 1664,
    "mobilenetv2_a140": 1792,
    **dict.fromkeys(["resnet50v2", "resnet50", "resnet101", "resnet50_ibn_a"], 2048),
}
WITH_THEIR_OWN_TESTS = {"agw", "idkl"}  # two inputs, and a branch for training only
SMALLEST = ["custom_model", "plain_cnn", "mobilenetv1_a025", "mobilenetv2_a035", "osnet_a025"]
SHAPE = (64, 32, 3)
# Weights whose gradient vanishes by construction: a batch norm follows this bias and removes it.
WITHOUT_GRADIENT = {"fc/bias"}


def images(count=8, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *SHAPE)).astype("float32")


def with_lively_statistics(model):
    """Batch-norm weights far from 0 and 1, so that a wrong copy shows and deep features do not vanish."""
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return model


def test_every_model_is_listed():
    assert set(MODELS) == set(DIMENSIONS) | WITH_THEIR_OWN_TESTS


@pytest.mark.parametrize(
    "name", [name if name in SMALLEST else pytest.param(name, marks=pytest.mark.slow) for name in DIMENSIONS]
)
def test_one_training_step_reaches_every_weight(name):
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    backbone = MODELS.get(name)(SHAPE)
    assert (backbone.name, backbone.output_shape) == (name, (None, DIMENSIONS[name]))
    network = with_fused_batch_norm(reid_network(backbone, num_identities=4, bnneck=True))
    for layer in network.layers:
        if layer.name.endswith(
            "gate_fc1"
        ):  # of one channel in the narrowest OSNet: its ReLU may be born dead
            layer.bias.assign([10.0] * layer.filters)
    labels = np.repeat(np.arange(4), 2)
    with tf.GradientTape() as tape:
        outputs = network(images(), training=True)
        loss = cross_entropy(outputs["logits"], labels) + triplet(outputs["features"], labels)
    gradients = tape.gradient(loss, [variable.value for variable in network.trainable_variables])
    assert np.isfinite(float(loss))
    for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        assert np.all(np.isfinite(gradient)), variable.path
        assert np.any(gradient) or variable.path.endswith(tuple(WITHOUT_GRADIENT)), variable.path


@pytest.mark.parametrize("name", [*SMALLEST, pytest.param("resnet50v2", marks=pytest.mark.slow)])
def test_rewrites_and_file_keep_the_embedding(name, tmp_path):
    network = reid_network(with_lively_statistics(MODELS.get(name)(SHAPE)), num_identities=4, bnneck=True)
    expected = keras.ops.convert_to_numpy(network(images(), training=False)["embedding"])
    assert np.ptp(expected) > 1e-3
    fused = with_fused_batch_norm(network)
    assert [layer.name for layer in fused.layers] == [layer.name for layer in network.layers]
    network.set_weights(fused.get_weights())
    embedding_model(network).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    scale = np.abs(expected).max()
    for found in (fused(images())["embedding"], network(images())["embedding"], loaded(images())):
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)
    assert not any("Fused" in type(layer).__name__ for layer in loaded.layers)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["mobilenetv1_a025", "osnet_a025"])
def test_any_number_of_channels(name, channels):
    assert MODELS.get(name)((64, 32, channels)).input_shape == (None, 64, 32, channels)


@pytest.mark.parametrize("shape", [(256, 128), (16, 16, 3), (256, 128, 0), (256.0, 128, 3)])
@pytest.mark.parametrize("name", ["mobilenetv1_a025", "osnet_a025"])
def test_a_wrong_shape_is_explained(name, shape):
    with pytest.raises(ConfigError, match=r"input_shape: expected \(height, width, channels\)"):
        MODELS.get(name)(shape)
