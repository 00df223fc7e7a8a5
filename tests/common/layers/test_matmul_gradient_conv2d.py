import keras
import numpy as np
import pytest
import tensorflow as tf

from common.layers import matmul_gradient_conv2d
from common.layers.matmul_gradient_conv2d import MatmulGradientConv2D
from common.layers.rewrite import with_fused_batch_norm


def results(cls, policy, arguments, compiled):
    """Output, and gradients of input, kernel and bias, of one layer."""
    keras.utils.set_random_seed(0)
    layer = cls(6, dtype=policy, **arguments)
    x = tf.constant(np.random.default_rng(0).normal(size=(3, 7, 5, 4)).astype("float32"))
    layer.build(x.shape)

    def run():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            total = tf.reduce_sum(tf.cast(y, "float32") ** 2)
        return y, *tape.gradient(total, [x, *(weight.value for weight in layer.weights)])

    return [np.asarray(tf.cast(value, "float32")) for value in (tf.function(run) if compiled else run)()]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float32"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 1},
        {"kernel_size": 1, "strides": 2},
        {"kernel_size": 1, "strides": (2, 3), "padding": "same", "use_bias": False},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3},
    ],
)
def test_outputs_and_gradients_are_those_of_conv2d_in_float32(arguments, policy, compiled):
    expected = results(keras.layers.Conv2D, "float32", arguments, compiled)
    found = results(MatmulGradientConv2D, policy, arguments, compiled)
    assert len(found) == len(expected) == (3 if arguments.get("use_bias") is False else 4)
    for value, wanted in zip(found, expected, strict=True):
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(value / scale, wanted / scale, atol=1e-6 if policy == "float32" else 3e-2)


@pytest.mark.parametrize(
    ("arguments", "wide", "is_used"),
    [
        ({"kernel_size": 3, "padding": "same"}, 4, True),
        ({"kernel_size": 3, "padding": "same"}, 5, False),
        ({"kernel_size": 3, "padding": "same", "strides": 2}, 4, False),
        ({"kernel_size": 3}, 4, False),
        ({"kernel_size": 1, "strides": 2}, 5, True),
    ],
)
def test_which_kernels_have_it(arguments, wide, is_used, monkeypatch):
    gradient, shapes = matmul_gradient_conv2d._kernel_gradient, []

    def spy(*given):
        shapes.append(given[2])
        return gradient(*given)

    monkeypatch.setattr(matmul_gradient_conv2d, "_WIDE", wide)
    monkeypatch.setattr(matmul_gradient_conv2d, "_kernel_gradient", spy)
    expected = results(keras.layers.Conv2D, "float32", arguments, False)
    found = results(MatmulGradientConv2D, "mixed_bfloat16", arguments, False)
    assert bool(shapes) == is_used
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, atol=3e-2 * np.abs(wanted).max())


@pytest.mark.parametrize(("size", "strides"), [(1, (1, 1)), (1, (2, 3)), (3, (1, 1))])
def test_the_gradient_of_a_kernel_is_that_of_tensorflow(size, strides):
    random = np.random.default_rng(1)
    x, kernel = random.normal(size=(2, 7, 5, 4)), random.normal(size=(size, size, 4, 3))
    kernel = tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        y = tf.nn.conv2d(x, kernel, strides, "SAME")
    dy = tf.constant(random.normal(size=y.shape))
    found = matmul_gradient_conv2d._kernel_gradient(tf.constant(x), dy, kernel.shape, strides)
    np.testing.assert_allclose(found, tape.gradient(y, kernel, output_gradients=dy), rtol=1e-10)


def test_only_training_in_bfloat16_has_it():
    images = keras.Input((8, 8, 3))
    features = keras.layers.Conv2D(4, 1, name="pointwise")(images)
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(features))
    trained = with_fused_batch_norm(model, "mixed_bfloat16")
    assert type(trained.get_layer("pointwise")) is MatmulGradientConv2D
    assert type(with_fused_batch_norm(model).get_layer("pointwise")) is keras.layers.Conv2D
