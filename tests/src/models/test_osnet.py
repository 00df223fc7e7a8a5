import re
from pathlib import Path

import keras
import numpy as np
import pytest

from src.models import osnet

DATA = Path(__file__).parents[2] / "data"

# Trainable parameters, batch-norm statistics, and multiply-accumulates of convolutions and dense layers at
# 256x128, counted by torchreid on its networks without their classifier.
PUBLISHED = {
    "osnet_a025": (201_864, 6_528, 82_316_000),
    "osnet_a050": (630_034, 12_032, 272_901_064),
    "osnet_a075": (1_285_754, 17_536, 571_754_536),
    "osnet_a100": (2_169_508, 23_040, 978_878_352),
}

TORCH_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def size_of(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


def multiply_accumulates(model):
    """Weights x output positions, over all calls of layers with a kernel; biases count as in torchreid."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D | keras.layers.Dense):
            for node in layer._inbound_nodes:
                total += size_of(layer.weights) * int(np.prod(node.outputs[0].shape[1:-1]))
    return total


def torch_key(layer, weight):
    """Name in torchreid's state dict of a weight of ours."""
    block = re.fullmatch(r"conv(\d)_([12])_(.+)", layer)
    if block:
        stage, index, rest = block.groups()
        stream = re.fullmatch(r"stream(\d)_(\d)_(\w+)", rest)
        if stream:
            number, depth, part = stream.groups()
            place = f"conv2{'abcd'[int(number) - 1]}" + ("" if number == "1" else f".{int(depth) - 1}")
            inner = {"pointwise": f"{place}.conv1", "depthwise": f"{place}.conv2", "bn": f"{place}.bn"}[part]
        elif rest.startswith("gate_"):
            inner = f"gate.{rest[5:]}"
        else:
            inner = f"{rest[:-3]}.bn" if rest.endswith("_bn") else f"{rest}.conv"
        module = f"conv{stage}.{int(index) - 1}.{inner}"
    elif layer.startswith("fc"):
        module = "fc.1" if layer == "fc_bn" else "fc.0"
    else:
        stem = layer.removesuffix("_bn").replace("_transition", ".2.0")
        module = f"{stem}.bn" if layer.endswith("_bn") else f"{stem}.conv"
    return f"{module}.{TORCH_NAMES[weight]}"


def to_keras(array, layer):
    if array.ndim == 4:  # depthwise: (C, 1, h, w) to (h, w, C, 1); others: (out, in, h, w) to (h, w, in, out)
        return (
            array.transpose(2, 3, 0, 1)
            if isinstance(layer, keras.layers.DepthwiseConv2D)
            else array.transpose(2, 3, 1, 0)
        )
    return array.T


def load_torch(model, state):
    used = set()
    for layer in model.layers:
        for variable in layer.weights:
            key = torch_key(layer.name, variable.name)
            variable.assign(to_keras(state[key], layer))
            used.add(key)
    assert used == set(state)


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name):
    model = getattr(osnet, name)((256, 128, 3))
    counted = (
        size_of(model.trainable_weights),
        size_of(model.non_trainable_weights),
        multiply_accumulates(model),
    )
    assert counted == PUBLISHED[name]
    assert model.output_shape == (None, 512)


def test_features_are_those_of_torchreid():
    model = osnet.osnet_a025((256, 128, 3))
    load_torch(model, np.load(DATA / "osnet_x0_25_weights.npz"))
    golden = np.load(DATA / "osnet_x0_25_forward.npz")
    features = keras.ops.convert_to_numpy(model(golden["image"][None], training=False))[0]
    assert np.ptp(golden["features"]) > 0.1
    np.testing.assert_allclose(features, golden["features"], atol=1e-4)


def test_gate_is_shared_by_the_streams_and_quantizes():
    model = osnet.osnet_a025((64, 32, 3))
    assert len(model.get_layer("conv3_2_gate_fc1")._inbound_nodes) == 4
    assert isinstance(model.get_layer("conv3_2_stream2_gate"), keras.layers.Activation)
    assert isinstance(model.get_layer("conv3_2_stream2_gated"), keras.layers.Multiply)
    assert all(len(layer.input) == 2 for layer in model.layers if isinstance(layer, keras.layers.Add))
