"""How TFMOT is told what to quantize: quantizers, one configuration per layer, and the scheme."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
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

from common.quantization.fold import consumers

_L = tf_keras.layers
SMALLEST_CHANNEL = 1e-5
"""Smallest range of a channel, relative to its kernel's: the scale of a pruned channel must carry its bias."""
UNIT_SCALE = 1 / 256
"""Of TFLite's int8 sigmoid."""
LEAST_STEPS, MOST_STEPS = 15, 4096
"""Of input x kernel in an output step, where an odd number is near and means something in float32."""
_EDGE = 4e-6
"""Relative to the number of steps: float32 takes the quotient of scales for another one within 2e-7 of it."""
KERNELS = {_L.Conv2D: "kernel", _L.DepthwiseConv2D: "depthwise_kernel", _L.Dense: "kernel"}
SAME_GRID = (
    _L.MaxPooling2D,
    _L.ZeroPadding2D,
    _L.Cropping2D,
    _L.Flatten,
    _L.Reshape,
    _L.Permute,
    _L.Dropout,
)
FLOAT_LAYERS = (_L.BatchNormalization, _L.LayerNormalization, _L.GroupNormalization, _L.UnitNormalization)
_FUSES_RELU = (*KERNELS, _L.Add)


def _steps(scale: tf.Tensor, input_scale: tf.Tensor, output_scale: tf.Tensor) -> tf.Tensor:
    """Steps of input x kernel in an output step; 0 where a grid is unknown."""
    return tf.math.divide_no_nan(output_scale, input_scale * scale)


def _odd_scale(least: tf.Tensor, input_scale: tf.Tensor, output_scale: tf.Tensor) -> tf.Tensor:
    """Smallest scale from `least` on with which an output step is R steps of input x kernel, R odd (see `grids`).

    The scale stays as it is where a grid is unknown and where R is very small or large.
    """
    steps = _steps(least, input_scale, output_scale)
    odd = 2 * tf.floor((steps - 1) / 2) + 1
    is_near = (steps >= LEAST_STEPS) & (steps < MOST_STEPS)
    return tf.where(is_near, tf.math.divide_no_nan(output_scale, input_scale * odd), least)


class KernelQuantizer(tfmot.quantization.keras.quantizers.Quantizer):
    """Symmetric int8 in [-127, 127], one scale per output channel or kernel, from the kernel as it is now.

    TFMOT's own quantizer keeps the range of the last training forward pass, which is stale after the last update,
    and has a single scale for a depthwise kernel.

    Attributes:
        scales: `input` and `output`, the steps of the layer's grids, which `grids.align` sets; 0 before.
    """

    def __init__(self, is_depthwise: bool, per_channel: bool) -> None:
        self.is_depthwise = is_depthwise
        self.per_channel = per_channel
        self.scales: dict[str, tf.Variable] = {}

    def build(self, tensor_shape: tf.TensorShape, name: str, layer: tf_keras.layers.Layer) -> dict[str, Any]:
        self.scales = {
            end: layer.add_weight(f"{end}_scale", shape=(), initializer="zeros", trainable=False)
            for end in ("input", "output")
        }
        return self.scales

    def scale(self, kernel: tf.Tensor) -> tf.Tensor:
        """Step of a kernel: one per output channel (C,), or one ()."""
        return tf.stop_gradient(_odd_scale(self._least(kernel), self.scales["input"], self.scales["output"]))

    def off_edges(self, kernel: tf.Tensor) -> tf.Tensor:
        """The kernel, with channels whose scale hangs on the last digits of float32 larger by a few millionths."""
        steps = _steps(self._least(kernel), self.scales["input"], self.scales["output"])
        odd = 2 * tf.round((steps - 1) / 2) + 1
        factor = tf.where(tf.abs(steps - odd) < _EDGE * steps, 1 + 2 * _EDGE, 1.0)
        if not self.per_channel:
            return kernel * factor
        return tf.reshape(self._channels_last(kernel) * factor, kernel.shape)

    def _least(self, kernel: tf.Tensor) -> tf.Tensor:
        """Smallest step with which no weight is beyond 127."""
        limit = whole = tf.reduce_max(tf.abs(kernel))
        if self.per_channel:
            channels_last = self._channels_last(kernel)
            limit = tf.reduce_max(tf.abs(channels_last), axis=list(range(channels_last.shape.rank - 1)))
            limit = tf.maximum(limit, whole * SMALLEST_CHANNEL)
        return limit / 127

    def __call__(self, inputs: tf.Tensor, training: Any, weights: dict[str, Any], **kwargs: Any) -> tf.Tensor:
        limit = 127 * self.scale(inputs)
        if not self.per_channel:
            return tf.quantization.fake_quant_with_min_max_vars(inputs, -limit, limit, narrow_range=True)
        quantized = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            self._channels_last(inputs), -limit, limit, narrow_range=True
        )
        return tf.reshape(quantized, inputs.shape)

    def _channels_last(self, kernel: tf.Tensor) -> tf.Tensor:
        """Of a depthwise kernel (h, w, C, M), (h, w, C * M)."""
        return tf.reshape(kernel, (*kernel.shape[:-2], -1)) if self.is_depthwise else kernel

    def get_config(self) -> dict[str, Any]:
        return {"is_depthwise": self.is_depthwise, "per_channel": self.per_channel}


