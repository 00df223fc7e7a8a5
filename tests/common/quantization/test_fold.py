"""Forms that the HTP takes: pairs in place of many, instance norm in four dimensions."""

import keras
import numpy as np
import pytest
from keras import layers

from common.deployment.qnn_htp import compile_htp
from common.quantization.bridge import to_tf_keras
from common.quantization.complete import export_qat_onnx
from common.quantization.fold import fold_batch_norm
from common.quantization.qat import prepare_qat
from common.runtime import open_model


def four_streams(join):
    keras.utils.set_random_seed(0)
    images = keras.Input((32, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(images)
    x = join([layers.Conv2D(8, 1, name=f"stream{i}")(x) for i in range(4)])
    return keras.Model(images, layers.GlobalAveragePooling2D()(layers.ReLU()(x)))


@pytest.mark.parametrize("kind", [layers.Add, layers.Multiply, layers.Maximum, layers.Minimum])
def test_more_than_two_are_taken_in_pairs(kind, images):
    model = four_streams(kind(name="join"))
    folded = fold_batch_norm(to_tf_keras(model))
    joins = [layer for layer in folded.layers if layer.name.startswith("join")]
    assert [layer.name for layer in joins] == ["join_pair1", "join_pair2", "join"]
    assert all(len(layer.input) == 2 for layer in joins)
    np.testing.assert_allclose(folded(images), model(images), atol=1e-5)


def test_a_layer_that_is_called_twice_stays_one():
    images = keras.Input((8, 8, 3))
    join = layers.Add(name="join")
    model = keras.Model(images, layers.Concatenate()([join([images] * 3), join([images] * 4)]))
    folded = fold_batch_norm(to_tf_keras(model))
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-6)
    assert len([layer for layer in folded.layers if layer.name == "join"]) == 1


@pytest.mark.qnn
def test_a_sum_of_four_is_integer_on_the_npu(images, calibration, tmp_path):
    graph = export_qat_onnx(prepare_qat(four_streams(layers.Add(name="join")), calibration))
    (tmp_path / "sum.onnx").write_bytes(graph.SerializeToString())
    compiled = compile_htp(tmp_path / "sum.onnx", tmp_path)
    assert [row.kind for row in compiled.placement if row.type == "ElementWiseAdd"] == ["integer"] * 3
    assert compiled.counts.floating == 0


def half_instance_norm(groups):
    """The first layers of a block of IBN-a."""
    keras.utils.set_random_seed(0)
    images = keras.Input((32, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(images)
    norm = layers.GroupNormalization(groups=groups, epsilon=1e-5, name="norm")
    halves = [norm(layers.Conv2D(8, 1, use_bias=False)(x)), layers.Conv2D(8, 1)(x)]
    x = layers.Conv2D(16, 3)(layers.ReLU()(layers.Concatenate()(halves)))
    generator = np.random.default_rng(0)
    norm.gamma.assign(generator.uniform(0.5, 1.5, 8))
    norm.beta.assign(generator.uniform(-0.5, 0.5, 8))
    return keras.Model(images, layers.GlobalAveragePooling2D()(x))


@pytest.mark.parametrize(
    ("groups", "kind"),
    [(-1, "InstanceNormalization"), (8, "InstanceNormalization"), (4, "GroupNormalization")],
)
def test_a_norm_of_each_channel_has_four_dimensions(groups, kind, images):
    model = half_instance_norm(groups)
    folded = fold_batch_norm(to_tf_keras(model))
    assert type(folded.get_layer("norm")).__name__ == kind
    np.testing.assert_allclose(folded(images), model(images), atol=1e-5)
    again = type(folded).from_config(folded.get_config())
    again.set_weights(folded.get_weights())
    np.testing.assert_array_equal(again(images), folded(images))


@pytest.mark.qnn
def test_an_instance_norm_runs_on_the_npu_in_float_and_everything_else_is_integer(
    images, calibration, tmp_path, cosine
):
    quantized = prepare_qat(half_instance_norm(-1), calibration)
    (tmp_path / "norm.onnx").write_bytes(export_qat_onnx(quantized).SerializeToString())
    compiled = compile_htp(tmp_path / "norm.onnx", tmp_path).require_complete().require_integer()
    floating = [row.name for row in compiled.placement if row.kind == "float"]
    assert floating and all("quant_norm/" in name for name in floating)
    with open_model(compiled.context, threads=1) as emulator:
        received = emulator.embed(images)
    assert cosine(received, quantized(images, training=False)) > 0.9995
