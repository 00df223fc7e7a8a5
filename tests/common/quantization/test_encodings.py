import json

import numpy as np
import pytest
from onnx import numpy_helper

from common.quantization.encodings import encodings
from common.quantization.onnx_export import export_onnx


@pytest.fixture(scope="module")
def quantization(qat_onnx):
    """(scale, zero point, dtype) of each named tensor, read directly from the graph."""
    constants = {i.name: np.atleast_1d(numpy_helper.to_array(i)) for i in qat_onnx.graph.initializer}
    found = {}
    for node in qat_onnx.graph.node:
        if node.op_type == "QuantizeLinear":
            found[node.input[0]] = [constants[name] for name in node.input[1:]]
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            found[node.output[0]] = [constants[name] for name in node.input[1:]]
    return found


def unsigned_zero_point(zero_point):
    return zero_point.astype(np.int64) - int(np.iinfo(zero_point.dtype).min)


def test_legacy_gives_back_scale_and_zero_point(qat_onnx, quantization):
    result = json.loads(json.dumps(encodings(qat_onnx)))
    entries = result["activation_encodings"] | result["param_encodings"]
    assert set(entries) == set(quantization)
    for name, (scale, zero_point) in quantization.items():
        np.testing.assert_allclose([e["scale"] for e in entries[name]], scale, rtol=1e-6)
        np.testing.assert_array_equal([-e["offset"] for e in entries[name]], unsigned_zero_point(zero_point))
        for entry in entries[name]:
            assert entry["min"] == pytest.approx(entry["scale"] * entry["offset"])
            levels = 2 ** entry["bitwidth"] - 1
            assert entry["max"] - entry["min"] == pytest.approx(levels * entry["scale"])
    weights = [e for es in result["param_encodings"].values() for e in es if e["bitwidth"] == 8]
    assert {(e["offset"], e["is_symmetric"]) for e in weights} == {(-128, "True")}


def test_version_1_gives_back_scale_and_zero_point(qat_onnx, quantization):
    result = json.loads(json.dumps(encodings(qat_onnx, "1.0.0")))
    entries = {e["name"]: e for e in result["activation_encodings"] + result["param_encodings"]}
    assert set(entries) == set(quantization)
    for name, (scale, zero_point) in quantization.items():
        np.testing.assert_allclose(entries[name]["scale"], scale, rtol=1e-6)
        np.testing.assert_array_equal(-np.array(entries[name]["offset"]), unsigned_zero_point(zero_point))
        assert entries[name]["enc_type"] == ("PER_TENSOR" if len(scale) == 1 else "PER_CHANNEL")


def test_version_2_keeps_the_sign_of_onnx(qat_onnx, quantization):
    result = json.loads(json.dumps(encodings(qat_onnx, "2.0.0")))
    entries = {e["name"]: e for e in result["encodings"]}
    assert set(entries) == set(quantization)
    for name, (scale, zero_point) in quantization.items():
        np.testing.assert_allclose(np.atleast_1d(entries[name]["y_scale"]), scale, rtol=1e-6)
        np.testing.assert_array_equal(np.atleast_1d(entries[name]["y_zero_point"]), zero_point)
        assert entries[name]["output_dtype"] == zero_point.dtype.name


def test_the_images_and_a_weight_are_there_under_their_names(qat_onnx):
    result = encodings(qat_onnx)
    assert "images" in result["activation_encodings"]
    readers = [node for node in qat_onnx.graph.node if node.op_type == "Conv"]
    assert all(node.input[1] in result["param_encodings"] for node in readers)


def test_mistakes(qat_onnx, toy):
    with pytest.raises(ValueError, match=r"version: expected one of legacy, 1.0.0, 2.0.0"):
        encodings(qat_onnx, "0.6.1")
    with pytest.raises(ValueError, match="expected a QDQ model"):
        encodings(export_onnx(toy))
