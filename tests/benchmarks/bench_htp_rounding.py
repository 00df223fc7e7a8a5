"""How the HTP rounds a sum of a convolution to 8 bits, measured on its emulator: which scales lose nothing.

A sum, an integer, is divided by a step of the output: output scale / (input scale * kernel scale). A convolution of
one input channel by 1, with a bias for each output channel, runs through all sums; each result is compared with the
quotient. Found with QNN 2.51: sums are cut to multiples of 2 ** (floor(log2(step)) - 3), then divided, and halves go
up. So steps of 4, 5, 6 or 7 times a power of two lose nothing but the tie, which ONNX Runtime rounds to even; other
steps are off by one in 2 to 6 % of the results. A bias may be one off, towards zero, depending on the largest bias of
the layer. A few seconds.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from common.runtime.qnn_session import open_qnn_session

INPUT_SCALE, KERNEL_SCALE = 1 / 128, 1 / 64
CHANNELS, PIXELS = 64, 256
QCS8550 = 66
STEPS = (64, 80, 96, 112, 160, 72, 88, 104, 120, 208)


def graph(step: int) -> onnx.ModelProto:
    """Pixels 0 to 255 plus 256 times the channel, in steps of the output."""
    values = {
        "input_scale": np.float32(INPUT_SCALE),
        "output_scale": np.float32(INPUT_SCALE * KERNEL_SCALE * step),
        "zero": np.uint8(0),
        "kernel": np.ones((CHANNELS, 1, 1, 1), np.int8),
        "kernel_scale": np.full(CHANNELS, KERNEL_SCALE, np.float32),
        "kernel_zero": np.zeros(CHANNELS, np.int8),
        "bias": PIXELS * np.arange(CHANNELS, dtype=np.int32),
        "bias_scale": np.full(CHANNELS, INPUT_SCALE * KERNEL_SCALE, np.float32),
        "bias_zero": np.zeros(CHANNELS, np.int32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "input_scale", "zero"], ["x8"]),
        helper.make_node("DequantizeLinear", ["x8", "input_scale", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["kernel", "kernel_scale", "kernel_zero"], ["kd"], axis=0),
        helper.make_node("DequantizeLinear", ["bias", "bias_scale", "bias_zero"], ["bd"], axis=0),
        helper.make_node("Conv", ["xd", "kd", "bd"], ["sums"]),
        helper.make_node("QuantizeLinear", ["sums", "output_scale", "zero"], ["y8"]),
        helper.make_node("DequantizeLinear", ["y8", "output_scale", "zero"], ["y"]),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 1, PIXELS])]
        for name, channels in (("x", 1), ("y", CHANNELS))
    )
    constants = [numpy_helper.from_array(value, name) for name, value in values.items()]
    made = helper.make_graph(nodes, "rounding", inputs, outputs, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def differences(step: int, folder: Path) -> tuple[float, float]:
    """Share of results that are not the nearest step, of sums that are not half-way; and share of ties that go up."""
    path = folder / f"step_{step}.onnx"
    onnx.save(graph(step), path)
    pixels = (np.arange(PIXELS, dtype=np.float32) * np.float32(INPUT_SCALE)).reshape(1, 1, 1, PIXELS)
    [output] = open_qnn_session(path, QCS8550).run(None, {"x": pixels})
    steps = np.rint(output.ravel() / np.float32(INPUT_SCALE * KERNEL_SCALE * step))
    sums = np.arange(CHANNELS * PIXELS)
    inside, tie = sums < 254 * step, sums % step == step // 2
    nearest = np.floor(sums / step + 0.5)
    plain, ties = inside & ~tie, inside & tie
    return float((steps != nearest)[plain].mean()), float((steps == nearest)[ties].mean())


def main() -> int:
    """Print a line for each step."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the QNN libraries print to stdout
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        for step in STEPS:
            off, up = differences(step, Path(scratch))
            factor = step
            while factor % 2 == 0 and factor > 7:
                factor //= 2
            print(
                f"step {step:4d} = {factor} * {step // factor:2d}: {100 * off:5.2f} % off by one, "
                f"{100 * up:5.1f} % of the ties go up",
                file=replies, flush=True,
            )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
