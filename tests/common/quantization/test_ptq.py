import numpy as np
import pytest
from onnx import numpy_helper

from common.quantization.complete import incomplete_nodes
from common.quantization.onnx_export import export_onnx
from common.quantization.onnx_ptq import quantize_onnx


@pytest.fixture(scope="module")
def float_onnx(toy):
    return export_onnx(toy)


@pytest.mark.parametrize("batch_size, nchw", [(1, False), (4, False), (2, True)])
def test_float_export_equals_the_source(toy, images, run_onnx, batch_size, nchw):
    model = export_onnx(toy, batch_size, nchw)
    np.testing.assert_allclose(run_onnx(model, images), toy(images, training=False), atol=1e-4)
    assert [i.name for i in model.graph.input] == ["images"]
    assert [o.name for o in model.graph.output] == ["embedding"]


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


def test_calibration_is_in_nhwc_for_both_layouts(toy, images, calibration, float_onnx, run_onnx):
    nchw = quantize_onnx(export_onnx(toy, batch_size=5, nchw=True), calibration)
    nhwc = quantize_onnx(float_onnx, calibration)
    np.testing.assert_allclose(run_onnx(nchw, images[:20]), run_onnx(nhwc, images[:20]), atol=0.1)


def test_wrong_choices_name_the_right_ones(float_onnx, calibration):
    with pytest.raises(
        ValueError, match=r"granularity: expected one of per_channel, per_tensor, received 'row'"
    ):
        quantize_onnx(float_onnx, calibration, "row")
    with pytest.raises(ValueError, match="calibrate_method"):
        quantize_onnx(float_onnx, calibration, calibrate_method="MSE")
    with pytest.raises(ValueError, match="calibration yielded no batch"):
        quantize_onnx(float_onnx, list)
