import numpy as np
import pytest
from onnx import helper

from common.config import ConfigError
from common.deployment.macs import count_macs


@pytest.mark.parametrize("name", ["float_onnx", "qdq_onnx", "free_batch_onnx", "batch_of_four_onnx"])
def test_counts_by_hand_for_one_image_whatever_the_batch_and_the_precision(name, request):
    counts = count_macs(request.getfixturevalue(name))
    stem, depthwise, pointwise = 16 * 8 * 8 * (3 * 3 * 3), 16 * 8 * 8 * (3 * 3), 16 * 8 * 16 * 8
    assert counts == {
        "macs": stem + depthwise + pointwise,
        "convolution_macs": stem + depthwise + pointwise,
        "matmul_macs": 0,
        "parameters": 8 * 27 + 8 * 9 + 16 * 8 + 8 + 8 + 16,
    }


def test_counts_gemm_matmul_and_transposed_convolution(tmp_path, onnx_builder):
    rng = np.random.default_rng(0)
    weights = [
        ("up", rng.normal(size=(3, 5, 2, 2))),
        ("first", rng.normal(size=(7, 5))),
        ("second", rng.normal(size=(7, 4))),
    ]
    nodes = [
        helper.make_node("ConvTranspose", ["images", "up"], ["wide"], strides=[2, 2]),  # -> (5, 12, 8)
        helper.make_node("ReduceMean", ["wide"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["mean", "first"], ["hidden"], transB=1),
        helper.make_node("MatMul", ["hidden", "second"], ["embedding"]),
    ]
    counts = count_macs(onnx_builder(tmp_path / "m.onnx", nodes, weights, image=(3, 6, 4), dim=4))
    # An output of a 2x2 transposed convolution with stride 2 sees one tap of each of the 3 channels
    assert counts["convolution_macs"] == 12 * 8 * 5 * 3
    assert counts["matmul_macs"] == 5 * 7 + 7 * 4
    assert counts["parameters"] == 3 * 5 * 4 + 7 * 5 + 7 * 4


def mobilenet(onnx_builder, path, width):
    """MobileNet V1 with folded batch norms, from table 1 of Howard et al., 2017."""
    nodes, weights, channels, name = [], [], 3, "images"

    def convolution(out, kernel, stride, group=1):
        nonlocal channels, name
        index = len(nodes)
        weights.append((f"w{index}", np.zeros((out, channels // group, kernel, kernel))))
        weights.append((f"b{index}", np.zeros(out)))
        nodes.append(
            helper.make_node("Conv", [name, f"w{index}", f"b{index}"], [f"c{index}"], strides=[stride] * 2,
                             pads=[kernel // 2] * 4, group=group)
        )  # fmt: skip
        channels, name = out, f"c{index}"

    convolution(int(32 * width), 3, 2)
    for out, stride in [
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)
    ]:  # fmt: skip
        convolution(channels, 3, stride, group=channels)
        convolution(int(out * width), 1, 1)
    weights += [("w", np.zeros((channels, 1000))), ("b", np.zeros(1000))]
    nodes += [
        helper.make_node("ReduceMean", [name], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["mean", "w", "b"], ["embedding"]),
    ]
    return onnx_builder(path, nodes, weights, image=(3, 224, 224), dim=1000)


@pytest.mark.parametrize(("width", "millions", "trainable"), [(1.0, 569, 4_231_976), (0.25, 41, 470_072)])
def test_mobilenet_has_its_published_counts(tmp_path, onnx_builder, width, millions, trainable):
    # Millions of MACs: table 6 of the paper. Trainable parameters: Keras; folding a batch norm joins its scale
    # and shift into one bias
    counts = count_macs(mobilenet(onnx_builder, tmp_path / "mobilenet.onnx", width))
    assert round(counts["macs"] / 1e6) == millions
    assert counts["parameters"] == trainable - int(10_944 * width)


def test_errors_name_the_file(tmp_path, onnx_builder, float_onnx):
    with pytest.raises(ConfigError, match="none.onnx"):
        count_macs(tmp_path / "none.onnx")
    node = helper.make_node("MatMul", ["images", "w"], ["embedding"])
    path = onnx_builder(tmp_path / "clash.onnx", [node], [("w", np.zeros((5, 4)))], image=(3,), dim=4)
    with pytest.raises(ConfigError, match="clash.onnx: the shapes cannot be inferred"):
        count_macs(path)
