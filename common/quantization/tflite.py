"""INT8 TFLite from a quantization-aware model."""

import warnings
from typing import Any, Literal

import tensorflow as tf
import tf_keras

IoType = Literal["int8", "uint8", "float"]
_IO_TYPES: dict[str, tf.DType] = {"int8": tf.int8, "uint8": tf.uint8, "float": tf.float32}


def convert_qat(
    qat_model: tf_keras.Model, input_type: IoType = "int8", output_type: IoType = "int8"
) -> bytes:
    """Convert a model of `prepare_qat`, trained or not, to INT8 TFLite with batch 1.

    Ranges and weights are the model's: TFLite's own calibrator would give units that never fire a scale of 1e-8, with
    which XNNPACK refuses the whole file. The gates of an OSNet are integer too: the fake quantization behind a sigmoid
    is TFLite's own grid for it.

    Args:
        qat_model: rescaled images (N, H, W, C) -> embeddings (N, D).
        input_type: type of the file's input. Integer inputs are the rescaled image on the grid of the input's
            scale and zero point.
        output_type: type of the file's output, likewise.

    Raises:
        ValueError: a type that there is not.
    """
    converter = _converter(qat_model, input_type, output_type)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected", UserWarning)
        return converter.convert()


def _converter(model: tf_keras.Model, input_type: IoType, output_type: IoType) -> Any:
    for key, value in (("input_type", input_type), ("output_type", output_type)):
        if value not in _IO_TYPES:
            raise ValueError(f"{key}: expected one of {', '.join(_IO_TYPES)}, received {value!r}")
    inference = tf.function(
        lambda images: model(images, training=False),
        input_signature=[tf.TensorSpec((1, *model.inputs[0].shape[1:]), tf.float32, name="images")],
        autograph=False,
    )
    # Without the model, the converter freezes the function: ten times faster for OSNet than through a SavedModel.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([inference.get_concrete_function()], None)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = _IO_TYPES[input_type]
    converter.inference_output_type = _IO_TYPES[output_type]
    return converter
