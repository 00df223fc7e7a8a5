"""AGW, the surgery that makes a network for two modalities of one for a single modality, and its head."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.config import ConfigError, validate
from common.layers.rewrite import with_fused_batch_norm
from common.layers.start_statistics import start_statistics
from common.quantization.branches import branches
from common.quantization.bridge import to_tf_keras
from common.quantization.complete import export_qat_onnx
from common.quantization.fold import fold_batch_norm
from common.quantization.onnx_export import export_onnx
from common.quantization.onnx_ptq import quantize_onnx
from common.quantization.qat import prepare_qat
from src.losses.cross_entropy import cross_entropy
from src.losses.weighted_regularized_triplet import weighted_regularized_triplet
from src.models._build import build_backbone
from src.models._head import embedding_model, reid_network
from src.models._non_local import non_local
from src.models._places import PLACES
from src.models._two_stems import (
    branches_of,
    input_in,
    input_shapes,
    of_modality,
    start_from_single,
    table_of_copies,
)
from src.models.agw import agw
from src.registries import MODELS
from src.schema import ModelSection
from tests.networks import run_onnx, size_of
from tests.numeric import cosine

SHAPE = (64, 32, 3)
SMALL = {"backbone": "custom_model"}
FAMILIES = [
    {**SMALL, "non_local": "embedded", "learned_gem": True},
    {**SMALL, "neck": "per_modality", "thermal_channels": 1},
    *(
        pytest.param(arguments, marks=pytest.mark.slow)
        for arguments in (
            {"backbone": "osnet_a025", "neck": "per_modality", "thermal_channels": 1},
            {"backbone": "mobilenetv2_a035", "thermal_channels": 1},
            {"backbone": "resnet50_ibn_a"},
        )
    ),
]


def images(visible=3, thermal=2, channels=3, seed=0):
    generator = np.random.default_rng(seed)
    shapes = {"visible": (visible, *SHAPE), "thermal": (thermal, *SHAPE[:2], channels)}
    return {name: generator.uniform(-1, 1, shape).astype("float32") for name, shape in shapes.items()}


def lively(model):
    """Norms far from 0 and 1; non-local blocks, of the third power of their input, add a little only."""
    generator = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization | keras.layers.GroupNormalization):
            low, high = (0.1, 0.2) if "non_local" in layer.name else (0.5, 1.5)
            layer.gamma.assign(generator.uniform(low, high, layer.gamma.shape))
            if layer.center:
                layer.beta.assign(generator.uniform(-0.3, 0.3, layer.beta.shape))
    batch = (
        images(16, 16, model.input["thermal"].shape[-1])
        if isinstance(model.input, dict)
        else images(16)["visible"]
    )
    start_statistics(model, batch)
    for layer in model.layers:
        if (
            layer.name.startswith("bnneck") and layer.weights
        ):  # random images differ little: real ones magnify rounding
            layer.moving_mean.assign(0.1 * generator.uniform(size=layer.moving_mean.shape))
            layer.moving_variance.assign(generator.uniform(0.5, 1.5, layer.moving_variance.shape))
    return model


def multiply_accumulates(model):
    """Kernels x output positions of the convolutions, over their calls in this model."""
    nodes = [node for nodes in model._nodes_by_depth.values() for node in nodes]
    return sum(
        size_of([node.operation.kernel]) * int(np.prod(node.outputs[0].shape[1:-1]))
        for node in nodes
        if isinstance(node.operation, keras.layers.Conv2D)
    )


# ------------------------------------------------------------------------------------------------------------
# Counts


@pytest.fixture(scope="module")
def published():
    return agw((288, 144, 3))


def test_parameters_are_the_published_ones(published):
    """The published neck counts its shift, which stays 0 and is no weight here."""
    trainable = published.trainable_weights
    counts = {
        "stem": size_of(w for w in trainable if w.path.startswith("visible_")),
        "thermal stem": size_of(w for w in trainable if w.path.startswith("thermal_")),
        "non-local": size_of(w for w in trainable if "non_local" in w.path),
        "neck": 2 * size_of(w for w in trainable if "bnneck" in w.path),
    }
    assert counts == {"stem": 9_536, "thermal stem": 9_536, "non-local": 28_687, "neck": 4_096}
    assert size_of(trainable) - 2048 - 2 * 9_536 - 28_687 == 23_498_496
    assert size_of(trainable) + 2048 == 23_550_351
    classifier = reid_network(published, num_identities=395).get_layer("logits")
    assert size_of(classifier.weights) == 808_960


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((288, 144, 3), 5.14),
        pytest.param((256, 128, 3), 4.06, marks=pytest.mark.slow),
        pytest.param((384, 144, 3), 6.85, marks=pytest.mark.slow),
    ],
)
def test_multiply_accumulates_of_an_image_are_the_published_ones(published, shape, expected):
    model = published if shape == (288, 144, 3) else agw(shape)
    for branch in branches(branches_of(model)).values():
        with_classifier = multiply_accumulates(branch) + 2048 * 395
        assert round(with_classifier / 1e9, 2) == expected


def test_shapes_are_the_published_ones(published):
    shapes = [published.get_layer(f"layer{n}_out").output.shape[1:] for n in ("1_3", "2_4", "3_6", "4_3")]
    assert shapes == [(72, 36, 256), (36, 18, 512), (18, 9, 1024), (18, 9, 2048)]
    blocks = {layer.name for layer in published.layers if layer.name.endswith("non_local_add")}
    assert blocks == {f"layer{n}_non_local_add" for n in ("2_3", "2_4", "3_4", "3_5", "3_6")}
    assert published.get_layer("features").initial_p == 3.0


# ------------------------------------------------------------------------------------------------------------
# The network


def assert_same(found, expected):
    """Up to 3e-4 of the greatest value: norms whose statistics are those of the images magnify rounding."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(found) / scale, expected / scale, atol=3e-4)


