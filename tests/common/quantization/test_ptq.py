import logging
import os

import keras
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tf2onnx.optimizer import EinsumOptimizer

from common.config import ConfigError
from common.deployment.graph_features import graph_features
from common.deployment.qnn_htp import compile_htp
from common.quantization import onnx_ptq
from common.quantization.complete import incomplete_nodes
from common.quantization.encodings import encodings
from common.quantization.onnx_export import export_onnx
from common.quantization.onnx_ptq import quantize_onnx
from common.runtime import open_model


@pytest.fixture(scope="module")
def float_onnx(toy):
    return export_onnx(toy)


@pytest.mark.parametrize("batch_size, nchw", [(1, False), (4, False), (2, True)])
def test_float_export_equals_the_source(toy, images, run_onnx, batch_size, nchw):
    model = export_onnx(toy, batch_size, nchw)
    np.testing.assert_allclose(run_onnx(model, images), toy(images, training=False), atol=1e-4)
    assert [i.name for i in model.graph.input] == ["images"]
    assert [o.name for o in model.graph.output] == ["embedding"]


def test_the_graph_is_copied_only_where_a_pass_of_the_converter_fails(toy, images, run_onnx, monkeypatch):
    environment = []

    def optimize(self, graph, iteration):
        environment.append(os.environ.get("TF2ONNX_CATCH_ERRORS"))
        raise ValueError("a pass that fails")

    monkeypatch.setattr(EinsumOptimizer, "optimize", optimize)
    monkeypatch.delenv("TF2ONNX_CATCH_ERRORS", raising=False)
    exported = run_onnx(export_onnx(toy, batch_size=8), images)
    np.testing.assert_allclose(exported, toy(images), atol=1e-4)
    assert environment[0] == "FALSE" and set(environment[1:]) == {None}


def test_zeros_before_a_max_pool_stay_zeros(images, run_onnx):
    source = keras.Input((32, 16, 3))
    x = keras.layers.Conv2D(8, 3, bias_initializer=keras.initializers.Constant(-3))(source)  # all is below 0
    x = keras.layers.MaxPooling2D(3, 2)(keras.layers.ZeroPadding2D()(x))
    network = keras.Model(source, keras.layers.GlobalAveragePooling2D()(x))
    np.testing.assert_allclose(run_onnx(export_onnx(network), images), network(images), atol=1e-5)


def test_a_network_with_several_outputs_is_not_exported(toy):
    network = keras.Model(toy.input, {"embedding": toy.output, "features": toy.get_layer("pool").output})
    with pytest.raises(
        ValueError, match="expected one input and one output, received 1 and 2: give the embedding"
    ):
        export_onnx(network)


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("method", ["MinMax", "Percentile", "Entropy"])
def test_quantized_onnx_is_complete_and_near(
    toy, images, calibration, float_onnx, run_onnx, cosine, granularity, method, capsys
):
    quantized = quantize_onnx(float_onnx, calibration, granularity, method)
    assert incomplete_nodes(quantized) == []
    expected = np.asarray(toy(images, training=False))
    least = 0.6 if method == "Entropy" else 0.95  # entropy clips; it expects thousands of images
    assert cosine(run_onnx(quantized, images), expected, center=expected.mean(0)) > least
    scales = [i for i in quantized.graph.initializer if i.name.endswith("_scale") and np.prod(i.dims) > 1]
    assert bool(scales) == (granularity == "per_channel")
    assert all((numpy_helper.to_array(scale) > 0).all() for scale in scales)
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def wide_onnx(float_onnx, calibration):
    return quantize_onnx(float_onnx, calibration, activation_bits=16)


def test_activations_of_16_bits_leave_the_rounding_of_the_weights(
    toy, images, calibration, float_onnx, wide_onnx, run_onnx, cosine
):
    assert incomplete_nodes(wide_onnx) == []
    expected = np.asarray(toy(images, training=False))
    narrow = quantize_onnx(float_onnx, calibration)
    to_wide, to_narrow = (
        cosine(run_onnx(model, images), expected, center=expected.mean(0)) for model in (wide_onnx, narrow)
    )
    assert to_wide > to_narrow and to_wide > 0.99
    found = encodings(wide_onnx, "1.0.0")
    assert {entry["bw"] for entry in found["activation_encodings"]} == {16}
    assert {entry["bw"] for entry in found["param_encodings"]} >= {8, 32}


