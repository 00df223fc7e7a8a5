import numpy as np
import pytest
from onnx import helper

from common.config import ConfigError
from common.deployment.graph_features import GraphFeatures, graph_features


@pytest.mark.parametrize("name", ["float_onnx", "qdq_onnx", "free_batch_onnx", "batch_of_four_onnx"])
def test_counts_by_hand_for_one_image_whatever_the_batch_and_the_precision(name, request):
    # Three convolutions and a pooling; activations, flattening and encodings cost nothing
    values = 16 * 8 * 8 + 16 * 8 * 8 + 16 * 8 * 16 + 16
    assert graph_features(request.getfixturevalue(name)) == GraphFeatures(53_248, 448, values, 4, False)


def normalized(onnx_builder, path, kind, constant, quantized=False):
    rng = np.random.default_rng(0)
    weights = [("k", constant), ("w", rng.normal(size=(4, 3, 1, 1))), ("p", np.ones((4, 1, 1)))]
    nodes = [helper.make_node(kind, ["images", "k"], ["x"])]
    if quantized:
        weights += [("s", np.float32(1)), ("q", constant)]
        nodes = [
            helper.make_node("QuantizeLinear", ["q", "s"], ["k8"]),
            helper.make_node("DequantizeLinear", ["k8", "s"], ["kf"]),
            helper.make_node(kind, ["images", "kf"], ["x"]),
        ]
    nodes += [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Mul", ["c", "p"], ["m"]),  # after the first product: no normalisation of the image
        helper.make_node("GlobalAveragePool", ["m"], ["g"]),
        helper.make_node("Flatten", ["g"], ["embedding"]),
    ]
    return graph_features(onnx_builder(path / "n.onnx", nodes, weights, dim=4)).input_normalization


@pytest.mark.parametrize("kind", ["Sub", "Add", "Mul", "Div"])
def test_only_channelwise_arithmetic_on_the_image_is_a_normalization(tmp_path, onnx_builder, kind):
    channels = np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    assert normalized(onnx_builder, tmp_path, kind, channels)
    assert normalized(onnx_builder, tmp_path, kind, channels, quantized=True)
    assert not normalized(onnx_builder, tmp_path, kind, np.array(2.0))


def test_the_file_is_named_when_it_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="none.onnx"):
        graph_features(tmp_path / "none.onnx")