@pytest.mark.parametrize("arguments", FAMILIES)
def test_one_set_of_weights_in_training_in_files_and_on_the_chip(arguments, tmp_path):
    channels = arguments.get("thermal_channels", 3)
    network = lively(reid_network(agw(SHAPE, **arguments), num_identities=4, bnneck=True))
    batch = images(channels=channels)
    outputs = {name: np.asarray(value) for name, value in network(batch, training=False).items()}
    assert {name: len(value) for name, value in outputs.items()} == {
        "features": 5,
        "embedding": 5,
        "logits": 5,
    }
    expected = dict(zip(("visible", "thermal"), np.split(outputs["embedding"], [3]), strict=True))
    assert min(np.ptp(value, axis=0).max() for value in expected.values()) > 0.05

    network.set_weights(with_fused_batch_norm(network).get_weights())
    embedding_model(network).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert not {"logits", "dropout", "modalities"} & {layer.name for layer in loaded.layers}
    found = loaded(batch, training=False)
    for modality, branch in branches(loaded).items():
        bridged = to_tf_keras(branch)
        assert_same(found[modality], expected[modality])
        assert_same(branch(batch[modality], training=False), expected[modality])
        assert_same(bridged(batch[modality]), expected[modality])
        assert_same(fold_batch_norm(bridged)(batch[modality]), expected[modality])

    again = reid_network(loaded, num_identities=7)
    assert again.get_layer("logits").weights[0].shape[-1] == 7 and not again.get_layer("logits").use_bias
    for name in ("features", "embedding"):
        assert_same(again(batch, training=False)[name], outputs[name])


@pytest.mark.slow
def test_both_modalities_become_int8():
    keras.utils.set_random_seed(0)
    model = branches_of(lively(agw(SHAPE, thermal_channels=1, **SMALL)))
    batch = images(16, 16, 1)
    expected = model(batch, training=False)
    trained = branches(prepare_qat(model, lambda: [batch]))
    for modality, branch in branches(model).items():
        exported = quantize_onnx(export_onnx(branch), lambda modality=modality: [batch[modality]])
        for graph in (exported, export_qat_onnx(trained[modality])):
            assert cosine(run_onnx(graph, batch[modality]), expected[modality]) > 0.99


@pytest.mark.parametrize("arguments", [{**SMALL, "neck": "per_modality"}, {**SMALL, "non_local": "embedded"}])
def test_one_training_step_reaches_every_weight(arguments):
    keras.utils.set_random_seed(0)
    network = with_fused_batch_norm(reid_network(agw(SHAPE, learned_gem=True, **arguments), num_identities=3))
    for layer in network.layers:
        if layer.name.endswith("non_local_w_bn"):
            layer.gamma.assign(keras.ops.ones_like(layer.gamma))  # a new block is the identity
    labels = np.array([0, 0, 1, 1, 2, 2, 0, 1, 2])
    with tf.GradientTape() as tape:
        outputs = network(images(6, 3), training=True)
        loss = cross_entropy(outputs["logits"], labels)
        loss += weighted_regularized_triplet(outputs["features"], labels)
    gradients = tape.gradient(loss, [variable.value for variable in network.trainable_variables])
    for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
        # A batch norm follows the one bias and a softmax the other, and removes them.
        removed = variable.path.endswith(("_w/bias", "_phi/bias"))
        assert np.all(np.isfinite(gradient)) and (np.any(gradient) or removed), variable.path


