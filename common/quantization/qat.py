"""Quantization-aware training with TFMOT on a batch-norm-folded tf_keras model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras import quant_ops
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_registry,
    default_8bit_transforms,
)
from tensorflow_model_optimization.python.core.quantization.keras.graph_transformations import (
    model_transformer,
)
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layout_transform import (
    QuantizeLayoutTransform,
)
from tensorflow_model_optimization.python.core.quantization.keras.quantize_scheme import QuantizeScheme

from common.quantization.bridge import to_tf_keras
from common.quantization.fold import consumers, fold_batch_norm

Calibration = Callable[[], Iterable[np.ndarray]]
"""Called once, yields rescaled float32 images (n, H, W, C)."""

_L = tf_keras.layers
_KERNELS = {_L.Conv2D: "kernel", _L.DepthwiseConv2D: "depthwise_kernel", _L.Dense: "kernel"}
_SAME_GRID = (
    _L.MaxPooling2D,
    _L.ZeroPadding2D,
    _L.Cropping2D,
    _L.Flatten,
    _L.Reshape,
    _L.Permute,
    _L.Dropout,
)
_FLOAT = (_L.BatchNormalization, _L.LayerNormalization, _L.UnitNormalization)
_FUSES_RELU = (*_KERNELS, _L.Add)


class _KernelQuantizer(tfmot.quantization.keras.quantizers.Quantizer):
    """Symmetric int8 in [-127, 127], one scale per output channel, from the kernel as it is now.

    TFMOT's own quantizer keeps the range of the last training forward pass, which is stale after the last update,
    and has a single scale for a depthwise kernel.
    """

    def build(self, tensor_shape: tf.TensorShape, name: str, layer: tf_keras.layers.Layer) -> dict[str, Any]:
        return {}

    def __call__(self, inputs: tf.Tensor, training: Any, weights: dict[str, Any], **kwargs: Any) -> tf.Tensor:
        is_depthwise = inputs.shape.rank == 4 and inputs.shape[-1] == 1 and inputs.shape[-2] != 1
        kernel = tf.reshape(inputs, inputs.shape[:-1]) if is_depthwise else inputs  # (h, w, C)
        limit = tf.stop_gradient(tf.reduce_max(tf.abs(kernel), axis=list(range(kernel.shape.rank - 1))))
        quantized = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            kernel, -limit, limit, num_bits=8, narrow_range=True
        )
        return tf.reshape(quantized, inputs.shape)

    def get_config(self) -> dict[str, Any]:
        return {}


class _LayerConfig(tfmot.quantization.keras.QuantizeConfig):
    """What of one layer is quantized: its kernel (attribute name or None), its output (quantizer or None)."""

    def __init__(self, kernel: str | None, output: str | None) -> None:
        self.kernel = kernel
        self.output = output

    def get_weights_and_quantizers(self, layer: tf_keras.layers.Layer) -> list[tuple[Any, Any]]:
        return [(getattr(layer, self.kernel), _KernelQuantizer())] if self.kernel else []

    def set_quantize_weights(
        self, layer: tf_keras.layers.Layer, quantize_weights: Sequence[tf.Tensor]
    ) -> None:
        for kernel in quantize_weights:
            setattr(layer, self.kernel or "", kernel)

    def get_activations_and_quantizers(self, layer: tf_keras.layers.Layer) -> list[tuple[Any, Any]]:
        return []

    def set_quantize_activations(
        self, layer: tf_keras.layers.Layer, quantize_activations: Sequence[Any]
    ) -> None:
        pass

    def get_output_quantizers(self, layer: tf_keras.layers.Layer) -> list[Any]:
        return [_OUTPUT_QUANTIZERS[self.output]()] if self.output else []

    def get_config(self) -> dict[str, Any]:
        return {"kernel": self.kernel, "output": self.output}


def _calibrated() -> Any:
    return tfmot.quantization.keras.quantizers.MovingAverageQuantizer(
        num_bits=8, per_axis=False, symmetric=False, narrow_range=False
    )


def _unit() -> Any:
    """The grid of TFLite's int8 sigmoid: scale 1 / 256, lowest value 0."""
    return tfmot.quantization.keras.quantizers.FixedQuantizer(
        num_bits=8, init_min=0.0, init_max=255 / 256, narrow_range=False
    )


_OUTPUT_QUANTIZERS: dict[str | None, Callable[[], Any]] = {"calibrated": _calibrated, "unit": _unit}


class _Transform(QuantizeLayoutTransform):
    """Only the input gets its quantizer here: TFMOT's pattern for layer + ReLU drops the kernel's quantizer."""

    def apply(self, model: tf_keras.Model, layer_quantize_map: dict[str, Any]) -> tuple[tf_keras.Model, Any]:
        return model_transformer.ModelTransformer(
            model, [default_8bit_transforms.InputLayerQuantize()], set(layer_quantize_map), layer_quantize_map
        ).transform()


class _Scheme(QuantizeScheme):
    def get_layout_transformer(self) -> _Transform:
        return _Transform()

    def get_quantize_registry(self) -> Any:
        return default_8bit_quantize_registry.Default8BitQuantizeRegistry()


def quantize_scope() -> Any:
    """Return the scope in which a saved QAT model loads (`tf_keras.models.load_model`)."""
    return tfmot.quantization.keras.quantize_scope(
        {"_LayerConfig": _LayerConfig, "_KernelQuantizer": _KernelQuantizer}
    )


