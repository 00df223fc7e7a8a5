"""INT8 TFLite from a Keras 3 model (post-training) or from a quantization-aware one."""

from collections.abc import Iterator
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from common.quantization.bridge import to_tf_keras
from common.quantization.fold import fold_batch_norm
from common.quantization.qat import Calibration

Granularity = Literal["per_channel", "per_tensor"]
IoType = Literal["int8", "uint8", "float"]
_IO_TYPES: dict[str, tf.DType] = {"int8": tf.int8, "uint8": tf.uint8, "float": tf.float32}


def convert_ptq(
    model: keras.Model,
    calibration: Calibration,
    granularity: Granularity = "per_channel",
    input_type: IoType = "int8",
    output_type: IoType = "int8",
) -> bytes:
    """Quantize a trained functional Keras 3 model to a fully integer TFLite file with batch 1.

    Args:
        model: rescaled images (N, H, W, C) -> embeddings (N, D).
        calibration: yields rescaled float32 batches (n, H, W, C); every image sets ranges.
        granularity: of the weights; dense layers are per tensor in either case.
        input_type: type of the file's input. Integer inputs are the rescaled image on the grid of the input's scale
            and zero point.
        output_type: type of the file's output, likewise.
    """
    folded = fold_batch_norm(to_tf_keras(model))
    converter = _converter(folded, input_type, output_type)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter._experimental_disable_per_channel = _is_per_tensor(granularity)
    converter.representative_dataset = lambda: _single_images(calibration)
    return converter.convert()


def convert_qat(
    qat_model: tf_keras.Model, input_type: IoType = "int8", output_type: IoType = "int8"
) -> bytes:
    """Convert a model of `prepare_qat` to INT8 TFLite with batch 1, with the ranges and weights of the model."""
    return _converter(qat_model, input_type, output_type).convert()


def _converter(model: tf_keras.Model, input_type: IoType, output_type: IoType) -> Any:
    for key, value in (("input_type", input_type), ("output_type", output_type)):
        if value not in _IO_TYPES:
            raise ValueError(f"{key}: expected one of {', '.join(_IO_TYPES)}, received {value!r}")
    inference = tf.function(
        lambda images: model(images, training=False),
        input_signature=[tf.TensorSpec((1, *model.inputs[0].shape[1:]), tf.float32, name="images")],
        autograph=False,
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([inference.get_concrete_function()], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = _IO_TYPES[input_type]
    converter.inference_output_type = _IO_TYPES[output_type]
    return converter


def _is_per_tensor(granularity: str) -> bool:
    choices = {"per_channel": False, "per_tensor": True}
    if granularity not in choices:
        raise ValueError(f"granularity: expected one of {', '.join(choices)}, received {granularity!r}")
    return choices[granularity]


def _single_images(calibration: Calibration) -> Iterator[list[np.ndarray]]:
    for batch in calibration():
        for image in batch:
            yield [np.asarray(image[None], np.float32)]
