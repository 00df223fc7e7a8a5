"""Which layers are frozen, and that frozen means that nothing of them changes."""

import keras
import numpy as np
import pytest

from common.config import ConfigError, validate
from common.layers.rewrite import with_fused_batch_norm
from src.models._head import reid_network
from src.schema import Training
from src.training.frozen_layers import freeze, table_of
from src.training.step import losses_of, make_training_step

BASE = {"batch_size": 8, "epochs": 1, "optimizer": "SGD", "images_per_identity": 2}


def _network() -> keras.Model:
    """Layers: 0 input, 1 conv, 2 bn, 3 relu, 4 conv_2, 5 bn_2, 6 pool, 7 bnneck, 8 dropout, 9 logits."""
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, use_bias=False, name="conv")(images)
    x = keras.layers.ReLU(name="relu")(keras.layers.BatchNormalization(name="bn")(x))
    x = keras.layers.Conv2D(4, 3, use_bias=False, name="conv_2")(x)
    x = keras.layers.BatchNormalization(name="bn_2")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return reid_network(keras.Model(images, x), 4, bnneck=True, dropout=0.5)


@pytest.mark.parametrize(
    ("text", "frozen"),
    [
        (None, []),
        ("None", []),
        ("(0:-1)", list(range(9))),
        ("(2:5)", [2, 3, 4]),
        ("(7:)", [7, 8, 9]),
        ("(8, 1:4, -1)", [1, 2, 3, 8, 9]),
        ("(0, -1)", [0, 9]),
        ((0, -1), [0, 9]),
        (2, [2]),
        ("2", [2]),
        ("(2)", [2]),
        ("(2,)", [2]),
        ("(2:100)", list(range(2, 10))),
    ],
)
def test_python_indices_select_the_layers_to_freeze(text, frozen):
    network = _network()
    rows = freeze(network, text)
    assert [row.number for row in rows if row.frozen] == frozen
    assert [number for number, layer in enumerate(network.layers) if not layer.trainable] == frozen
    assert [(row.name, row.kind) for row in rows[1:3]] == [("conv", "Conv2D"), ("bn", "BatchNormalization")]
    assert [row.weights for row in rows[1:3]] == [3 * 3 * 3 * 4, 4 * 4]


def test_what_was_frozen_before_is_trained_again():
    network = _network()
    freeze(network, "(0:-1)")
    freeze(network, "(1)")
    assert [layer.name for layer in network.layers if not layer.trainable] == ["conv"]


def test_a_network_within_the_network_is_frozen_and_trained_with_all_its_layers():
    images = keras.Input((8, 8, 3))
    inner = keras.Sequential([keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()])
    network = reid_network(keras.Model(images, inner(images)), 4)
    inner.layers[0].trainable = False
    freeze(network, None)
    assert len(network.trainable_variables) == 4
    freeze(network, "(1)")
    assert [variable.path for variable in network.trainable_variables] == ["logits/kernel", "logits/bias"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(10)", "there is no layer 10, the network has 10 layers: 0 to 9, or -10 to -1"),
        ("(0, -11)", "there is no layer -11"),
        ("(150:)", "the slice 150: selects none of the network's 10 layers"),
        ("(:)", r"\(:\) leaves no weight to train"),
        ("(a)", "expected an index .* received '\\(a\\)'"),
    ],
)
def test_indices_that_do_not_fit_the_network_are_refused(text, message):
    with pytest.raises(ConfigError, match=f"training.frozen_layers: {message}"):
        freeze(_network(), text)


@pytest.mark.parametrize(
    ("value", "read"),
    [("(0:-1)", "(0:-1)"), (2, "2"), ([8, "1:4", -1], "(8, 1:4, -1)"), (None, None), ("None", None)],
)
def test_the_configuration_takes_every_spelling(value, read):
    assert validate(Training, {**BASE, "frozen_layers": value}).frozen_layers == read


@pytest.mark.parametrize("value", ["0:-1", "(1.5)", "__import__('os')", True, 1.5])
def test_other_values_are_refused_by_the_key(value):
    with pytest.raises(ConfigError, match="frozen_layers: .*received"):
        validate(Training, {**BASE, "frozen_layers": value})


@pytest.mark.parametrize("copy", [lambda network: network, with_fused_batch_norm], ids=["keras", "fused"])
def test_training_changes_nothing_of_a_frozen_layer(copy):
    network = copy(_network())
    freeze(network, "(1:3, 7)")
    before = {layer.name: [value.copy() for value in layer.get_weights()] for layer in network.layers}
    step = make_training_step(network, keras.optimizers.SGD(0.1), losses_of(Training(**BASE)), compiled=False)
    images = np.random.default_rng(0).normal(3, 5, (8, 8, 8, 3)).astype(np.float32)
    step(images, np.repeat(np.arange(4), 2).astype(np.int32))
    changed = {
        layer.name
        for layer in network.layers
        for old, new in zip(before[layer.name], layer.get_weights(), strict=True)
        if not np.array_equal(old, new)
    }
    assert changed == {"conv_2", "bn_2", "logits"}


@pytest.mark.parametrize("copy", [lambda network: network, with_fused_batch_norm], ids=["keras", "fused"])
def test_a_frozen_batch_norm_uses_its_moving_statistics(copy):
    network = copy(_network())
    freeze(network, "(1:8)")
    images = np.random.default_rng(0).normal(3, 5, (8, 8, 8, 3)).astype(np.float32)
    trained = network(images, training=True)["embedding"]
    np.testing.assert_allclose(trained, network(images, training=False)["embedding"], rtol=1e-6)


def test_a_copy_with_fused_batch_norm_keeps_what_is_frozen():
    network = _network()
    freeze(network, "(0:-1)")
    copy = with_fused_batch_norm(network)
    assert [layer.name for layer in copy.layers[1:]] == [layer.name for layer in network.layers[1:]]
    assert [variable.path for variable in copy.trainable_variables] == ["logits/kernel"]


def test_the_table_has_a_line_for_each_run_of_layers():
    lines = table_of(freeze(_network(), "(0:3, -1)")).splitlines()
    assert len(lines) == 5
    assert lines[1].split()[:3] == ["0-2", "frozen", "124"] and lines[1].endswith("bn (BatchNormalization)")
    assert lines[2].split()[:3] == ["3-8", "trained", "172"]
    assert lines[3].split() == ["9", "frozen", "16", "logits", "(Dense)"]
    assert lines[4] == "4 of 10 layers and 140 of 312 weights are frozen"
