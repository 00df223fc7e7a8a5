from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

HEIGHT, WIDTH, DIM = 32, 16, 16


def save_onnx(
    path: Path, nodes, weights=(), batch=1, image=(3, HEIGHT, WIDTH), dim=DIM, outputs=("embedding",)
):
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, *image])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, dim]) for name in outputs],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def small_network(path: Path, batch=1, middle="Relu") -> Path:
    """Stem 3x3/2, depthwise 3x3, pointwise, average pooling: 53,248 MACs, 448 parameters."""
    rng = np.random.default_rng(0)
    shapes = {"stem": (8, 3, 3, 3), "depthwise": (8, 1, 3, 3), "pointwise": (16, 8, 1, 1)}
    weights = [(f"{name}_weights", rng.normal(0, 0.3, shape)) for name, shape in shapes.items()]
    weights += [(f"{name}_bias", rng.normal(0, 0.1, shape[0])) for name, shape in shapes.items()]

    def convolution(name, source, **attributes):
        inputs = [source, f"{name}_weights", f"{name}_bias"]
        return helper.make_node("Conv", inputs, [name], name=name, **attributes)

    nodes = [
        convolution("stem", "images", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node(middle, ["stem"], ["middle"], name="middle"),
        convolution("depthwise", "middle", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["depthwise"], ["relu_2"], name="relu_2"),
        convolution("pointwise", "relu_2"),
        helper.make_node("Relu", ["pointwise"], ["relu_3"], name="relu_3"),
        helper.make_node("GlobalAveragePool", ["relu_3"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["embedding"], name="flatten"),
    ]
    return save_onnx(path, nodes, weights, batch)


def quantize(source: Path, target: Path) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Noise(CalibrationDataReader):
        def __init__(self):
            rng = np.random.default_rng(1)
            shape = (1, 3, HEIGHT, WIDTH)
            self.batches = iter([{"images": rng.uniform(-1, 1, shape).astype(np.float32)} for _ in range(8)])

        def get_next(self):
            return next(self.batches, None)

    quantize_static(
        source,
        target,
        Noise(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return target


@pytest.fixture(scope="session")
def onnx_builder():
    """Save nodes as an ONNX model with one image input."""
    return save_onnx


@pytest.fixture(scope="session")
def float_onnx(tmp_path_factory) -> Path:
    return small_network(tmp_path_factory.mktemp("onnx") / "float.onnx")


@pytest.fixture(scope="session")
def free_batch_onnx(tmp_path_factory) -> Path:
    return small_network(tmp_path_factory.mktemp("onnx") / "free.onnx", batch="N")


@pytest.fixture(scope="session")
def batch_of_four_onnx(tmp_path_factory) -> Path:
    return small_network(tmp_path_factory.mktemp("onnx") / "four.onnx", batch=4)


@pytest.fixture(scope="session")
def refused_onnx(tmp_path_factory) -> Path:
    """A network with an operator that the HTP does not have."""
    return small_network(tmp_path_factory.mktemp("onnx") / "refused.onnx", middle="Erf")


@pytest.fixture(scope="session")
def qdq_onnx(float_onnx, tmp_path_factory) -> Path:
    return quantize(float_onnx, tmp_path_factory.mktemp("onnx") / "qdq.onnx")


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(2).uniform(-1, 1, (11, HEIGHT, WIDTH, 3)).astype(np.float32)
