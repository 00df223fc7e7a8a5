import keras
import numpy as np
import pytest
import tensorflow as tf

from common.quantization.complete import export_qat_onnx, incomplete_nodes
from common.quantization.qat import calibrate_ranges, fine_tune, least_squared_error, prepare_qat


def ranges(model):
    return {
        v.name: float(v) for v in model.weights if v.shape.rank == 0 and v.name.endswith(("min:0", "max:0"))
    }


def test_ranges_are_those_of_the_float_network(toy, images, qat_model):
    found = ranges(qat_model)
    low, high = (value for name, value in found.items() if name.startswith("quantize_layer"))
    scale = (high - low) / 255
    assert low == pytest.approx(images.min(), abs=scale)
    assert high == pytest.approx(images.max(), abs=scale)
    neck = np.asarray(toy(images, training=False))
    low, high = (found[f"quant_bnneck/output_{end}:0"] for end in ("min", "max"))
    scale = 4 * (high - low) / 255  # the kernels are int8 already
    assert low == pytest.approx(min(neck.min(), 0), abs=scale)
    assert high == pytest.approx(neck.max(), abs=scale)


@pytest.mark.parametrize("draw", ["normal", "laplace", "uniform", "rectified"])
def test_the_range_has_nearly_the_least_error_of_all(draw):
    random = np.random.default_rng(0)
    values = {
        "normal": lambda: random.normal(0.5, 1.0, 20000),
        "laplace": lambda: random.laplace(0.0, 1.0, 20000),
        "uniform": lambda: random.uniform(-1.0, 3.0, 20000),
        "rectified": lambda: np.maximum(random.laplace(0.0, 1.0, 20000), 0.0) ** 2,
    }[draw]()
    ends = min(values.min(), 0.0), values.max()

    def error(low, high):
        step = (high - low) / 255
        return np.mean((np.clip(np.rint(values / step) * step, low, high) - values) ** 2)

    found = least_squared_error(*ends, np.histogram(values, 2048, ends)[0])
    shares = np.linspace(0.1, 1.0, 46)
    least = min(error(low * ends[0], high * ends[1]) for low in shares for high in shares)
    assert error(*found) < 1.05 * least
    assert (found == pytest.approx(ends, rel=0.02)) == (draw == "uniform")
    assert ends[0] <= found[0] <= 0 < found[1] <= ends[1]


def test_every_range_contains_zero_as_a_whole_step(qat_model):
    found = ranges(qat_model)
    lows = [value for name, value in found.items() if name.endswith("min:0")]
    highs = [value for name, value in found.items() if name.endswith("max:0")]
    assert len(lows) == len(highs) > 15
    for low, high in zip(lows, highs, strict=True):
        steps = -low / ((high - low) / 255)
        assert low <= 0 <= high
        assert abs(steps - round(steps)) < 1e-3
        assert (low, high) != (-6.0, 6.0)


def test_kernels_are_quantized_per_output_channel_also_depthwise(qat_model):
    wrapper = next(layer for layer in qat_model.layers if "depthwise_conv2d" in layer.name)
    kernel, quantizer, variables = wrapper._weight_vars[0]
    quantized = np.asarray(quantizer(kernel, False, variables))
    kernel = np.asarray(kernel)
    grids = {end: float(scale) for end, scale in quantizer.scales.items()}
    for channel in range(kernel.shape[2]):
        sums = grids["output"] / (grids["input"] * abs(kernel[:, :, channel]).max() / 127)
        odd = max(n for n in range(1, int(sums) + 1, 2))
        step = grids["output"] / grids["input"] / odd
        expected = np.round(kernel[:, :, channel] / step) * step
        np.testing.assert_allclose(quantized[:, :, channel], expected, atol=step * 1e-3)


def test_quantization_error_is_small_before_any_training(toy, images, qat_model, cosine):
    expected = np.asarray(toy(images, training=False))
    received = qat_model(images, training=False)
    assert not np.allclose(received, expected, atol=1e-4)  # it does quantize
    assert cosine(received, expected, center=expected.mean(0)) > 0.99


def test_float_layers_stay_float(toy, calibration):
    model = prepare_qat(toy, calibration, float_layers=("bnneck",))
    assert "quant_bnneck/output_min:0" not in ranges(model)
    with pytest.raises(ValueError, match="no layer is named"):
        prepare_qat(toy, calibration, float_layers=("neck",))
    with pytest.raises(ValueError, match="kernels"):
        prepare_qat(toy, calibration, float_layers=("squeeze",))


def test_what_a_kernel_reads_of_a_float_layer_is_rounded(toy, calibration):
    model = prepare_qat(toy, calibration, float_layers=("pool",))
    assert "quant_pool/output_min:0" in ranges(model)
    assert type(model.get_layer("quant_pool").layer).__name__ == "GlobalAveragePooling2D"
    assert incomplete_nodes(export_qat_onnx(model)) == []


def test_a_normalisation_before_a_kernel_is_exported():
    generator = np.random.default_rng(0)
    images = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(images))
    x = keras.layers.Reshape((8,))(keras.layers.LayerNormalization(name="norm")(x))
    network = keras.Model(images, keras.layers.Dense(4)(x))
    batches = [generator.normal(size=(8, 8, 8, 3)).astype(np.float32)]
    model = prepare_qat(network, lambda: batches)
    assert "quant_norm/output_min:0" in ranges(model)
    assert incomplete_nodes(export_qat_onnx(model)) == []


def test_no_calibration_images_is_an_error(toy):
    with pytest.raises(ValueError, match="calibration yielded no batch"):
        prepare_qat(toy, list)


def test_calibration_images_are_read_batch_by_batch_three_times(toy, images, qat_model):
    readings = []

    def read():
        readings.append(None)
        yield images[:12]
        yield images[12:]

    model = prepare_qat(toy, read)
    assert list(ranges(model).values()) == list(ranges(qat_model).values())
    assert len(readings) == 3  # ends, bins, and the mean embedding
    exhausted = iter([images])
    with pytest.raises(ValueError, match="yielded no batch: .* each time it is called"):
        calibrate_ranges(model, lambda: exhausted)


def test_fine_tuning_comes_closer_to_the_teacher_and_keeps_ranges(toy, images, calibration):
    model = prepare_qat(toy, calibration)
    generator = np.random.default_rng(0)
    for layer in model.layers:  # damage the kernels, so that there is something to learn
        for weight in layer.trainable_weights:
            if weight.shape.rank == 4:
                weight.assign(weight * (1 + 0.2 * generator.normal(size=weight.shape)))
    before, seen = ranges(model), []
    labels = np.arange(len(images))
    calls = []

    def extra(embeddings, given):
        calls.append(given.shape)
        return 1e-6 * tf.reduce_mean(embeddings**2)

    def batches():
        while True:
            yield images, labels

    fine_tune(
        model,
        toy,
        batches(),
        steps=30,
        learning_rate=3e-3,
        extra_loss=extra,
        on_step=lambda *s: seen.append(s),
    )
    assert [step for step, _ in seen] == list(range(1, 31))
    assert np.mean([m["loss"] for _, m in seen[-5:]]) < 0.5 * seen[0][1]["loss"]
    assert seen[0][1]["learning_rate"] == pytest.approx(3e-3)
    assert seen[-1][1]["learning_rate"] < 1e-4
    assert ranges(model) == before
    assert calls == [(24,)]  # traced once
