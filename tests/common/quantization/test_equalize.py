"""Channels that batch norms read: the embeddings stay, the ranges become one, and eight bits lose less."""

import keras
import numpy as np
import pytest
from keras import layers

from common.quantization.bridge import to_tf_keras
from common.quantization.equalize import equalize_channels
from common.quantization.fold import fold_batch_norm
from common.quantization.qat import prepare_qat


def necked(activation="relu", reads_twice=False):
    """A network whose channels before the neck vary by factors of up to 1,000, as trained."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    images = keras.Input((32, 16, 3))
    x = layers.Conv2D(24, 3, strides=4, padding="same", use_bias=False)(images)
    norm = layers.BatchNormalization(name="norm")
    x = (
        layers.ReLU(6.0, name="relu")(norm(x))
        if activation == "relu6"
        else layers.Activation(activation)(norm(x))
    )
    features = layers.GlobalAveragePooling2D(name="features")(x)
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


def pre_activated(last="norm"):
    """Two residual blocks whose stream, padded and pooled, only batch norms read, as in ResNetV2."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    images = keras.Input((32, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(images)
    x = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))
    for index in range(2):
        y = layers.ReLU()(layers.BatchNormalization(name=f"norm{index}")(x))
        y = layers.DepthwiseConv2D(3, padding="same", name=f"branch{index}")(y)
        x = layers.Add(name=f"sum{index}")([x, y])
    x = layers.BatchNormalization(name="last")(x) if last == "norm" else layers.Conv2D(8, 1)(x)
    model = keras.Model(images, layers.GlobalAveragePooling2D(name="pooled")(layers.ReLU()(x)))
    for name in ("stem", "branch0", "branch1"):
        kernel = model.get_layer(name).kernel
        kernel.assign(kernel * np.geomspace(0.001, 1, 8).reshape((8, 1) if "branch" in name else 8))
    for name in ("norm0", "norm1", "last")[: 3 if last == "norm" else 2]:
        norm = model.get_layer(name)
        values = np.asarray(keras.Model(images, norm.input)(_images(64))).reshape(-1, 8)
        norm.moving_mean.assign(values.mean(axis=0))
        norm.moving_variance.assign(values.var(axis=0))
        norm.gamma.assign(generator.uniform(0.5, 1.5, 8))
    return model


def _images(count, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 32, 16, 3)).astype(np.float32)


def _calibration():
    return [_images(64)]


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_the_embeddings_stay_and_the_ranges_become_one(activation):
    model = necked(activation)
    before = model(_images(64))
    scaled = equalize_channels(model, _calibration)
    np.testing.assert_allclose(scaled(_images(64)), before, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(model(_images(64)), before)
    features = scaled.layers[-3].output
    greatest = np.asarray(keras.Model(scaled.input, features)(_images(64))).reshape(-1, 24).max(axis=0)
    np.testing.assert_allclose(greatest, greatest.max(), rtol=1e-4)


def test_a_residual_stream_gets_one_range():
    model = pre_activated()
    scaled = equalize_channels(model, _calibration)
    np.testing.assert_allclose(scaled(_images(64)), model(_images(64)), rtol=1e-4, atol=1e-5)
    names = "stem", "branch0", "branch1", "sum0", "sum1"
    tensors = [scaled.get_layer(name).output for name in names]
    values = [np.abs(x).reshape(-1, 8) for x in keras.Model(scaled.input, tensors)(_images(64))]
    np.testing.assert_allclose(np.max(np.concatenate(values), axis=0), np.max(values[-1]), rtol=1e-4)


def test_a_neck_behind_a_dense_layer_is_scaled_too():
    """As in OSNet; the only tensor of the model that is measured."""
    keras.utils.set_random_seed(0)
    images = keras.Input((32, 16, 3))
    x = layers.Dense(8)(layers.GlobalMaxPooling2D()(images))
    x = layers.ReLU(name="features")(layers.BatchNormalization(name="norm")(x))
    model = keras.Model(images, layers.BatchNormalization(center=False)(x))
    model.get_layer("norm").beta.assign(np.geomspace(3, 30, 8))
    scaled = equalize_channels(model, _calibration)
    np.testing.assert_allclose(scaled(_images(64)), model(_images(64)), rtol=1e-4, atol=1e-5)
    features = np.asarray(keras.Model(scaled.input, scaled.get_layer("features").output)(_images(64)))
    np.testing.assert_allclose(features.max(axis=0), features.max(), rtol=1e-4)


def test_a_stream_that_a_convolution_reads_stays():
    model = pre_activated(last="convolution")
    assert equalize_channels(model, list) is model


def test_a_relu6_that_would_clip_a_scaled_channel_stays():
    images = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 1)(images))
    x = layers.Add()([layers.ReLU(6.0)(x), layers.Conv2D(4, 1, name="other")(images)])
    model = keras.Model(images, layers.BatchNormalization()(x))
    model.get_layer("other").bias.assign([10, 1, 1, 1])
    scaled = equalize_channels(model, lambda: [np.ones((2, 8, 8, 3), np.float32)])
    np.testing.assert_array_equal(scaled.get_layer("norm").gamma, np.ones(4))


@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
def test_a_network_whose_activation_does_not_scale_stays(activation):
    model = necked(activation)
    assert equalize_channels(model, _calibration) is model


def test_a_network_that_ends_otherwise_stays():
    model = necked()
    without_neck = keras.Model(model.input, model.get_layer("features").output)
    for other in (without_neck, necked(reads_twice=True)):
        assert equalize_channels(other, list) is other


def test_a_channel_that_never_fires_stays():
    model = necked()
    beta = np.asarray(model.get_layer("norm").beta)
    beta[3] = -100
    model.get_layer("norm").beta.assign(beta)
    scaled = equalize_channels(model, _calibration)
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
        for name, network in (("as it is", model), ("equalized", equalize_channels(model, _calibration)))
    }
    assert found["equalized"] > 0.99 > 0.98 > found["as it is"]


def test_eight_bits_lose_less_of_a_residual_stream():
    model = pre_activated()
    expected = np.asarray(model(_images(16, seed=2)))
    found = {
        name: np.square(prepare_qat(network, _calibration)(_images(16, seed=2)) - expected).mean()
        for name, network in (("as it is", model), ("equalized", equalize_channels(model, _calibration)))
    }
    assert found["equalized"] < found["as it is"] / 4


def test_the_mean_embedding_is_that_of_the_float_network():
    model = equalize_channels(necked(), _calibration)
    quantized = prepare_qat(model, _calibration)
    error = np.asarray(quantized(_images(64))).mean(axis=0) - np.asarray(model(_images(64))).mean(axis=0)
    step = quantized.get_layer("quant_features")._weight_vars[0][1].scales["output"].numpy()
    assert np.abs(error).max() < 0.25 * step
