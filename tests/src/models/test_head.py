import keras
import numpy as np
import pytest

from src.models._head import embedding_model, reid_network


def backbone(last="features"):
    images = keras.Input((4, 4, 3), name="images")
    x = keras.layers.GlobalAveragePooling2D(name="features")(images)
    if last == "bnneck":
        x = keras.layers.BatchNormalization(name="bnneck")(x)
    return keras.Model(images, x, name="tiny")


def images(count=6):
    return np.random.default_rng(0).normal(2.0, 3.0, (count, 4, 4, 3)).astype("float32")


def names(model):
    return [layer.name for layer in model.layers]


def test_without_neck_the_embedding_is_the_features():
    network = reid_network(backbone(), num_identities=5)
    outputs = network(images())
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "features": (6, 3),
        "embedding": (6, 3),
        "logits": (6, 5),
    }
    np.testing.assert_array_equal(outputs["features"], outputs["embedding"])
    assert network.get_layer("logits").use_bias


def test_neck_is_a_batch_norm_without_shift_before_a_classifier_without_bias():
    network = reid_network(backbone(), num_identities=5, bnneck=True)
    neck, classifier = network.get_layer("bnneck"), network.get_layer("logits")
    assert [weight.name for weight in neck.trainable_weights] == ["gamma"]
    assert [weight.name for weight in classifier.weights] == ["kernel"]
    outputs = network(images(), training=True)
    np.testing.assert_allclose(np.mean(outputs["embedding"], axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.std(outputs["embedding"], axis=0), 1.0, atol=1e-3)
    np.testing.assert_allclose(outputs["features"], images().mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(outputs["logits"], outputs["embedding"] @ classifier.kernel, atol=1e-6)


def test_dropout_touches_logits_only():
    network = reid_network(backbone(), num_identities=5, dropout=0.5)
    first, second = network(images(), training=True), network(images(), training=True)
    np.testing.assert_array_equal(first["embedding"], second["embedding"])
    assert np.any(np.asarray(first["logits"]) != np.asarray(second["logits"]))


@pytest.mark.parametrize("bnneck", [True, False])
def test_neck_of_a_saved_embedding_model_is_used_again(bnneck):
    saved = backbone(last="bnneck")
    network = reid_network(saved, num_identities=5, bnneck=bnneck)
    assert names(network) == ["images", "features", "bnneck", "logits"]
    outputs = network(images())
    np.testing.assert_allclose(outputs["features"], images().mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(outputs["embedding"], saved(images()))
    assert not network.get_layer("logits").use_bias


def test_embedding_model_holds_nothing_of_the_training():
    network = reid_network(backbone(), num_identities=5, bnneck=True, dropout=0.5)
    embedding = embedding_model(network)
    assert names(embedding) == ["images", "features", "bnneck"]
    assert embedding.name == "tiny"
    np.testing.assert_array_equal(embedding(images()), network(images())["embedding"])
