"""Integer grids on which floats and integers round alike: ONNX Runtime gives the integers of the trained model.

Where a sum of whole steps comes to the middle between two steps of the output, one runtime rounds up and another down;
where it comes near, float32 additions decide. Layer after layer a single step grows into another embedding. Therefore
the scales are raised, by about 1 %, to where no sum comes near the middle: if all terms are whole multiples of 1 / D of
an output step and D is odd, the distance is at least 1 / (2 D).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log2
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import QuantizeWrapper

from common.quantization._tfmot import SAME_GRID, UNIT_SCALE, is_relu
from common.quantization.fold import consumers

_L = tf_keras.layers
_SUMS = (_L.Add, _L.Subtract, _L.Concatenate)
_POOLS = (_L.AveragePooling2D, _L.GlobalAveragePooling2D)
_LEAST_D = 128
"""Of sums; scales are raised by at most 2 / D."""


class _Grid:
    """uint8 grid of a tensor; one without variables cannot be changed."""

    def __init__(self, variables: Any = None, is_bounded: bool = False) -> None:
        self.variables = variables
        self.is_bounded = is_bounded
        """Behind a ReLU6, which the end of the grid stands for."""
        self.scale, self.zero_point = UNIT_SCALE, 0
        self.exponent: int | None = None
        """Of the result of a sum, whose scale is an odd multiple of 2 ** exponent."""
        self.is_term = False
        """Whether its scale is tied to that of another."""
        if variables:
            low, high = float(variables["min_var"]), float(variables["max_var"])
            self.scale = (high - low) / 255
            self.zero_point = round(-low / self.scale)

    @property
    def is_free(self) -> bool:
        return bool(self.variables) and self.exponent is None and not self.is_bounded

    def raise_to(self, scale: float) -> None:
        self.scale = scale
        self.variables["min_var"].assign(-self.zero_point * scale)
        self.variables["max_var"].assign((255 - self.zero_point) * scale)


@dataclass(frozen=True)
class _Call:
    """One call of a layer: the grids that it reads and that its result is rounded to, None where in float."""

    layer: Any
    inputs: Sequence[_Grid | None]
    output: _Grid | None

    @property
    def kind(self) -> Any:
        """The layer inside TFMOT's wrapper."""
        return getattr(self.layer, "layer", None)

    @property
    def has_kernel(self) -> bool:
        return isinstance(self.layer, QuantizeWrapper) and self.layer.quantize_config.kernel is not None

    @property
    def is_integer(self) -> bool:
        return self.output is not None and None not in self.inputs


def align(qat_model: tf_keras.Model) -> None:
    """Raise the scales of a calibrated model to where sums round alike in any order; every kernel learns its R.

    - Kernels: an output step is R steps of input x kernel, and R is odd (`_tfmot._odd_scale`).
    - Sums: all scales are multiples of one power of two, and that of the result is an odd one.
    - Products and means: a step of the input is n / D output steps.

    The scale of a tensor that is tied by two such rules stays as it is; gates of few numbers are such tensors. Layers
    that are called several times get one input scale, since their biases have one grid.
    """
    calls = _calls(qat_model)
    kernels = [call for call in calls if call.has_kernel]
    _share_input_scales(kernels)
    integer = [call for call in calls if call.is_integer]
    for call in integer:
        if isinstance(call.kind, _SUMS):
            _align_sum(call)
    for kinds in ((_L.Multiply,), _POOLS):
        for call in integer:
            if isinstance(call.kind, kinds):
                _align_factor(call)
    for call in kernels:
        if call.is_integer:
            scales = _kernel(call)[1].scales
            scales["input"].assign(call.inputs[0].scale)  # type: ignore[union-attr]
            scales["output"].assign(call.output.scale)  # type: ignore[union-attr]


def settle(qat_model: tf_keras.Model) -> None:
    """Make what is trained the same wherever it is computed; done after training and before each validation.

    - Kernels leave the edges of their scales: where an output step is just about an odd number of steps of input x
      kernel, the last digits of float32 decide between it and the next one, and an export may decide otherwise.
    - Biases go on the int32 grid that the export has for them, input scale x kernel scale, which moves with the kernel.
    """
    for call in _calls(qat_model):
        if not call.has_kernel or call.inputs[0] is None:
            continue
        kernel, quantizer = _kernel(call)
        kernel.assign(quantizer.off_edges(kernel))
        if call.kind.use_bias:
            step = quantizer.scale(kernel).numpy().astype(np.float64) * call.inputs[0].scale
            bias = call.kind.bias.numpy().astype(np.float64)
            call.kind.bias.assign((np.round(bias / step) * step).astype(np.float32))