def test_the_trunk_normalizes_both_modalities_together_and_each_neck_its_own():
    batch = images(4, 4)
    batch["thermal"] += 3.0
    for neck in ("shared", "per_modality"):
        keras.utils.set_random_seed(0)
        embeddings = np.asarray(agw(SHAPE, neck=neck, **SMALL)(batch, training=True))
        np.testing.assert_allclose(embeddings.mean(axis=0), 0.0, atol=1e-4)
        apart = np.abs(embeddings[:4].mean(axis=0)).max()
        assert apart < 1e-4 if neck == "per_modality" else apart > 0.1


def test_modalities_share_the_trunk_and_not_the_stem():
    model = agw(SHAPE, thermal_channels=1, **SMALL)
    assert model.get_layer("visible_conv1").kernel.shape == (3, 3, 3, 32)
    assert model.get_layer("thermal_conv1").kernel.shape == (3, 3, 1, 32)
    parts = branches(branches_of(model))
    assert parts["visible"].get_layer("conv2") is parts["thermal"].get_layer("conv2")
    assert {name: part.input_shape for name, part in parts.items()} == {
        "visible": (None, 64, 32, 3),
        "thermal": (None, 64, 32, 1),
    }


@pytest.mark.parametrize(
    "backbone",
    [
        name
        if name in ("custom_model", "mobilenetv2_a035", "osnet_a025", "resnet50")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in PLACES
    ],
)
def test_every_backbone_has_its_places(backbone):
    single = MODELS.get(backbone)(SHAPE)
    places = PLACES[backbone]
    names = {layer.name for layer in single.layers}
    assert {places.stem_end, places.split, places.pool, *places.non_local, *places.changes} <= names
    strides = [SHAPE[0] // single.get_layer(name).output.shape[1] for name in places.non_local]
    assert set(strides) <= {8, 16} and strides == sorted(strides)


def test_mobilenet_has_a_last_stride_of_1():
    model = agw((64, 64, 3), backbone="mobilenetv2_a035")
    assert model.get_layer("out_relu").output.shape[1:3] == (4, 4)


def test_it_is_built_from_the_yaml():
    given = {"model_name": "agw", "input_shape": "(64, 32, 3)", "arguments": {**SMALL, "non_local": "none"}}
    model = build_backbone(validate(ModelSection, given))
    assert model.name == "agw" and not [layer for layer in model.layers if "non_local" in layer.name]
    wrong = validate(ModelSection, {**given, "arguments": {"backbone": "resnet5"}})
    with pytest.raises(ConfigError, match="backbone: unknown value 'resnet5', did you mean 'resnet50'"):
        build_backbone(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"thermal_channels": 2}, "thermal_channels: expected 1 or 3, received 2"),
        ({"neck": "both"}, "neck: expected shared or per_modality, received 'both'"),
        ({"non_local": "gaussian"}, "non_local: expected one of agw, embedded, none, received 'gaussian'"),
        ({"pretrained": True}, "model 'custom_model' has no argument 'pretrained'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises((ValueError, ConfigError), match=message):
        agw(SHAPE, **{**SMALL, **arguments})


# ------------------------------------------------------------------------------------------------------------
# Starting from a network for one modality


@pytest.mark.parametrize("neck", ["shared", "per_modality"])
def test_both_stems_start_from_the_stem_of_a_first_training(neck):
    single = embedding_model(lively(reid_network(MODELS.get("custom_model")(SHAPE), 4, bnneck=True)))
    network = agw(SHAPE, thermal_channels=1, neck=neck, **SMALL)
    start_from_single(network, single)
    parts = branches(branches_of(network))
    grey = images(channels=1)["thermal"]
    expected, thermal = (
        keras.Model(m.input, input_in(m, m.get_layer("features")))(values, training=False)
        for m, values in ((single, np.repeat(grey, 3, axis=-1)), (parts["thermal"], grey))
    )
    np.testing.assert_allclose(thermal, expected, atol=1e-4)
    for part in parts.values():
        name = "bnneck" if neck == "shared" else part.layers[-1].name
        np.testing.assert_array_equal(part.get_layer(name).gamma, single.get_layer("bnneck").gamma)


@pytest.mark.parametrize("neck", ["shared", "per_modality"])
def test_what_was_copied_and_what_is_new_is_counted(neck):
    backbone = MODELS.get("plain_cnn")(SHAPE)
    network = agw(SHAPE, backbone="plain_cnn", thermal_channels=1, neck=neck)
    copied = start_from_single(network, embedding_model(reid_network(backbone, 4, bnneck=True)))
    targets = {row.source: row.targets for row in copied}
    assert targets["conv1"] == ("visible_conv1", "thermal_conv1") and targets["conv2"] == ("conv2",)
    necks = {"shared": ("bnneck",), "per_modality": ("bnneck_visible", "bnneck_thermal")}
    assert targets["bnneck"] == necks[neck]
    assert sum(row.weights * (row.targets == (row.source,)) for row in copied) == 427_944 - 744 + 576 * (
        neck == "shared"
    )
    first, *lines = table_of_copies(network, copied).splitlines()
    assert "weights" in first and len(lines) == 3
    assert "new: conv5_relu_non_local_" in lines[-1]


@pytest.mark.parametrize("neck", ["shared", "per_modality"])
def test_a_training_network_for_one_modality_gives_the_rows_of_both(neck):
    network = lively(
        reid_network(agw(SHAPE, thermal_channels=1, neck=neck, **SMALL), 4, dropout=0.5, centers=True)
    )
    assert input_shapes(network) == {"visible": SHAPE, "thermal": (*SHAPE[:2], 1)}
    batch, outputs = images(channels=1), network(images(channels=1), training=False)
    for modality, rows in (("visible", slice(0, 3)), ("thermal", slice(3, 5))):
        part = of_modality(network, modality)
        assert input_shapes(part) == {"": input_shapes(network)[modality]}
        for name, value in part(batch[modality], training=False).items():
            assert_same(value, np.asarray(outputs[name])[rows])


def test_another_network_is_refused():
    network = agw(SHAPE, **SMALL)
    deep = MODELS.get("custom_model")(SHAPE, depth=5)
    with pytest.raises(ConfigError, match="has a layer 'conv5' with weights, for which 'agw' has no place"):
        start_from_single(network, deep)
    wide = MODELS.get("custom_model")(SHAPE, width=8)
    with pytest.raises(
        ConfigError, match="layer 'conv1' has weights of the shapes .* but 'visible_conv1' needs"
    ):
        start_from_single(network, wide)


# ------------------------------------------------------------------------------------------------------------
# Non-local blocks


def attention_reference(block, x, kind):
    """Position by position, as in the papers: x (H, W, C)."""
    positions = x.reshape(-1, x.shape[-1])
    theta, phi, g = (
        positions @ block.get_layer(f"b_{part}").kernel.numpy()[0, 0]
        + block.get_layer(f"b_{part}").bias.numpy()
        for part in ("theta", "phi", "g")
    )
    affinity = theta @ phi.T
    if kind == "agw":
        weights = affinity / len(positions)
    else:
        weights = np.exp(affinity - affinity.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
    drawn = (weights @ g) @ block.get_layer("b_w").kernel.numpy()[0, 0] + block.get_layer("b_w").bias.numpy()
    return (positions + drawn / np.sqrt(1 + 1e-5)).reshape(x.shape)


@pytest.mark.parametrize(
    ("kind", "parameters"), [("agw", 3_587), ("embedded", 3 * 513 * 256 + 257 * 512 + 1024)]
)
def test_non_local_block(kind, parameters):
    x = keras.Input((4, 3, 512))
    block = keras.Model(x, non_local(x, kind, "b"))
    assert size_of(block.trainable_weights) == parameters
    values = np.random.default_rng(0).normal(size=(2, 4, 3, 512)).astype("float32")
    np.testing.assert_array_equal(block(values, training=False), values)
    block.get_layer("b_w_bn").gamma.assign(np.ones(512))
    for layer in ("b_theta", "b_g", "b_w"):
        block.get_layer(layer).bias.assign(0.3 * np.ones(block.get_layer(layer).filters))
    found = np.asarray(block(values, training=False))
    assert np.abs(found - values).max() > 0.1
    for image, result in zip(values.astype("float64"), found, strict=True):
        np.testing.assert_allclose(result, attention_reference(block, image, kind), atol=1e-4)
