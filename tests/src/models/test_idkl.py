"""IDKL: its two branches, what is saved of it, and its counts beside the published ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.config import ConfigError, validate
from common.layers.rewrite import with_fused_batch_norm
from common.layers.start_statistics import start_statistics
from common.quantization.bridge import to_tf_keras
from common.quantization.complete import export_qat_onnx
from common.quantization.onnx_export import export_onnx
from common.quantization.onnx_ptq import quantize_onnx
from common.quantization.qat import prepare_qat
from src.models._build import build_backbone
from src.models._head import embedding_model, reid_network
from src.models._places import PLACES
from src.models._purifier import purifier
from src.models._spatial_attention import spatial_attention
from src.models._two_stems import input_in, start_from_single, table_of_copies
from src.models.idkl import idkl
from src.registries import MODELS
from src.schema import OF_TRAINING_BRANCH, ModelSection
from tests.networks import run_onnx, size_of
from tests.numeric import cosine

SHAPE = (64, 32, 3)
IDENTITIES = 5
SMALL = {"backbone": "plain_cnn"}
QUICK = ("custom_model", "osnet_a025", "mobilenetv2_a035")


def images(count=6, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *SHAPE)).astype("float32")


def lively(model):
    """Norms far from 0 and 1, with statistics of images."""
    generator = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization | keras.layers.GroupNormalization):
            layer.gamma.assign(generator.uniform(0.5, 1.5, layer.gamma.shape))
            if layer.center:
                layer.beta.assign(generator.uniform(-0.3, 0.3, layer.beta.shape))
    start_statistics(model, images(16, seed=1))
    return model


def of_training(layers):
    return [
        layer.name
        for layer in layers
        if layer.name.startswith(("specific", "purifier", "modality", "confusion"))
    ]


# ------------------------------------------------------------------------------------------------------------
# Counts


@pytest.mark.slow
def test_parameters_beside_the_published_ones():
    """The published neck counts its shift, which stays 0 and is no weight here."""
    network = reid_network(idkl(SHAPE), num_identities=395)
    deployed = embedding_model(network)
    assert size_of(deployed.trainable_weights) + 2048 == 23_512_128
    late_stages = [w for w in network.trainable_weights if w.path.startswith("specific_layer")]
    assert size_of(late_stages) == 22_063_104
    # The published training network has 74,967,332, among them modules that its forward pass never calls.
    assert size_of(network.trainable_weights) + 2 * 2048 == 49_494_431
    shapes = [network.get_layer(f"{prefix}layer4_3_out").output.shape[1:] for prefix in ("", "specific_")]
    assert shapes == [(4, 2, 2048)] * 2


# ------------------------------------------------------------------------------------------------------------
# The network


@pytest.mark.parametrize("heads", [0, 4])
def test_the_training_network_has_the_outputs_of_both_branches(heads):
    network = reid_network(idkl(SHAPE, attention_heads=heads, **SMALL), IDENTITIES)
    shapes = {name: tuple(value.shape) for name, value in network(images(), training=True).items()}
    vectors, logits, pairs = (6, 192), (6, IDENTITIES), (6, 2, 192)
    assert shapes == {
        "features": vectors, "embedding": vectors, "logits": logits,
        "specific_features": vectors, "specific_embedding": vectors, "specific_logits": logits,
        "map_embedding": pairs, "map_logits": (6, 2, IDENTITIES), "normed_features": pairs,
        "modality_logits": (6, 2), "confusion_logits": (6, 2),
    }  # fmt: skip
    assert set(OF_TRAINING_BRANCH) <= set(shapes)
    has_bias = {
        name: network.get_layer(name).use_bias for name in ("logits", "specific_logits", "map_logits")
    }
    assert has_bias == {"logits": False, "specific_logits": False, "map_logits": True}


def test_what_is_saved_has_nothing_that_only_training_needs(tmp_path):
    network = lively(
        reid_network(idkl(SHAPE, attention_heads=4, **SMALL), IDENTITIES, centers=True, log_variances=9)
    )
    expected = np.asarray(network(images(), training=False)["embedding"])
    fused = with_fused_batch_norm(network)
    network.set_weights(fused.get_weights())
    embedding_model(network).save(tmp_path / "best_model.keras")
    loaded = keras.saving.load_model(tmp_path / "best_model.keras", safe_mode=True)
    assert len(of_training(network.layers)) > 20 and not of_training(loaded.layers)
    backbone = MODELS.get("plain_cnn")(SHAPE)
    assert loaded.count_params() == backbone.count_params() + 3 * 192, "the backbone and its neck"
    scale = np.abs(expected).max()
    for found in (fused(images(), training=False)["embedding"], loaded(images(), training=False)):
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)
    again = reid_network(loaded, num_identities=7)
    assert set(again.output) == {"features", "embedding", "logits"}


def test_both_branches_start_from_a_first_training():
    single = embedding_model(lively(reid_network(MODELS.get("plain_cnn")(SHAPE), 4, bnneck=True)))
    network = reid_network(idkl(SHAPE, **SMALL), IDENTITIES)
    copied = {row.source: row.targets for row in start_from_single(network, single)}
    assert copied["conv1"] == ("conv1",) and copied["conv6"] == ("conv6", "specific_conv6")
    assert copied["bnneck"] == ("bnneck", "specific_bnneck")
    assert "new: purifier_" in table_of_copies(network, start_from_single(network, single))
    names = ("conv6_relu", "specific_conv6_relu")
    maps = keras.Model(network.input, [network.get_layer(name).output for name in names])(
        images(), training=False
    )
    expected = keras.Model(single.input, single.get_layer("conv6_relu").output)(images(), training=False)
    for found in maps:
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_branches_share_the_early_stages_only():
    network = idkl(SHAPE, **SMALL)
    shared = embedding_model(reid_network(network, IDENTITIES))
    specific = keras.Model(network.input, network.output["specific_features"])
    common = {layer.name for layer in shared.layers} & {layer.name for layer in specific.layers}
    weights = {name.split("_")[0] for name in common if network.get_layer(name).weights}
    assert weights == {"conv1", "conv2", "conv3"}


@pytest.mark.parametrize(
    "backbone",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in PLACES
        if name != "plain_cnn"
    ],
)
def test_every_backbone_has_two_branches(backbone):
    network = idkl(SHAPE, backbone=backbone)
    dimension = MODELS.get(backbone)(SHAPE).output_shape[-1]
    assert network.output["embedding"].shape[-1] == network.output["specific_features"].shape[-1] == dimension
    last_map = input_in(network, network.get_layer(PLACES[backbone].pool))
    assert last_map.shape[1:3] == network.get_layer("purifier_add").output.shape[1:3]
    assert not of_training(embedding_model(reid_network(network, IDENTITIES)).layers)


def test_confusion_turns_the_gradient_of_the_shared_branch():
    network = idkl(SHAPE, **SMALL)
    reversal = network.get_layer("confusion_reversal")
    classifier = keras.Model(reversal.output, network.output["confusion_logits"])
    features = tf.constant(np.random.default_rng(0).normal(size=(8, 192)), tf.float32)
    gradients = []
    for before in (reversal, lambda x: x):
        with tf.GradientTape() as tape:
            tape.watch(features)
            loss = tf.reduce_sum(classifier(before(features), training=False)[:, 0])
        gradients.append(tape.gradient(loss, features).numpy())
    np.testing.assert_allclose(gradients[0], -gradients[1], rtol=1e-6)
    assert np.any(gradients[0])


def test_the_purifier_is_the_published_one():
    x = keras.Input((4, 3, 32))
    made = purifier(x, "p")
    model = keras.Model(x, list(made))
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=weight.shape) for weight in model.get_weights()])
    values = np.abs(generator.normal(size=(2, 4, 3, 32))).astype("float32")
    found, parts, normed_parts = (np.asarray(output) for output in model(values))

    def mask(maps, name):
        first, second = (model.get_layer(f"{name}_fc{n}") for n in (1, 2))
        hidden = np.maximum(maps @ first.kernel.numpy()[0, 0] + first.bias.numpy(), 0)
        return 1 / (1 + np.exp(-(hidden @ second.kernel.numpy()[0, 0] + second.bias.numpy())))

    norm = model.get_layer("p_in")
    means, variances = values.mean(axis=(1, 2), keepdims=True), values.var(axis=(1, 2), keepdims=True)
    normed = (values - means) / np.sqrt(variances + 1e-5) * norm.gamma.numpy() + norm.beta.numpy()
    own, other = mask(values, "p_mask"), mask(normed, "p_in_mask")
    np.testing.assert_allclose(found, other * (own * values) + own * (other * normed), atol=1e-4)

    def pooled(maps):
        return np.mean(np.maximum(maps, 1e-6) ** 3, axis=(1, 2)) ** (1 / 3)

    np.testing.assert_allclose(parts, np.stack([pooled(values), pooled(own * values)], 1), atol=1e-4)
    np.testing.assert_allclose(normed_parts, np.stack([pooled(normed), pooled(other * normed)], 1), atol=1e-4)


def test_attention_is_over_positions_and_starts_as_the_identity():
    x = keras.Input((4, 3, 16))
    block = keras.Model(x, spatial_attention(x, 2, "a"))
    values = np.random.default_rng(0).normal(size=(2, 4, 3, 16)).astype("float32")
    np.testing.assert_array_equal(block(values, training=False), values)
    block.get_layer("a_bn").gamma.assign(np.ones(16))
    attention = block.get_layer("a")
    kernels = {
        name: getattr(attention, f"_{name}_dense").kernel.numpy()
        for name in ("query", "key", "value", "output")
    }
    for image, found in zip(values, np.asarray(block(values, training=False)), strict=True):
        tokens, drawn = image.reshape(12, 16), np.zeros((12, 16))
        for head in range(2):
            q, k, v = (tokens @ kernels[name][:, head] for name in ("query", "key", "value"))
            scores = q @ k.T / np.sqrt(4)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            drawn += weights / weights.sum(axis=1, keepdims=True) @ v @ kernels["output"][head]
        np.testing.assert_allclose(found - image, (drawn / np.sqrt(1 + 1e-5)).reshape(image.shape), atol=1e-4)


def test_it_is_built_from_the_yaml():
    given = {"model_name": "idkl", "input_shape": "(64, 32, 3)", "arguments": SMALL}
    assert build_backbone(validate(ModelSection, given)).name == "idkl"
    wrong = validate(ModelSection, {**given, "arguments": {"backbone": "resnet5"}})
    with pytest.raises(ConfigError, match="backbone: unknown value 'resnet5', did you mean 'resnet50'"):
        build_backbone(wrong)
    started = validate(ModelSection, {**given, "model_path": "phase1.keras"})
    assert started.model_path is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_heads": -1}, "attention_heads: expected 0 or more, received -1"),
        (
            {"attention_heads": 5},
            "attention_heads: expected a divisor of 96, half of the channels, received 5",
        ),
        ({"pretrained": True}, "model 'plain_cnn' has no argument 'pretrained'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises((ValueError, ConfigError), match=message):
        idkl(SHAPE, **{**SMALL, **arguments})


# ------------------------------------------------------------------------------------------------------------
# INT8


@pytest.mark.slow
def test_what_is_deployed_becomes_int8_without_an_instance_norm():
    keras.utils.set_random_seed(0)
    network = lively(reid_network(idkl(SHAPE, **SMALL), IDENTITIES))
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.GroupNormalization)]
    model, batch = embedding_model(network), images(16)
    assert norms and not [layer for layer in model.layers if layer in norms]
    expected = model(batch, training=False)
    np.testing.assert_allclose(to_tf_keras(model)(batch), expected, atol=1e-3)
    for graph in (
        quantize_onnx(export_onnx(model), lambda: [batch]),
        export_qat_onnx(prepare_qat(model, lambda: [batch])),
    ):
        assert cosine(run_onnx(graph, batch), expected) > 0.99