def _kernel(call: _Call) -> tuple[tf.Variable, Any]:
    """The kernel and its quantizer."""
    return call.layer._weight_vars[0][:2]


def _calls(model: tf_keras.Model) -> list[_Call]:
    """All calls of layers, in the order of computation."""
    readers = consumers(model)
    results: dict[int, _Grid | None] = {}
    own: dict[int, _Grid] = {}
    calls = []
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            inputs = [] if node.is_input else [results[id(t)] for t in tf.nest.flatten(node.keras_inputs)]
            output = _grid(node.layer, inputs, own)
            results |= {id(tensor): output for tensor in tf.nest.flatten(node.outputs)}
            following = list({reader.name: reader for reader in readers[node.layer.name]}.values())
            if output is None and len(following) == 1 and is_relu(getattr(following[0], "layer", None)):
                output = _grid(following[0], [], own)
            calls.append(_Call(node.layer, inputs, output))
    return calls


def _grid(layer: Any, inputs: Sequence[_Grid | None], own: dict[int, _Grid]) -> _Grid | None:
    """Grid of a layer's output; `own` keeps one for each layer, however often it is called."""
    if not isinstance(layer, QuantizeWrapper):
        variables = getattr(layer, "quantizer_vars", None)  # of the input
    elif isinstance(layer.layer, SAME_GRID):
        return inputs[0]
    elif layer.quantize_config.output == "unit":
        return _Grid()
    else:
        variables = layer._output_quantizer_vars if layer.quantize_config.output else None
    is_bounded = getattr(getattr(layer, "layer", None), "max_value", None) is not None
    return own.setdefault(id(layer), _Grid(variables, is_bounded)) if variables else None


def _share_input_scales(kernels: Sequence[_Call]) -> None:
    by_layer: dict[int, dict[int, _Grid]] = {}
    for call in kernels:
        by_layer.setdefault(id(call.layer), {}).update(
            (id(grid), grid) for grid in call.inputs if grid is not None
        )
    for grids in by_layer.values():
        scale = max((grid.scale for grid in grids.values()), default=0.0)
        for grid in grids.values() if len(grids) > 1 else ():
            grid.is_term = True
            if grid.is_free:
                grid.raise_to(scale)


def _align_sum(call: _Call) -> None:
    assert call.output is not None
    terms = [grid for grid in call.inputs if grid is not None]
    exponents = [
        floor(log2(call.output.scale / _LEAST_D)),
        *(g.exponent for g in terms if g.exponent is not None),
    ]
    exponent = min(exponents) if call.output.exponent is None else call.output.exponent
    unit = 2.0**exponent
    for grid in terms:
        grid.is_term = True
        if grid.is_free:
            grid.raise_to(_ceil(grid.scale / unit) * unit)
    if call.output.is_free:
        multiple = _ceil(call.output.scale / unit)
        call.output.raise_to((multiple + 1 - multiple % 2) * unit)
        call.output.exponent = exponent


def _align_factor(call: _Call) -> None:
    """Raise the scale of an input that nothing else is tied to, or else of the output, until a step is n / D."""
    assert call.output is not None
    grids = [grid for grid in call.inputs if grid is not None]
    grid = next((g for g in [*grids, call.output] if g.is_free and not g.is_term), None)
    if grid is None:
        return
    factor = float(np.prod([g.scale for g in grids]) / _area(call) / call.output.scale)
    scale = grid.scale / _odd_fraction(factor, up=False) * factor
    if grid is not call.output:
        scale = grid.scale * _odd_fraction(factor, up=True) / factor
    grid.raise_to(scale)
    grid.is_term = True


def _odd_fraction(value: float, up: bool) -> float:
    """Return the n / D next to `value`, above or below it, with an odd D of 129 to 255, or 1 / D with a larger one."""
    if value * _LEAST_D < 1:
        return 1 / (2 * floor((1 / value - 1) / 2) + (1 if up else 3))
    odd = np.arange(_LEAST_D + 1, 2 * _LEAST_D, 2)
    if up:
        return float((np.ceil(value * odd - 1e-6) / odd).min())
    return float((np.floor(value * odd + 1e-6) / odd).max())


def _area(call: _Call) -> int:
    """Number of values that a pool takes the mean of; 1 for other layers."""
    if isinstance(call.kind, _L.AveragePooling2D):
        return int(np.prod(call.kind.pool_size))
    if isinstance(call.kind, _L.GlobalAveragePooling2D):
        return int(np.prod(call.layer.input_shape[1:3]))
    return 1


def _ceil(value: float) -> int:
    """Next whole number, where a float just above one is that one."""
    return int(np.ceil(value - 1e-6))
