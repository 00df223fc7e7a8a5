"""Channels before a BNNeck: the embeddings stay, the ranges become one, and eight bits lose less."""

import keras
import numpy as np
import pytest
from keras import layers

from common.quantization.bridge import to_tf_keras
from common.quantization.equalize import equalize_features
from common.quantization.fold import fold_batch_norm
from common.quantization.qat import prepare_qat


def necked(activation="relu", pooled=True, reads_twice=False):
    """A network whose channels before the neck vary by factors of up to 1,000, as trained."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    images = keras.Input((32, 16, 3))
    x = layers.Conv2D(24, 3, strides=4, padding="same", use_bias=False)(images)
    x = x if pooled else layers.GlobalAveragePooling2D()(x)
    norm = layers.BatchNormalization(name="norm")
    x = (
        layers.ReLU(6.0, name="relu")(norm(x))
        if activation == "relu6"
        else layers.Activation(activation)(norm(x))
    )
    features = layers.GlobalAveragePooling2D(name="features")(x) if pooled else x
    neck = layers.BatchNormalization(center=False, epsilon=1e-5, name="bnneck")
    embedding = neck(features)
    model = keras.Model(images, layers.Concatenate()([embedding, features]) if reads_twice else embedding)
    sizes = np.geomspace(0.001, 1, 24)
    norm.moving_variance.assign(np.full(24, 0.1))
    norm.gamma.assign(sizes * generator.uniform(0.5, 1.5, 24))
    norm.beta.assign(sizes * generator.uniform(0.2, 1, 24))
    x = np.asarray(keras.Model(images, features)(_images(64), training=False))
    neck.moving_mean.assign(x.mean(axis=0))
    neck.moving_variance.assign(x.var(axis=0))
    return model


def _images(count, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 32, 16, 3)).astype(np.float32)


def _calibration():
    return [_images(64)]


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_the_embeddings_stay_and_the_ranges_become_one(activation):
    model = necked(activation)
    before = model(_images(64))
    scaled = equalize_features(model, _calibration)
    np.testing.assert_allclose(scaled(_images(64)), before, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(model(_images(64)), before)
    features = scaled.layers[-3].output
    greatest = np.asarray(keras.Model(scaled.input, features)(_images(64))).reshape(-1, 24).max(axis=0)
    np.testing.assert_allclose(greatest, greatest.max(), rtol=1e-4)


@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
def test_a_network_whose_activation_does_not_scale_stays(activation):
    model = necked(activation)
    assert equalize_features(model, _calibration) is model


def test_a_network_that_ends_otherwise_stays():
    model = necked()
    without_neck = keras.Model(model.input, model.get_layer("features").output)
    for other in (without_neck, necked(pooled=False), necked(reads_twice=True)):
        assert equalize_features(other, list) is other


def test_a_channel_that_never_fires_stays():
    model = necked()
    beta = np.asarray(model.get_layer("norm").beta)
    beta[3] = -100
    model.get_layer("norm").beta.assign(beta)
    scaled = equalize_features(model, _calibration)
    assert scaled.get_layer("norm").gamma[3] == model.get_layer("norm").gamma[3]
    assert np.all(np.isfinite(scaled(_images(4))))


def test_a_mean_and_its_neck_are_one_depthwise_convolution():
    model = necked()
    folded = fold_batch_norm(to_tf_keras(model))
    np.testing.assert_allclose(folded(_images(4)), model(_images(4)), rtol=1e-3, atol=1e-3)
    kernel = folded.get_layer("features").get_weights()[0]
    assert kernel.shape == (8, 4, 24, 1) and "bnneck" not in [layer.name for layer in folded.layers]
    kept = fold_batch_norm(to_tf_keras(model), keep=["features"])
    assert type(kept.get_layer("features")).__name__ == "GlobalAveragePooling2D"
    np.testing.assert_allclose(kept(_images(4)), model(_images(4)), rtol=1e-3, atol=1e-3)


def test_eight_bits_lose_less(cosine):
    model = necked()
    expected = np.asarray(model(_images(16, seed=2)))
    found = {
        name: cosine(np.asarray(prepare_qat(network, _calibration)(_images(16, seed=2))), expected)
        for name, network in (("as it is", model), ("equalized", equalize_features(model, _calibration)))
    }
    assert found["equalized"] > 0.99 > 0.98 > found["as it is"]


def test_the_mean_embedding_is_that_of_the_float_network():
    model = equalize_features(necked(), _calibration)
    quantized = prepare_qat(model, _calibration)
    error = np.asarray(quantized(_images(64))).mean(axis=0) - np.asarray(model(_images(64))).mean(axis=0)
    step = quantized.get_layer("quant_features")._weight_vars[0][1].scales["output"].numpy()
    assert np.abs(error).max() < 0.25 * step
