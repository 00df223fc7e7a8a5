import keras
import numpy as np
import pytest
import tf_keras
from keras import layers

from common.layers.fused_batch_norm import FusedBatchNormalization
from common.layers.gem import GeM
from common.quantization import bridge
from common.quantization.bridge import to_tf_keras
from common.quantization.fold import fold_batch_norm
from src.models.osnet import osnet_a025

SHAPE = (64, 32, 3)
FAMILIES = {
    "mobilenetv1": lambda: keras.applications.MobileNet(
        SHAPE, alpha=0.25, include_top=False, pooling="avg", weights=None
    ),
    "mobilenetv2": lambda: keras.applications.MobileNetV2(
        SHAPE, alpha=0.35, include_top=False, pooling="avg", weights=None
    ),
    "resnet50v2": lambda: keras.applications.ResNet50V2(
        include_top=False, pooling="avg", weights=None, input_shape=SHAPE
    ),
    "osnet": lambda: osnet_a025(SHAPE),
}


def randomize(model):
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for weight in layer.weights:
                low, high = {"beta": (-0.3, 0.3), "moving_mean": (-0.3, 0.3)}.get(weight.name, (0.5, 1.5))
                weight.assign(generator.uniform(low, high, weight.shape).astype(np.float32))


@pytest.mark.parametrize(
    "family",
    [
        "mobilenetv1",
        "osnet",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("mobilenetv2", "resnet50v2")),
    ],
)
def test_families_keep_their_outputs_bridged_and_folded(family):
    model = FAMILIES[family]()
    randomize(model)
    images = np.random.default_rng(0).uniform(-1, 1, (2, *SHAPE)).astype(np.float32)
    expected = np.asarray(model(keras.tree.map_structure(lambda _: images, model.input), training=False))
    assert expected.std() > 0.01
    bridged = to_tf_keras(model)
    np.testing.assert_allclose(bridged(images, training=False), expected, atol=1e-4)
    folded = fold_batch_norm(bridged)
    np.testing.assert_allclose(folded(images, training=False), expected, atol=1e-4)
    assert not [layer for layer in folded.layers if isinstance(layer, tf_keras.layers.BatchNormalization)]


