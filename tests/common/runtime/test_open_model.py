import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from common.config import ConfigError
from common.runtime import open_model
from common.runtime._tflite import TFLiteRuntime

# Keras reads its own variables with a keyword that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def average_nodes(axes):
    """An embedding that is the mean colour, whose reference is one line of NumPy."""
    return [helper.make_node("ReduceMean", ["images"], ["embedding"], axes=axes, keepdims=0)]


@pytest.mark.parametrize(
    ("image", "axes"), [((3, 32, 16), [2, 3]), ((32, 16, 3), [1, 2])], ids=["channels_first", "channels_last"]
)
@pytest.mark.parametrize("batch", [1, 4, "N"])
def test_onnx_layout_and_batch_are_found_in_the_file(tmp_path, onnx_builder, images, image, axes, batch):
    path = onnx_builder(tmp_path / "mean.onnx", average_nodes(axes), batch=batch, image=image, dim=3)
    with open_model(path, threads=1) as model:
        assert (model.name, model.precision, model.threads) == ("onnxruntime_cpu", "float32", 1)
        assert (model.input_shape, model.embedding_dim) == ((32, 16, 3), 3)
        embeddings = model.embed(images)
        assert model.embed(images[:0]).shape == (0, 3)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, images.mean(axis=(1, 2)), atol=1e-6)


def test_onnx_layout_can_be_stated_in_the_metadata(tmp_path, onnx_builder):
    path = onnx_builder(tmp_path / "thin.onnx", average_nodes([1, 2]), image=(3, 16, 3), dim=3)
    with pytest.raises(ConfigError, match="cannot tell whether.*input_layout"):
        open_model(path)
    model = onnx.load(path)
    model.metadata_props.add(key="input_layout", value="NHWC")
    onnx.save(model, path)
    with open_model(path) as opened:
        assert opened.input_shape == (3, 16, 3)


def test_of_several_outputs_the_embedding_is_used(tmp_path, onnx_builder, images):
    nodes = [*average_nodes([2, 3]), helper.make_node("Neg", ["embedding"], ["logits"])]
    path = onnx_builder(tmp_path / "two.onnx", nodes, dim=3, outputs=("logits", "embedding"))
    with open_model(path) as model:
        np.testing.assert_allclose(model.embed(images), images.mean(axis=(1, 2)), atol=1e-6)
    nodes = [helper.make_node("ReduceMean", ["images"], [name], axes=[2, 3], keepdims=0) for name in "ab"]
    path = onnx_builder(tmp_path / "ab.onnx", nodes, dim=3, outputs=("a", "b"))
    with pytest.raises(ConfigError, match="exactly one called 'embedding'"):
        open_model(path)


def test_qdq_is_int8_and_near_the_float_model(float_onnx, qdq_onnx, images):
    with open_model(float_onnx) as exact, open_model(qdq_onnx) as quantized:
        assert quantized.precision == "int8"
        np.testing.assert_allclose(quantized.embed(images), exact.embed(images), atol=0.03)


def test_a_static_batch_gives_what_single_images_give(float_onnx, batch_of_four_onnx, images):
    with open_model(float_onnx) as one, open_model(batch_of_four_onnx) as four:
        assert (four.batch_size, four.static_batch) == (4, True)
        np.testing.assert_allclose(four.embed(images), one.embed(images), atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 16, 32, 3), np.float32), np.zeros((2, 32, 16, 3)), np.zeros((32, 16, 3), np.float32)],
)
def test_images_of_another_shape_or_type_are_refused(float_onnx, wrong):
    with (
        open_model(float_onnx) as model,
        pytest.raises(ValueError, match=r"float32 images of shape \(N, 32, 16, 3\)"),
    ):
        model.embed(wrong)


@pytest.mark.parametrize("suffix", [".keras", ".tflite", ".onnx"])
def test_a_damaged_file_is_named(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"not a model")
    with pytest.raises(ConfigError, match=f"model{suffix}"):
        open_model(path)


def test_missing_files_and_unknown_suffixes_name_what_is_expected(tmp_path):
    with pytest.raises(ConfigError, match="not found.*best.keras.*one of .keras, .tflite, .onnx"):
        open_model(tmp_path / "best.keras")
    (tmp_path / "model.h5").touch()
    with pytest.raises(ConfigError, match="unknown suffix '.h5'.*one of .keras, .tflite, .onnx"):
        open_model(tmp_path / "model.h5")
    with pytest.raises(ConfigError, match="exactly one QNN context"):
        open_model(tmp_path)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        open_model(tmp_path / "model.h5", threads=0)


def test_a_file_without_operators_or_with_two_inputs_is_refused(tmp_path, onnx_builder):
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match="empty.onnx as ONNX: it holds no operators"):
        open_model(tmp_path / "empty.onnx")
    path = onnx_builder(tmp_path / "two.onnx", average_nodes([2, 3]), dim=3)
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    onnx.save(model, path)
    with pytest.raises(ConfigError, match=r"expected one input \(images\); found \['images', 'more'\]"):
        open_model(path)


def test_a_model_with_another_rank_is_refused(tmp_path, onnx_builder):
    nodes = [helper.make_node("Flatten", ["images"], ["embedding"])]
    path = onnx_builder(tmp_path / "vector.onnx", nodes, image=(3,), dim=3)
    with pytest.raises(ConfigError, match="expected a float32 input of shape"):
        open_model(path)


@pytest.fixture(scope="module")
def keras_model():
    import keras

    keras.utils.set_random_seed(0)
    images = keras.Input((32, 16, 3), name="images")
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(images)
    features = keras.layers.GlobalAveragePooling2D()(x)
    embedding = keras.layers.BatchNormalization()(features)
    logits = keras.layers.Dense(5)(embedding)
    return keras.Model(images, {"features": features, "embedding": embedding, "logits": logits})


