import keras
import numpy as np
import pytest
import tensorflow as tf

from common.layers.fused_batch_norm import FusedBatchNormalization

TOLERANCE = {"float32": 2e-5, "mixed_bfloat16": 4e-2, "mixed_float16": 4e-3}


def pair(shape, **arguments):
    """The layer and Keras's own, with the same random weights."""
    layers = FusedBatchNormalization(**arguments), keras.layers.BatchNormalization(**arguments)
    rng = np.random.default_rng(0)
    for layer in layers:
        layer.build(shape)
    weights = [rng.uniform(0.5, 1.5, weight.shape) for weight in layers[0].get_weights()]
    for layer in layers:
        layer.set_weights(weights)
    return layers


def run(layer, inputs, training):
    """Output, and gradients of inputs and weights of a function that is not linear in the output."""
    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = layer(inputs, training=training)
        loss = tf.reduce_mean(tf.sin(tf.cast(output, "float32")))
    weights = [variable.value for variable in layer.trainable_variables]
    return output, tape.gradient(loss, [inputs, *weights])


def assert_same(fused, plain, inputs, training, tolerance):
    (output, gradients), (expected, expected_gradients) = (
        run(layer, inputs, training) for layer in (fused, plain)
    )
    assert output.dtype == expected.dtype
    np.testing.assert_allclose(tf.cast(output, "float32"), tf.cast(expected, "float32"), atol=tolerance)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, wanted, atol=tolerance)
    for found, wanted in zip(fused.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


def images(shape=(4, 6, 5, 3)):
    return np.random.default_rng(1).normal(1.0, 3.0, shape).astype("float32")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("policy", TOLERANCE)
@pytest.mark.parametrize(("scale", "center"), [(True, True), (True, False), (False, True)])
def test_agrees_with_keras(policy, training, scale, center):
    fused, plain = pair((None, 6, 5, 3), dtype=policy, scale=scale, center=center, momentum=0.9, epsilon=1e-5)
    assert_same(fused, plain, images(), training, TOLERANCE[policy])


@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (1, 1, 1, 3)])
def test_moving_variance_is_biased_even_of_few_values(shape):
    fused, plain = pair((None, 1, 1, 3), momentum=0.5)
    assert_same(fused, plain, images(shape), True, 2e-5)


def test_frozen_layer_uses_and_keeps_its_statistics():
    fused, plain = pair((None, 6, 5, 3))
    before = fused.get_weights()
    fused.trainable = plain.trainable = False
    assert_same(fused, plain, images(), True, 2e-5)
    for found, wanted in zip(fused.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [((4, 3), {}), ((4, 5, 3), {}), ((4, 3, 5, 6), {"axis": 1}), ((4, 6, 5, 3), {"dtype": "float64"})],
)
def test_what_the_kernel_does_not_know_goes_to_keras(shape, arguments):
    fused, plain = pair((None, *shape[1:]), **arguments)
    assert_same(fused, plain, images(shape), True, 1e-6)


def test_uses_the_kernel():
    layer = FusedBatchNormalization()
    layer.build((None, 6, 5, 3))
    graph = (
        tf.function(lambda x: layer(x, training=True))
        .get_concrete_function(tf.TensorSpec((None, 6, 5, 3)))
        .graph
    )
    assert "FusedBatchNormV3" in {operation.type for operation in graph.get_operations()}


def test_is_serializable():
    layer = FusedBatchNormalization(momentum=0.9, epsilon=1e-5, name="bn")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(copy) is FusedBatchNormalization
    assert copy.get_config() == layer.get_config()
