from pathlib import Path

import keras
import numpy as np
import pytest

from src.models import osnet
from src.tools.checkpoints.sources import SOURCES
from src.tools.checkpoints.transfer import transfer
from tests.networks import size_of

DATA = Path(__file__).parents[2] / "data"

# Trainable parameters, batch-norm statistics, and multiply-accumulates of convolutions and dense layers at
# 256x128, counted by torchreid on its networks without their classifier.
PUBLISHED = {
    "osnet_a025": (201_864, 6_528, 82_316_000),
    "osnet_a050": (630_034, 12_032, 272_901_064),
    "osnet_a075": (1_285_754, 17_536, 571_754_536),
    "osnet_a100": (2_169_508, 23_040, 978_878_352),
}


def multiply_accumulates(model):
    """Weights x output positions, over all calls of layers with a kernel; biases count as in torchreid."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D | keras.layers.Dense):
            for node in layer._inbound_nodes:
                total += size_of(layer.weights) * int(np.prod(node.outputs[0].shape[1:-1]))
    return total


@pytest.mark.parametrize(
    "name", [n if n == "osnet_a025" else pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED]
)
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
    transfer(np.load(DATA / "osnet_x0_25_weights.npz"), model, SOURCES["torchreid"])
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