MAPS, VECTORS = (6, 8, 4), (4,)
ARGUMENTS = {
    "Conv2D": (
        MAPS,
        {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same", "dilation_rate": 1, "groups": 1},
    ),
    "DepthwiseConv2D": (MAPS, {"kernel_size": (3, 1), "depth_multiplier": 2, "use_bias": False}),
    "SeparableConv2D": (MAPS, {"filters": 3, "kernel_size": 3, "padding": "same", "activation": "silu"}),
    "Conv2DTranspose": (MAPS, {"filters": 3, "kernel_size": 3, "strides": 2, "output_padding": 1}),
    "Dense": (VECTORS, {"units": 5, "activation": "elu"}),
    "BatchNormalization": (MAPS, {"axis": 2, "epsilon": 0.5, "scale": False}),
    "FusedBatchNormalization": (MAPS, {"epsilon": 0.5, "center": False}),
    "LayerNormalization": (MAPS, {"axis": (1, 2), "epsilon": 0.5, "center": False}),
    "GroupNormalization": (MAPS, {"groups": 2, "epsilon": 0.5}),
    "UnitNormalization": (MAPS, {"axis": 1}),
    "Rescaling": (MAPS, {"scale": 0.3, "offset": 2.0}),
    "Activation": (MAPS, {"activation": "gelu"}),
    "ReLU": (MAPS, {"max_value": 1.5, "negative_slope": 0.1, "threshold": 0.2}),
    "LeakyReLU": (MAPS, {"negative_slope": 0.05}),
    "PReLU": (MAPS, {"shared_axes": [1, 2], "alpha_initializer": "ones"}),
    "Softmax": (MAPS, {"axis": 1}),
    "Concatenate": (MAPS, {"axis": 1}),
    "Dot": (VECTORS, {"axes": 1, "normalize": True}),
    "GlobalAveragePooling2D": (MAPS, {"keepdims": True}),
    "GlobalMaxPooling2D": (MAPS, {"keepdims": True}),
    "AveragePooling2D": (MAPS, {"pool_size": 3, "strides": 2, "padding": "same"}),
    "MaxPooling2D": (MAPS, {"pool_size": 3, "strides": 1, "padding": "same"}),
    "ZeroPadding2D": (MAPS, {"padding": ((1, 2), (0, 3))}),
    "Cropping2D": (MAPS, {"cropping": ((1, 2), (0, 3))}),
    "UpSampling2D": (MAPS, {"size": (2, 3), "interpolation": "bilinear"}),
    "Reshape": (MAPS, {"target_shape": (8, -1)}),
    "Permute": (MAPS, {"dims": (3, 1, 2)}),
    "Dropout": (MAPS, {"rate": 0.3}),
    "GeM": (MAPS, {"p": 2.5}),
}
"""Input shape and arguments that are not the defaults; other twins have no arguments, and take maps."""
OF_TWO = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot")


@pytest.mark.parametrize("name", sorted(bridge.TWINS))
def test_every_twin_computes_what_its_layer_does(name):
    shape, arguments = ARGUMENTS.get(name, (MAPS, {}))
    own = {"GeM": GeM, "FusedBatchNormalization": FusedBatchNormalization}
    layer = (own.get(name) or getattr(layers, name))(**arguments)
    inputs = [keras.Input(shape), keras.Input(shape)][: 1 + (name in OF_TWO)]
    model = keras.Model(inputs, layer(inputs if name in OF_TWO else inputs[0]))
    generator = np.random.default_rng(0)
    model.set_weights([generator.uniform(0.2, 1, weight.shape) for weight in model.get_weights()])
    images = [generator.normal(size=(2, *shape)).astype(np.float32) for _ in inputs]
    images = [np.abs(x) + 0.1 if name == "GeM" else x for x in images]
    expected, found = (
        np.asarray(keras.tree.flatten(one(images, training=False))[0]) for one in (model, to_tf_keras(model))
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in dir(tf_keras.activations) if hasattr(keras.activations, n)])
def test_every_activation_is_the_same_or_refused(name):
    function = getattr(keras.activations, name)
    if name.startswith("_") or name in ("get", "serialize", "deserialize"):
        return
    images = keras.Input((4,))
    model = keras.Model(images, layers.Activation(function, name="act")(images))
    if name == "hard_sigmoid":
        with pytest.raises(
            ValueError, match="layer 'act' of class Activation: tf_keras has no activation .*'hard_sig"
        ):
            to_tf_keras(model)
        return
    x = np.linspace(-6, 6, 24, dtype=np.float32).reshape(6, 4)
    np.testing.assert_allclose(to_tf_keras(model)(x), model(x), atol=1e-5)


def test_an_argument_or_activation_that_tf_keras_lacks_is_named():
    images = keras.Input((4, 4, 2))
    convolution = layers.Conv2D(2, 1, activation="hard_silu", name="conv")
    with pytest.raises(
        ValueError, match="layer 'conv' of class Conv2D: tf_keras has no activation .*'hard_silu'"
    ):
        to_tf_keras(keras.Model(images, convolution(images)))
    norm = layers.BatchNormalization(renorm=True, name="norm")
    with pytest.raises(
        ValueError, match="layer 'norm' of class BatchNormalization has renorm=True, .*, which its tf_keras"
    ):
        to_tf_keras(keras.Model(images, norm(images)))


def test_shared_layers_stay_one_layer(toy, images):
    bridged = to_tf_keras(toy)
    np.testing.assert_allclose(bridged(images, training=False), toy(images, training=False), atol=1e-4)
    assert len(bridged.get_layer("squeeze").inbound_nodes) == 2
    assert bridged.count_params() == toy.count_params()