def test_keras_uses_the_embedding_of_a_training_network(tmp_path, keras_model, images):
    path = tmp_path / "model.keras"
    keras_model.save(path)
    with open_model(path) as model:
        assert (model.name, model.precision) == ("keras", "float32")
        assert (model.input_shape, model.embedding_dim) == ((32, 16, 3), 8)
        embeddings = model.embed(images)
    expected = keras_model(images, training=False)["embedding"].numpy()
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)


@pytest.mark.slow
def test_keras_finds_the_layers_of_this_project_by_itself(tmp_path):
    import keras

    from common.layers.fused_batch_norm import FusedBatchNormalization

    path = tmp_path / "model.keras"
    images = keras.Input((32, 16, 3))
    x = FusedBatchNormalization()(keras.layers.Conv2D(4, 3)(images))
    keras.Model(images, keras.layers.GlobalAveragePooling2D()(x)).save(path)
    code = f"from common.runtime import open_model; print(open_model({str(path)!r}).embedding_dim)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == "4", answer.stderr


@pytest.mark.parametrize(
    ("shape", "output", "input_name", "message"),
    [
        ((32, 16, 3), lambda x: {"a": x}, "", r"expected an output called 'embedding'; found \['a'\]"),
        ((32, 16, 3), lambda x: [x, x], "", "expected one output or a dict with 'embedding'; found 2"),
        ((32, 16, 3), lambda x: x, "", r"output of shape \(N, D\) with a fixed D; found \(None, 32, 16, 3\)"),
        ((None, 16, 3), lambda x: x, "", r"with fixed H, W, C; found \(None, None, 16, 3\)"),
        ((32, 16, 3), lambda x: x, "thermal", "expected an input called 'thermal'; found one without a name"),
    ],
)
def test_a_keras_model_that_makes_no_embeddings_of_images_is_refused(
    tmp_path, shape, output, input_name, message
):
    import keras

    path = tmp_path / "model.keras"
    images = keras.Input(shape)
    keras.Model(images, output(keras.layers.ReLU()(images))).save(path)
    with pytest.raises(ConfigError, match=message):
        open_model(path, input_name=input_name)


def test_keras_never_runs_code_from_a_file(tmp_path):
    import keras

    path = tmp_path / "model.keras"
    images = keras.Input((32, 16, 3))
    keras.Model(images, keras.layers.Lambda(lambda x: x[:, 0, 0])(images)).save(path)
    with pytest.raises(ConfigError, match=r"Keras cannot load.*model\.keras"):
        open_model(path)


def tflite_file(path: Path, keras_model, images, io=None) -> Path:
    import keras
    import tensorflow as tf

    model = keras.Model(keras_model.input, keras_model.output["embedding"])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if io is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(io)
    path.write_bytes(converter.convert())
    return path


def test_a_tflite_model_of_vectors_is_refused(tmp_path):
    import keras
    import tensorflow as tf

    vectors = keras.Input((8,))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(vectors, keras.layers.Dense(3)(vectors)))
    (tmp_path / "vectors.tflite").write_bytes(converter.convert())
    with pytest.raises(
        ConfigError, match=r"expected one input of shape \(N, H, W, C\); found \[\(.*, \(1, 8\)\)\]"
    ):
        open_model(tmp_path / "vectors.tflite")


@pytest.mark.parametrize(
    ("io", "precision", "tolerance"),
    [(None, "float32", 1e-5), ("float32", "int8", 0.02), ("int8", "int8", 0.02), ("uint8", "int8", 0.02)],
)
@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs:UserWarning")  # the converter's own
def test_tflite_takes_and_gives_floats_whatever_its_own_types(
    tmp_path, keras_model, images, io, precision, tolerance
):
    expected = keras_model(images, training=False)["embedding"].numpy()
    with open_model(tflite_file(tmp_path / "model.tflite", keras_model, images, io), threads=2) as model:
        assert (model.name, model.precision, model.threads) == ("tflite", precision, 2)
        assert (model.input_shape, model.embedding_dim) == ((32, 16, 3), 8)
        assert model.batch_size > 1  # so that 11 images are one batch and three single ones
        embeddings = model.embed(images)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected, atol=tolerance)


def test_tflite_does_without_xnnpack_when_it_refuses_the_file(
    tmp_path, keras_model, images, monkeypatch, caplog
):
    from ai_edge_litert.interpreter import OpResolverType

    path = tflite_file(tmp_path / "model.tflite", keras_model, images)
    allocate = TFLiteRuntime._allocate

    def refuse(self, batch_size):
        if self._resolver is OpResolverType.AUTO:
            raise RuntimeError("failed to create XNNPACK runtime")
        return allocate(self, batch_size)

    with open_model(path) as model:
        expected = model.embed(images)
    monkeypatch.setattr(TFLiteRuntime, "_allocate", refuse)
    with open_model(path) as model:
        np.testing.assert_allclose(model.embed(images), expected, atol=1e-5)
    assert "model.tflite runs without XNNPACK" in caplog.text


def test_tflite_goes_one_by_one_when_batches_give_other_embeddings(
    tmp_path, keras_model, images, monkeypatch
):
    path = tflite_file(tmp_path / "model.tflite", keras_model, images)
    with open_model(path) as model:
        expected = model.embed(images)
    invoke = TFLiteRuntime._invoke
    monkeypatch.setattr(
        TFLiteRuntime,
        "_invoke",
        lambda self, i, x: invoke(self, i, x) + (np.float32(0.1) if len(x) > 1 else 0),
    )
    with open_model(path) as model:
        assert model.batch_size == 1
        np.testing.assert_allclose(model.embed(images), expected, atol=1e-6)
