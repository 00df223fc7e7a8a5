import keras
import numpy as np
import pytest
from keras import layers

from common.layers.fused_batch_norm import FusedBatchNormalization
from common.layers.rewrite import with_fused_batch_norm


def network():
    """Two inputs, shared layers, a frozen batch norm, a nested model, outputs by name."""
    keras.utils.set_random_seed(0)
    first, second = keras.Input((8, 8, 3), name="first"), keras.Input((8, 8, 3), name="second")
    convolution, norm = layers.Conv2D(4, 3, name="shared"), layers.BatchNormalization(name="shared_bn")
    frozen = layers.BatchNormalization(name="frozen_bn", trainable=False, momentum=0.7)
    merged = layers.Add(name="merged")([norm(convolution(first)), frozen(norm(convolution(second)))])
    inside = keras.Input((6, 6, 4))
    nested = keras.Model(inside, layers.BatchNormalization(name="nested_bn")(inside), name="nested")
    pooled = layers.GlobalAveragePooling2D(name="pooled")(nested(merged))
    dropped = layers.Dropout(0.5, name="dropout")(pooled)
    outputs = {"pooled": pooled, "logits": layers.Dense(5, name="logits")(dropped)}
    model = keras.Model({"first": first, "second": second}, outputs, name="network")
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    return model


def images():
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=(4, 8, 8, 3)).astype("float32") for name in ("first", "second")}


def assert_same_outputs(model, expected, tolerance):
    outputs, wanted = model(images(), training=False), expected(images(), training=False)
    assert set(outputs) == set(wanted)
    for name in wanted:
        np.testing.assert_allclose(outputs[name], wanted[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 5e-2), ("mixed_float16", 5e-3)]
)
def test_a_copy_for_training_computes_the_same(policy, tolerance):
    model = network()
    fused = with_fused_batch_norm(model, policy)
    assert_same_outputs(fused, model, tolerance)
    assert [layer.name for layer in fused.layers] == [layer.name for layer in model.layers]
    for name in ("shared_bn", "frozen_bn"):
        assert type(fused.get_layer(name)) is FusedBatchNormalization
    assert type(fused.get_layer("nested").get_layer("nested_bn")) is FusedBatchNormalization
    assert not fused.get_layer("frozen_bn").trainable
    assert fused.get_layer("frozen_bn").momentum == 0.7
    for found, wanted in zip(fused.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_precision_of_layers_and_outputs():
    fused = with_fused_batch_norm(network(), "mixed_bfloat16")
    assert fused.get_layer("shared").compute_dtype == "bfloat16"
    assert fused.get_layer("shared_bn").compute_dtype == "bfloat16"
    assert {fused.get_layer(name).compute_dtype for name in ("pooled", "logits")} == {"float32"}
    assert {variable.dtype for variable in fused.weights} == {"float32"}


def test_copies_have_their_own_weights():
    model = network()
    before = model.get_weights()
    fused = with_fused_batch_norm(model)
    fused.set_weights([weight * 0.0 for weight in before])
    for found, wanted in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, wanted)
