import keras
import numpy as np
import pytest

from common.layers.gem import GeM
from common.quantization.qat import prepare_qat
from common.quantization.tflite import convert_qat

DTYPES = {"int8": np.int8, "uint8": np.uint8, "float": np.float32}


def run(content, images):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert source["shape"].tolist() == [1, 32, 16, 3]
    results = []
    for image in images:
        if source["dtype"] is not np.float32:
            scale, zero_point = source["quantization"]
            limits = np.iinfo(source["dtype"])
            image = np.clip(np.round(image / scale + zero_point), limits.min, limits.max)
        interpreter.set_tensor(source["index"], image[None].astype(source["dtype"]))
        interpreter.invoke()
        result = interpreter.get_tensor(target["index"]).astype(np.float32)
        if target["dtype"] is not np.float32:
            scale, zero_point = target["quantization"]
            result = (result - zero_point) * scale
        results.append(result)
    floats = {
        operator["op_name"]
        for operator in interpreter._get_ops_details()
        for index in operator["outputs"]
        for detail in interpreter.get_tensor_details()
        if detail["index"] == index and detail["dtype"] is np.float32
    }
    return np.concatenate(results), source["dtype"], target["dtype"], floats - {"DELEGATE", "DEQUANTIZE"}


@pytest.mark.parametrize(
    "input_type, output_type", [("int8", "int8"), ("uint8", "float"), ("float", "uint8")]
)
def test_qat_file_computes_what_the_qat_model_does(qat_model, images, cosine, input_type, output_type):
    received, source, target, floats = run(convert_qat(qat_model, input_type, output_type), images)
    expected = np.asarray(qat_model(images, training=False))
    assert cosine(received, expected, center=expected.mean(0)) > 0.999
    assert (source, target) == (DTYPES[input_type], DTYPES[output_type])
    assert floats == set()


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_ptq_file_is_integer_and_near(toy, images, calibration, cosine, granularity):
    calibrated = prepare_qat(toy, calibration, granularity=granularity)
    received, source, target, floats = run(convert_qat(calibrated), images)
    expected = np.asarray(toy(images, training=False))
    assert cosine(received, expected, center=expected.mean(0)) > 0.95
    assert (source, target) == (np.int8, np.int8)
    assert floats == set()


def test_wrong_choices_name_the_right_ones(toy, calibration, qat_model):
    with pytest.raises(
        ValueError, match=r"granularity: expected one of per_channel, per_tensor, received 'row'"
    ):
        prepare_qat(toy, calibration, granularity="row")
    with pytest.raises(ValueError, match="output_type: expected one of int8, uint8, float, received 'int16'"):
        convert_qat(qat_model, output_type="int16")


def test_generalized_mean_pooling_is_that_of_the_model(images, calibration):
    """Where a channel is 0, an 8-bit maximum with 1e-6 would divide 0 by 0."""
    keras.utils.set_random_seed(0)
    source = keras.Input((32, 16, 3))
    maps = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(source)
    model = keras.Model(source, keras.layers.BatchNormalization(center=False)(GeM()(maps)))
    model.layers[1].bias.assign([0, 0, 0, 0, 0, 0, -10, -10])
    qat_model = prepare_qat(model, calibration)
    received, *_ = run(convert_qat(qat_model, "int8", "float"), images)
    np.testing.assert_allclose(received, np.asarray(qat_model(images, training=False)), atol=1e-6)