@pytest.mark.qnn
def test_the_npu_computes_16_bits_as_onnxruntime_does(wide_onnx, images, run_onnx, cosine, tmp_path):
    onnx.save(wide_onnx, tmp_path / "wide.onnx")
    compiled = compile_htp(tmp_path / "wide.onnx", tmp_path / "htp").require_complete().require_integer()
    assert "ufixed16" in {kind for row in compiled.placement for kind in row.outputs}
    with open_model(compiled.context, threads=1) as context:
        on_npu = context.embed(images[:16])
    on_host = run_onnx(wide_onnx, images[:16])
    assert cosine(on_npu, on_host, center=on_host.mean(0)) > 0.9999


def test_no_latency_is_estimated_of_16_bits(wide_onnx, tmp_path):
    onnx.save(wide_onnx, tmp_path / "wide.onnx")
    with pytest.raises(ConfigError, match="wide.onnx: no latency is estimated, because '.+' has 16 bits"):
        graph_features(tmp_path / "wide.onnx")


def test_calibration_is_in_nhwc_for_both_layouts(toy, images, calibration, float_onnx, run_onnx):
    nchw = quantize_onnx(export_onnx(toy, batch_size=5, nchw=True), calibration)
    nhwc = quantize_onnx(float_onnx, calibration)
    np.testing.assert_allclose(run_onnx(nchw, images[:20]), run_onnx(nhwc, images[:20]), atol=0.1)


def test_what_onnxruntime_says_on_the_way_is_not_heard(capsys, caplog):
    caplog.set_level("INFO")
    with onnx_ptq._silence():
        print("collecting tensors")
        logging.info("created a copy of a bias")
        logging.warning("a range is empty")
    logging.info("ours")
    assert [record.getMessage() for record in caplog.records] == ["a range is empty", "ours"]
    assert capsys.readouterr().out == ""


def test_operators_that_are_left_in_float_are_an_error(float_onnx, calibration, monkeypatch):
    monkeypatch.setattr(onnx_ptq, "incomplete_nodes", lambda model: ["Conv 'a' reads 'b' in float"])
    with pytest.raises(ValueError, match="onnxruntime left operators in float: Conv 'a' reads 'b' in float"):
        quantize_onnx(float_onnx, calibration)


def test_wrong_choices_name_the_right_ones(float_onnx, calibration):
    with pytest.raises(
        ValueError, match=r"granularity: expected one of per_channel, per_tensor, received 'row'"
    ):
        quantize_onnx(float_onnx, calibration, "row")
    with pytest.raises(ValueError, match="calibrate_method"):
        quantize_onnx(float_onnx, calibration, calibrate_method="MSE")
    with pytest.raises(ValueError, match="activation_bits: expected 8 or 16, received 4"):
        quantize_onnx(float_onnx, calibration, activation_bits=4)
    with pytest.raises(ValueError, match="calibration yielded no batch"):
        quantize_onnx(float_onnx, list)


@pytest.mark.parametrize(
    ("group", "shape", "has_bias", "attributes", "affine"),
    [
        (4, (4, 1, 1, 1), True, {}, True),
        (4, (4, 1, 1, 1), True, {"strides": [1, 1], "pads": [0, 0, 0, 0]}, True),
        (4, (4, 1, 1, 1), True, {"strides": [2, 2]}, False),
        (4, (4, 1, 1, 1), True, {"pads": [0, 0, 1, 1]}, False),
        (4, (4, 1, 1, 1), False, {}, False),
        (4, (4, 1, 3, 3), True, {}, False),
        (1, (4, 4, 1, 1), True, {}, False),
        (1, (1, 1, 1, 1), True, {}, False),
    ],
)
def test_only_a_scale_and_shift_of_each_channel_is_written_as_product_and_sum(
    group, shape, has_bias, attributes, affine
):
    inputs = ["x", "kernel", *(["bias"] if has_bias else [])]
    node = onnx.helper.make_node("Conv", inputs, ["y"], group=group, **attributes)
    assert onnx_ptq._is_affine(node, np.zeros(shape, np.float32)) == affine