def prepare_qat(
    model: keras.Model, calibration: Calibration, float_layers: Sequence[str] = ()
) -> tf_keras.Model:
    """Turn a functional Keras 3 embedding model into a TFMOT model with fake quantization and calibrated ranges.

    The model goes through `to_tf_keras` and `fold_batch_norm`, so every convolution is linear with a bias.
    Kernels: int8 symmetric per output channel. Activations: uint8 asymmetric per tensor, placed where the
    integer graph rounds: after ReLU rather than before it, after sums, products and pools, on the input, and on
    a fixed grid after sigmoid. Every range is measured on the calibration images in the *float* network, because
    TFMOT's own start of +-6 needs thousands of steps to move.

    Args:
        model: rescaled images (N, H, W, C) -> embeddings (N, D).
        calibration: yields rescaled float32 batches (n, H, W, C).
        float_layers: names of layers to leave in float. Normalisations of vectors (BNNeck, L2) always are.

    Raises:
        ValueError: an unknown name in `float_layers`, or calibration that yields nothing.
    """
    folded = fold_batch_norm(to_tf_keras(model))
    unknown = set(float_layers) - {layer.name for layer in folded.layers}
    if unknown:
        raise ValueError(f"float_layers: no layer is named {sorted(unknown)} in model '{model.name}'")
    configs = _layer_configs(folded, frozenset(float_layers))
    with quantize_scope():
        annotated = tf_keras.models.clone_model(
            folded,
            clone_function=lambda layer: tfmot.quantization.keras.quantize_annotate_layer(
                layer, configs[layer.name]
            ),
        )
        annotated.set_weights(folded.get_weights())
        qat_model = tfmot.quantization.keras.quantize_apply(annotated, _Scheme())
    for layer in qat_model.layers:
        if isinstance(getattr(layer, "layer", None), _FLOAT):
            layer.trainable = False
    calibrate_ranges(qat_model, calibration)
    return qat_model


def _layer_configs(model: tf_keras.Model, float_layers: frozenset[str]) -> dict[str, _LayerConfig]:
    readers = consumers(model)
    configs = {}
    for layer in model.layers:
        is_float = layer.name in float_layers or isinstance(layer, _FLOAT)
        kernel = None if is_float else _KERNELS.get(type(layer))
        output = None if is_float else _output_quantizer(layer, readers[layer.name])
        configs[layer.name] = _LayerConfig(kernel, output)
    return configs


def _output_quantizer(layer: tf_keras.layers.Layer, following: list[tf_keras.layers.Layer]) -> str | None:
    if isinstance(layer, _SAME_GRID):
        return None
    if _activation(layer) is tf_keras.activations.sigmoid:
        return "unit"
    feeds_relu_only = bool(following) and all(_is_relu(reader) for reader in following)
    return None if isinstance(layer, _FUSES_RELU) and feeds_relu_only else "calibrated"


def _activation(layer: tf_keras.layers.Layer) -> Any:
    return layer.activation if isinstance(layer, _L.Activation) else None


def _is_relu(layer: tf_keras.layers.Layer) -> bool:
    return isinstance(layer, _L.ReLU) or getattr(_activation(layer), "__name__", "") in ("relu", "relu6")


@contextmanager
def _observed(observe: Callable[[tf.Tensor, tf.Variable, tf.Variable], None]) -> Iterator[None]:
    """Let every activation quantizer of TFMOT report its input instead of quantizing it."""

    def pass_through(inputs: tf.Tensor, min_var: Any, max_var: Any, **_: Any) -> tf.Tensor:
        observe(inputs, min_var, max_var)
        return inputs

    with mock.patch.object(quant_ops, "_FakeQuantWithMinMaxVars", pass_through):
        yield


def calibrate_ranges(qat_model: tf_keras.Model, calibration: Calibration) -> None:
    """Set every activation range to what the calibration images produce without activation quantization.

    Ranges contain 0 and are moved to where 0 is a whole step of the uint8 grid, so that every consumer (TensorFlow,
    ONNX, TFLite, QNN) derives the same scale and zero point from them.
    """
    lows: dict[int, float] = {}
    highs: dict[int, float] = {}
    variables: dict[int, tuple[tf.Variable, tf.Variable]] = {}

    def observe(inputs: tf.Tensor, min_var: tf.Variable, max_var: tf.Variable) -> None:
        key = id(min_var)
        variables[key] = (min_var, max_var)
        lows[key] = min(lows.get(key, 0.0), float(tf.reduce_min(inputs)))
        highs[key] = max(highs.get(key, 0.0), float(tf.reduce_max(inputs)))

    with _observed(observe):
        for batch in calibration():
            qat_model(tf.constant(batch, tf.float32), training=False)
    if not variables:
        raise ValueError("calibration yielded no batch: expected float32 images (n, H, W, C)")
    for key, (min_var, max_var) in variables.items():
        low, high = _on_grid(lows[key], highs[key])
        min_var.assign(low)
        max_var.assign(high)


def _on_grid(low: float, high: float) -> tuple[float, float]:
    scale = max(high - low, 1e-6) / 255
    zero_point = round(-low / scale)
    return -zero_point * scale, (255 - zero_point) * scale
