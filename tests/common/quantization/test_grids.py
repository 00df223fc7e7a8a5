"""One network gives the same integers in TensorFlow and ONNX Runtime, and nearly the same in TFLite."""

import keras
import numpy as np
import pytest
import tf_keras

from common.quantization.branches import branches
from common.quantization.complete import export_qat_onnx
from common.quantization.grids import _calls, _kernel, _odd_fraction, settle
from common.quantization.qat import fine_tune, prepare_qat
from common.quantization.tflite import convert_qat
from tests.common.quantization.test_tflite import run

_L = tf_keras.layers


def steps_apart(model, received, images):
    """Greatest difference of embeddings in steps of the output's grid."""
    step = _calls(model)[-1].output.scale
    return np.abs(received - np.asarray(model(images, training=False))).max() / step


@pytest.fixture(scope="module")
def fine_tuned(toy, calibration, images):
    model = prepare_qat(toy, calibration)
    fine_tune(model, toy, [images[:12], images[12:]], 2, learning_rate=1e-3)
    return model


@pytest.mark.parametrize("optimized", [True, False])
def test_onnx_runtime_gives_the_integers_of_the_trained_model(fine_tuned, images, run_onnx, optimized):
    received = run_onnx(export_qat_onnx(fine_tuned), images, optimized)
    assert steps_apart(fine_tuned, received, images) < 0.01


def test_tflite_is_a_step_off_on_few_images(fine_tuned, images):
    """Its means and gates are computed with fixed-point factors."""
    received, *_ = run(convert_qat(fine_tuned, "int8", "float"), images)
    steps = (
        np.abs(received - np.asarray(fine_tuned(images, training=False)))
        / _calls(fine_tuned)[-1].output.scale
    )
    assert np.mean(steps > 0.01) < 0.1 and steps.max() < 3


def test_one_scale_per_kernel_gives_the_same_integers(toy, calibration, images, run_onnx):
    model = prepare_qat(toy, calibration, granularity="per_tensor")
    assert steps_apart(model, run_onnx(export_qat_onnx(model), images), images) < 0.01


def test_each_modality_gives_the_integers_of_the_common_model(two_stems, two_images, run_onnx):
    model = prepare_qat(two_stems, lambda: [two_images])
    for name, branch in branches(model).items():
        received = run_onnx(export_qat_onnx(branch), two_images[name])
        assert steps_apart(branch, received, two_images[name]) < 0.01


def test_an_output_step_is_an_odd_number_of_steps_of_the_sum(qat_model):
    kernels = [call for call in _calls(qat_model) if call.has_kernel]
    assert len(kernels) == 11  # 2 stem, 2 streams, 2 x 2 gates, pre-activation, fc, neck
    for call in kernels:
        kernel, quantizer = _kernel(call)
        ratio = call.output.scale / (call.inputs[0].scale * np.asarray(quantizer.scale(kernel), np.float64))
        np.testing.assert_allclose(ratio, 2 * np.floor(ratio / 2) + 1, rtol=1e-5)
        limits = np.abs(np.asarray(kernel)).max(
            axis=(0, 1) if call.layer.quantize_config.kernel[0] == "d" else (0, 1, 2)
        )
        assert (127 * np.asarray(quantizer.scale(kernel)) >= limits.ravel() * (1 - 1e-6)).all()


def test_terms_of_a_sum_are_whole_parts_of_an_odd_number(qat_model):
    sums = [call for call in _calls(qat_model) if isinstance(call.kind, _L.Add)]
    assert len(sums) == 2
    for call in sums:
        unit = 2.0 ** np.floor(np.log2(call.output.scale))
        while (call.output.scale / unit) % 1:
            unit /= 2
        assert 128 <= call.output.scale / unit < 2048
        for term in call.inputs:
            assert (term.scale / unit) % 1 < 1e-4 or (term.scale / unit) % 1 > 1 - 1e-4


def test_biases_are_whole_steps(qat_model):
    for call in _calls(qat_model):
        if call.has_kernel:
            kernel, quantizer = _kernel(call)
            step = np.asarray(quantizer.scale(kernel), np.float64) * call.inputs[0].scale
            steps = np.asarray(call.kind.bias) / step
            np.testing.assert_allclose(steps, np.round(steps), atol=0.01)


@pytest.mark.parametrize("value", [0.3, 1.0, 1.7, 0.05, 1 / 256, 1 / 3000, 1 / 129])
@pytest.mark.parametrize("up", [True, False])
def test_an_odd_fraction_is_near_and_on_its_side(value, up):
    found = _odd_fraction(value, up)
    assert value * (1 - 1e-5) <= found <= value * 1.05 if up else value * 0.95 <= found <= value * (1 + 1e-5)
    assert [d for d in range(1, 4096, 2) if abs(found * d - round(found * d)) < 1e-6]


def test_the_range_behind_a_relu6_ends_at_6(calibration, images, run_onnx):
    """A wider one would need a Clip between the convolution and its rounding, which the HTP refuses."""
    keras.utils.set_random_seed(0)
    source = keras.Input((32, 16, 3))
    maps = keras.layers.ReLU(6.0)(keras.layers.Conv2D(8, 3, strides=2, bias_initializer="ones")(source))
    model = keras.Model(source, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(maps)))
    model.layers[1].kernel.assign(model.layers[1].kernel * 20)
    model = prepare_qat(model, calibration)
    grid = next(call.output for call in _calls(model) if isinstance(call.kind, _L.ReLU))
    assert 255 * grid.scale == pytest.approx(6, rel=1e-6)
    completed = export_qat_onnx(model)
    assert "Clip" not in {node.op_type for node in completed.graph.node}
    assert steps_apart(model, run_onnx(completed, images), images) < 0.01


def test_no_scale_hangs_on_the_last_digits_of_float32(toy, calibration, images, run_onnx):
    model = prepare_qat(toy, calibration)
    call = next(call for call in _calls(model) if call.has_kernel and call.is_integer)
    kernel, quantizer = _kernel(call)
    ratio = call.output.scale / call.inputs[0].scale
    largest = np.abs(kernel.numpy()).max(axis=(0, 1, 2))
    odd = 2 * np.floor((127 * ratio / largest - 1) / 2) + 1
    assert (odd >= 15).all()
    kernel.assign(kernel * (127 * ratio / odd / largest).astype(np.float32))

    def scales():
        found = [quantizer.scale(kernel * (1 + change)).numpy() for change in (-3e-7, 0, 3e-7)]
        return np.round(ratio / np.stack(found))

    assert (np.ptp(scales(), axis=0) > 0).any(), "the edge"
    settle(model)
    assert (np.ptp(scales(), axis=0) == 0).all()
    np.testing.assert_array_equal(scales()[0], odd - 2)
    assert steps_apart(model, run_onnx(export_qat_onnx(model), images), images) < 0.01