def test_inner_models_are_inlined_and_dicts_kept():
    inner_input = keras.Input((8, 8, 2))
    inner = keras.Model(inner_input, layers.Conv2D(3, 3)(inner_input), name="inner")
    images = keras.Input((8, 8, 2))
    features = layers.GlobalAveragePooling2D()(inner(images))
    model = keras.Model(images, {"features": features, "logits": layers.Dense(4)(features)})
    bridged = to_tf_keras(model)
    assert not [layer for layer in bridged.layers if isinstance(layer, tf_keras.Model)]
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype(np.float32)
    expected, received = model(x), bridged(x)
    assert set(received) == {"features", "logits"}
    for name in received:
        np.testing.assert_allclose(received[name], expected[name], atol=1e-5)


def test_fused_batch_norm_becomes_plain():
    images = keras.Input((4, 4, 2))
    model = keras.Model(images, FusedBatchNormalization(name="norm")(images))
    assert type(to_tf_keras(model).get_layer("norm")) is tf_keras.layers.BatchNormalization


def test_unsupported_layer_says_how_to_add_its_twin():
    images = keras.Input((4, 4, 2))
    model = keras.Model(images, layers.GaussianNoise(0.1, name="noise")(images))
    with pytest.raises(ValueError, match=r"'noise' of class GaussianNoise.*TWINS\['GaussianNoise'\]"):
        to_tf_keras(model)


def test_an_operation_that_is_no_layer_says_what_to_write():
    images = keras.Input((4, 4, 2))
    x = layers.Conv2D(2, 1)(images)
    with pytest.raises(
        ValueError, match=r"'add.*' of class Add, .* is no layer: write it as keras.layers.Add"
    ):
        to_tf_keras(keras.Model(images, x + images))
    with pytest.raises(ValueError, match=r"of class Exp, .* as a layer of your own.*TWINS\['<its class>'\]"):
        to_tf_keras(keras.Model(images, keras.ops.exp(x)))


def test_a_layer_of_several_arguments_says_how_to_add_its_twin():
    images = keras.Input((4, 2))
    attention = layers.MultiHeadAttention(1, 2, name="attention")
    with pytest.raises(
        ValueError, match=r"'attention' of class MultiHeadAttention.*TWINS\['MultiHeadAttention'\]"
    ):
        to_tf_keras(keras.Model(images, attention(images, images)))


def test_a_layer_with_a_twin_that_gets_several_arguments_is_named(monkeypatch):
    images = keras.Input((4, 2))
    attention = layers.MultiHeadAttention(1, 2, name="attention")
    monkeypatch.setitem(bridge.TWINS, "MultiHeadAttention", tf_keras.layers.MultiHeadAttention)
    with pytest.raises(
        ValueError, match=r"'attention' .* a call with one argument, received 2.*a list of them.*TWINS"
    ):
        to_tf_keras(keras.Model(images, attention(images, images)))


def test_a_model_that_is_not_functional_is_refused():
    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match="functional"):
        to_tf_keras(Subclassed())


def test_folding_leaves_what_it_is_told_and_what_two_layers_read():
    images = keras.Input((8, 8, 2))
    x = layers.Conv2D(3, 3, name="conv")(images)
    y = layers.BatchNormalization(name="norm")(x)
    model = keras.Model(images, layers.Add()([x, y]))
    randomize(model)
    data = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype(np.float32)
    bridged = to_tf_keras(model)
    folded = fold_batch_norm(bridged)
    assert isinstance(folded.get_layer("norm"), tf_keras.layers.DepthwiseConv2D)
    np.testing.assert_allclose(folded(data), model(data), atol=1e-5)
    kept = fold_batch_norm(bridged, keep=("norm",))
    assert isinstance(kept.get_layer("norm"), tf_keras.layers.BatchNormalization)
    np.testing.assert_allclose(kept(data), model(data), atol=1e-5)
