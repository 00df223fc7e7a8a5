"""One network gives the same integers in TensorFlow, ONNX Runtime and TFLite."""

import numpy as np
import pytest
import tf_keras

from common.quantization.branches import branches
from common.quantization.complete import export_qat_onnx
from common.quantization.grids import _calls, _kernel, _odd_fraction
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


def test_tflite_gives_the_integers_of_the_trained_model(fine_tuned, images):
    received, *_ = run(convert_qat(fine_tuned, "int8", "float"), images)
    assert steps_apart(fine_tuned, received, images) < 0.01


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


@pytest.mark.parametrize("least", [0.3, 1.0, 1.7, 0.05, 1 / 256, 1 / 3000, 1 / 129])
def test_an_odd_fraction_is_near_and_not_smaller(least):
    found = _odd_fraction(least)
    assert least * (1 - 1e-5) <= found <= least * 1.05
    odd = [d for d in range(1, 4096, 2) if abs(found * d - round(found * d)) < 1e-6]
    assert odd