class LayerConfig(tfmot.quantization.keras.QuantizeConfig):
    """What of one layer is quantized: its kernel (attribute name or None), its output (quantizer or None)."""

    def __init__(self, kernel: str | None, output: str | None, per_channel: bool) -> None:
        self.kernel = kernel
        self.output = output
        self.per_channel = per_channel

    def get_weights_and_quantizers(self, layer: tf_keras.layers.Layer) -> list[tuple[Any, Any]]:
        if self.kernel is None:
            return []
        quantizer = KernelQuantizer(self.kernel == "depthwise_kernel", self.per_channel)
        return [(getattr(layer, self.kernel), quantizer)]

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
        return {"kernel": self.kernel, "output": self.output, "per_channel": self.per_channel}


def _calibrated() -> Any:
    return tfmot.quantization.keras.quantizers.MovingAverageQuantizer(
        num_bits=8, per_axis=False, symmetric=False, narrow_range=False
    )


def _unit() -> Any:
    """The grid of TFLite's int8 sigmoid, from 0."""
    return tfmot.quantization.keras.quantizers.FixedQuantizer(
        num_bits=8, init_min=0.0, init_max=255 * UNIT_SCALE, narrow_range=False
    )


_OUTPUT_QUANTIZERS: dict[str | None, Callable[[], Any]] = {"calibrated": _calibrated, "unit": _unit}


class _Transform(QuantizeLayoutTransform):
    """Only the input gets its quantizer here: TFMOT's pattern for layer + ReLU drops the kernel's quantizer."""

    def apply(self, model: tf_keras.Model, layer_quantize_map: dict[str, Any]) -> tuple[tf_keras.Model, Any]:
        return model_transformer.ModelTransformer(
            model, [default_8bit_transforms.InputLayerQuantize()], set(layer_quantize_map), layer_quantize_map
        ).transform()


class Scheme(QuantizeScheme):
    def get_layout_transformer(self) -> _Transform:
        return _Transform()

    def get_quantize_registry(self) -> Any:
        return default_8bit_quantize_registry.Default8BitQuantizeRegistry()


def quantize_scope() -> Any:
    """Return the scope in which a saved QAT model loads (`tf_keras.models.load_model`)."""
    return tfmot.quantization.keras.quantize_scope(
        {"LayerConfig": LayerConfig, "KernelQuantizer": KernelQuantizer}
    )


def layer_configs(
    model: tf_keras.Model, float_layers: frozenset[str], per_channel: bool
) -> dict[str, LayerConfig]:
    readers = consumers(model)
    configs = {}
    for layer in model.layers:
        is_float = layer.name in float_layers or isinstance(layer, FLOAT_LAYERS)
        kernel = None if is_float else KERNELS.get(type(layer))
        is_read_in_float = is_float and not _feeds_kernel(layer, readers)
        output = None if is_read_in_float else _output_quantizer(layer, readers[layer.name])
        configs[layer.name] = LayerConfig(kernel, output, per_channel)
    return configs


def _feeds_kernel(
    layer: tf_keras.layers.Layer, readers: Mapping[str, Sequence[tf_keras.layers.Layer]]
) -> bool:
    """Whether a layer with an int8 kernel reads the output, as it is or past layers that keep its grid."""
    return any(
        type(reader) in KERNELS or (isinstance(reader, SAME_GRID) and _feeds_kernel(reader, readers))
        for reader in readers[layer.name]
    )


def _output_quantizer(layer: tf_keras.layers.Layer, following: list[tf_keras.layers.Layer]) -> str | None:
    if isinstance(layer, SAME_GRID):
        return None
    if _activation(layer) is tf_keras.activations.sigmoid:
        return "unit"
    feeds_relu_only = bool(following) and all(is_relu(reader) for reader in following)
    return None if isinstance(layer, _FUSES_RELU) and feeds_relu_only else "calibrated"


def _activation(layer: tf_keras.layers.Layer) -> Any:
    return layer.activation if isinstance(layer, _L.Activation) else None


def is_relu(layer: tf_keras.layers.Layer) -> bool:
    return isinstance(layer, _L.ReLU) or getattr(_activation(layer), "__name__", "") in ("relu", "relu6")
