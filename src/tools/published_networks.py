"""Features of the networks whose latency Qualcomm publishes: `python -m src.tools.published_networks`.

Writes the feature columns of the table that the latency model is fitted on. Each network is written down here as an
ONNX graph without weights, from its paper or its public definition, the way that AI Hub Models runs it: batch norms
that follow a convolution are folded, activations are left out because the NPU fuses them, dropout and auxiliary
heads are gone. A network whose definition is not public has no place in the table.
"""

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from common.artifacts import whole_file
from common.deployment.graph_features import GraphFeatures, graph_features
from common.deployment.latency_model import COLUMNS, TABLE, read_table

Pads = int | Sequence[int] | None


class Network:
    """An ONNX graph in the making, (1, C, H, W); every method adds an operator and returns its output's name."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        from onnx import TensorProto, helper

        self._input = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, height, width])
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._channels = {"image": channels}
        self.parameters = 0
        """Weights, biases and both parameters of each batch norm: how the definitions count them."""

    def channels(self, name: str) -> int:
        """Channels of a tensor."""
        return self._channels[name]

    def _add(self, kind: str, inputs: Sequence[str], channels: int, **attributes: Any) -> str:
        from onnx import helper

        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        self._channels[name] = channels
        return name

    def _weight(self, *dims: int) -> str:
        """A weight of which only the shape is stated."""
        from onnx import TensorProto

        name = f"weight_{len(self._weights)}"
        self._weights.append(TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT))
        return name

    def _integers(self, *values: int) -> str:
        from onnx import TensorProto, helper

        name = f"integers_{len(self._weights)}"
        self._weights.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
        return name

    def conv(
        self,
        x: str,
        out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        pad: Pads = None,
        groups: int = 1,
        bias: bool = False,
    ) -> str:
        """Convolution; without a bias of its own a folded batch norm gives it one."""
        k = (kernel, kernel) if isinstance(kernel, int) else kernel
        weight = (out, self.channels(x) // groups, *k)
        self.parameters += weight[0] * weight[1] * k[0] * k[1] + (out if bias else 2 * out)
        inputs = [x, self._weight(*weight), self._weight(out)]
        return self._add(
            "Conv", inputs, out, pads=_pads(k, pad), strides=[stride, stride], group=groups, kernel_shape=k
        )

    def batch_norm(self, x: str) -> str:
        """A batch norm that no convolution precedes."""
        c = self.channels(x)
        self.parameters += 2 * c
        return self._add("BatchNormalization", [x, *(self._weight(c) for _ in range(4))], c)

    def max_pool(self, x: str, kernel: int, stride: int, pad: Pads = 0, ceil: bool = False) -> str:
        """Maximum of a window."""
        return self._pool("MaxPool", x, kernel, stride, pad, ceil)

    def average_pool(self, x: str, kernel: int, stride: int, pad: Pads = 0) -> str:
        """Mean of a window."""
        return self._pool("AveragePool", x, kernel, stride, pad, False)

    def _pool(self, kind: str, x: str, kernel: int, stride: int, pad: Pads, ceil: bool) -> str:
        k = (kernel, kernel)
        pads = _pads(k, pad)
        return self._add(
            kind, [x], self.channels(x), kernel_shape=k, strides=[stride] * 2, pads=pads, ceil_mode=int(ceil)
        )

    def global_pool(self, x: str) -> str:
        """Mean of the whole map."""
        return self._add("GlobalAveragePool", [x], self.channels(x))

    def join(self, *xs: str) -> str:
        """Concatenation of channels."""
        return self._add("Concat", xs, sum(map(self.channels, xs)), axis=1)

    def add(self, a: str, b: str) -> str:
        """Sum."""
        return self._add("Add", [a, b], self.channels(a))

    def multiply(self, a: str, b: str) -> str:
        """Product of a map and one value a channel."""
        return self._add("Mul", [a, b], self.channels(a))

    def scale(self, x: str) -> str:
        """Product of a map and a constant."""
        return self._add("Mul", [x, self._weight()], self.channels(x))

    def normalize(self, x: str) -> str:
        """Channel-wise subtraction and division, as AI Hub Models puts before torchvision's classifiers."""
        c = self.channels(x)
        return self._add("Div", [self._add("Sub", [x, self._weight(c, 1, 1)], c), self._weight(c, 1, 1)], c)

    def sigmoid(self, x: str) -> str:
        """Logistic function, which the NPU does not fuse."""
        return self._add("Sigmoid", [x], self.channels(x))

    def halves(self, x: str) -> tuple[str, str]:
        """The first and the second half of the channels."""
        half = self.channels(x) // 2
        first = self._add("Split", [x], half, axis=1, num_outputs=2)
        second = f"{first}_second"
        self._nodes[-1].output.append(second)
        self._channels[second] = half
        return first, second

    def shuffle(self, x: str, height: int, width: int) -> str:
        """Channel shuffle of two groups."""
        c = self.channels(x)
        groups = self._add("Reshape", [x, self._integers(1, 2, c // 2, height, width)], c)
        swapped = self._add("Transpose", [groups], c, perm=[0, 2, 1, 3, 4])
        return self._add("Reshape", [swapped, self._integers(1, c, height, width)], c)

    def channels_last(self, x: str) -> str:
        """NCHW to NHWC."""
        return self._add("Transpose", [x], self.channels(x), perm=[0, 2, 3, 1])

    def pad(self, x: str, bottom_right: int = 0, around: int = 0, channels: int = 0) -> str:
        """Zeros after the last row and column, around the map, or after the last channel."""
        before, after = [0, 0, around, around], [0, channels, around + bottom_right, around + bottom_right]
        return self._add("Pad", [x, self._integers(*before, *after)], self.channels(x) + channels)

    def upsample(self, x: str, factor: int = 2) -> str:
        """Higher and wider by a factor."""
        from onnx import TensorProto, helper

        name = f"scales_{len(self._weights)}"
        self._weights.append(helper.make_tensor(name, TensorProto.FLOAT, [4], [1, 1, factor, factor]))
        return self._add("Resize", [x, "", name], self.channels(x), mode="nearest")

    def linear(self, x: str, out: int) -> str:
        """Fully connected layer on a flattened map of one pixel."""
        c = self.channels(x)
        self.parameters += c * out + out
        flat = self._add("Flatten", [x], c)
        return self._add("Gemm", [flat, self._weight(out, c), self._weight(out)], out, transB=1)

    def save(self, path: Path) -> Path:
        """Write the graph; what no operator takes is an output."""
        import onnx
        from onnx import TensorProto, helper

        taken = {name for node in self._nodes for name in node.input}
        outputs = [name for node in self._nodes for name in node.output if name not in taken]
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self._nodes, path.stem, [self._input], values, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, str(path))
        return path


def _pads(kernel: tuple[int, int], pad: Pads) -> list[int]:
    """ONNX pads (top, left, bottom, right); half the kernel when none are given."""
    if pad is None:
        return [kernel[0] // 2, kernel[1] // 2] * 2
    return [pad] * 4 if isinstance(pad, int) else list(pad)


# --------------------------------------------------------------------------------------------------------------
# Residual networks: He et al., 2015; Xie et al., 2017; Zagoruyko and Komodakis, 2016


def _residual(depths: Sequence[int], groups: int = 1, width: int = 64) -> Network:
    """Torchvision's ResNet-50 family: the stride is in the 3x3 convolution."""
    net = Network(3, 224, 224)
    x = net.max_pool(net.conv(net.normalize("image"), 64, 7, 2), 3, 2, 1)
    for stage, depth in enumerate(depths):
        inner, out = width * groups * 2**stage, 256 * 2**stage
        if groups == 1 and width == 64:
            inner = 64 * 2**stage
        for block in range(depth):
            stride = 2 if stage and not block else 1
            shortcut = x if block else net.conv(x, out, 1, stride)
            y = net.conv(net.conv(x, inner, 1), inner, 3, stride, groups=groups)
            x = net.add(net.conv(y, out, 1), shortcut)
    net.linear(net.global_pool(x), 1000)
    return net


def resnet18() -> Network:
    """torchvision.models.resnet18."""
    net = Network(3, 224, 224)
    x = net.max_pool(net.conv(net.normalize("image"), 64, 7, 2), 3, 2, 1)
    for stage in range(4):
        for block in range(2):
            x = _basic_block(net, x, 64 * 2**stage, 2 if stage and not block else 1)
    net.linear(net.global_pool(x), 1000)
    return net


def _basic_block(net: Network, x: str, out: int, stride: int) -> str:
    shortcut = x if stride == 1 and net.channels(x) == out else net.conv(x, out, 1, stride)
    return net.add(net.conv(net.conv(x, out, 3, stride), out, 3), shortcut)


def resnet50() -> Network:
    """torchvision.models.resnet50."""
    return _residual((3, 4, 6, 3))


def resnet101() -> Network:
    """torchvision.models.resnet101."""
    return _residual((3, 4, 23, 3))


def resnext50() -> Network:
    """torchvision.models.resnext50_32x4d."""
    return _residual((3, 4, 6, 3), groups=32, width=4)


def resnext101() -> Network:
    """torchvision.models.resnext101_32x8d."""
    return _residual((3, 4, 23, 3), groups=32, width=8)


def wideresnet50() -> Network:
    """torchvision.models.wide_resnet50_2."""
    return _residual((3, 4, 6, 3), width=128)


def facemap_3dmm() -> Network:
    """AI Hub Models' ResNet-18 of half the width behind a conversion to grey; the last block is not halved."""
    net = Network(3, 128, 128)
    x = net.scale("image")  # the scale to 0..255
    x = net.conv(net.conv(x, 1, 1, bias=True), 32, 7, 2)
    x = net.max_pool(net.pad(x, bottom_right=1), 3, 2)
    for stage in range(4):
        for block in range(2):
            out = 512 if (stage, block) == (3, 1) else 32 * 2**stage
            x = _basic_block(net, x, out, 2 if stage and not block else 1)
    net.linear(net.average_pool(x, 4, 1), 265)
    return net


# --------------------------------------------------------------------------------------------------------------
# RegNet: Radosavovic et al., 2020


def _regnet(widths: Sequence[int], depths: Sequence[int], group_width: int, squeeze: bool) -> Network:
    net = Network(3, 224, 224)
    x = net.conv(net.normalize("image"), 32, 3, 2)
    for width, depth in zip(widths, depths, strict=True):
        for block in range(depth):
            stride = 1 if block else 2
            shortcut = x if block else net.conv(x, width, 1, 2)
            y = net.conv(net.conv(x, width, 1), width, 3, stride, groups=width // group_width)
            if squeeze:
                reduced = net.conv(net.global_pool(y), round(net.channels(x) / 4), 1, bias=True)
                y = net.multiply(y, net.sigmoid(net.conv(reduced, width, 1, bias=True)))
            x = net.add(net.conv(y, width, 1), shortcut)
    net.linear(net.global_pool(x), 1000)
    return net


def regnet() -> Network:
    """torchvision.models.regnet_x_3_2gf."""
    return _regnet((96, 192, 432, 1008), (2, 6, 15, 2), 48, squeeze=False)


def regnet_y_800mf() -> Network:
    """torchvision.models.regnet_y_800mf."""
    return _regnet((64, 144, 320, 784), (1, 3, 8, 2), 16, squeeze=True)


# --------------------------------------------------------------------------------------------------------------
# Small networks: Sandler et al., 2018; Ma et al., 2018; Iandola et al., 2016


def mobilenet_v2() -> Network:
    """MobileNetV2, width 1.0."""
    net = Network(3, 224, 224)
    x = net.conv(net.normalize("image"), 32, 3, 2)
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2))
    for expansion, out, repeats, first_stride in (*stages, (6, 320, 1, 1)):
        for block in range(repeats):
            stride = 1 if block else first_stride
            inner = net.channels(x) * expansion
            y = x if expansion == 1 else net.conv(x, inner, 1)
            y = net.conv(net.conv(y, inner, 3, stride, groups=inner), out, 1)
            x = net.add(x, y) if stride == 1 and net.channels(x) == out else y
    net.linear(net.global_pool(net.conv(x, 1280, 1)), 1000)
    return net


def shufflenet_v2() -> Network:
    """torchvision.models.shufflenet_v2_x0_5."""
    net = Network(3, 224, 224)
    x = net.max_pool(net.conv(net.normalize("image"), 24, 3, 2), 3, 2, 1)
    for out, repeats, size in ((48, 4, 28), (96, 8, 14), (192, 4, 7)):
        half = out // 2
        for block in range(repeats):
            stride = 1 if block else 2
            if block:
                kept, x = net.halves(x)
            else:
                kept = net.conv(net.conv(x, net.channels(x), 3, 2, groups=net.channels(x)), half, 1)
            y = net.conv(net.conv(x, half, 1), half, 3, stride, groups=half)
            x = net.shuffle(net.join(kept, net.conv(y, half, 1)), size, size)
    net.linear(net.global_pool(net.conv(x, 1024, 1)), 1000)
    return net


def squeezenet1_1() -> Network:
    """torchvision.models.squeezenet1_1."""
    net = Network(3, 224, 224)
    x = net.conv(net.normalize("image"), 64, 3, 2, 0, bias=True)
    fires = ((16, 64, True), (16, 64, False), (32, 128, True), (32, 128, False), (48, 192, True))
    for squeeze, expand, pool in (*fires, (48, 192, False), (64, 256, False), (64, 256, False)):
        if pool:
            x = net.max_pool(x, 3, 2, ceil=True)
        x = net.conv(x, squeeze, 1, bias=True)
        x = net.join(net.conv(x, expand, 1, bias=True), net.conv(x, expand, 3, bias=True))
    net.global_pool(net.conv(x, 1000, 1, bias=True))
    return net


# --------------------------------------------------------------------------------------------------------------
# Inception: Szegedy et al., 2014 and 2015. Densely connected: Huang et al., 2017


def googlenet() -> Network:
    """torchvision.models.googlenet, whose 5x5 convolutions are 3x3; its input is scaled by constants."""
    net = Network(3, 224, 224)

    def block(x: str, one: int, reduce3: int, three: int, reduce5: int, five: int, pooled: int) -> str:
        return net.join(
            net.conv(x, one, 1),
            net.conv(net.conv(x, reduce3, 1), three, 3),
            net.conv(net.conv(x, reduce5, 1), five, 3),
            net.conv(net.max_pool(x, 3, 1, 1), pooled, 1),
        )

    x = net.max_pool(net.conv(net.scale(net.scale("image")), 64, 7, 2), 3, 2, ceil=True)
    x = net.max_pool(net.conv(net.conv(x, 64, 1), 192, 3), 3, 2, ceil=True)
    x = block(block(x, 64, 96, 128, 16, 32, 32), 128, 128, 192, 32, 96, 64)
    x = block(net.max_pool(x, 3, 2, ceil=True), 192, 96, 208, 16, 48, 64)
    x = block(block(x, 160, 112, 224, 24, 64, 64), 128, 128, 256, 24, 64, 64)
    x = block(block(x, 112, 144, 288, 32, 64, 64), 256, 160, 320, 32, 128, 128)
    x = block(net.max_pool(x, 2, 2, ceil=True), 256, 160, 320, 32, 128, 128)
    x = block(x, 384, 192, 384, 48, 128, 128)
    net.linear(net.global_pool(x), 1000)
    return net


def inception_v3() -> Network:
    """torchvision.models.inception_v3 at 224x224, as AI Hub Models runs it; its input is scaled by constants."""
    net = Network(3, 224, 224)
    conv = net.conv

    def first(x: str, pooled: int) -> str:
        five = conv(conv(x, 48, 1), 64, 5)
        three = conv(conv(conv(x, 64, 1), 96, 3), 96, 3)
        return net.join(conv(x, 64, 1), five, three, conv(net.average_pool(x, 3, 1, 1), pooled, 1))

    def second(x: str, c: int) -> str:
        seven = conv(conv(conv(x, c, 1), c, (1, 7)), 192, (7, 1))
        twice = conv(conv(conv(conv(conv(x, c, 1), c, (7, 1)), c, (1, 7)), c, (7, 1)), 192, (1, 7))
        return net.join(conv(x, 192, 1), seven, twice, conv(net.average_pool(x, 3, 1, 1), 192, 1))

    def third(x: str) -> str:
        a = conv(x, 384, 1)
        b = conv(conv(x, 448, 1), 384, 3)
        split = [net.join(conv(y, 384, (1, 3)), conv(y, 384, (3, 1))) for y in (a, b)]
        return net.join(conv(x, 320, 1), *split, conv(net.average_pool(x, 3, 1, 1), 192, 1))

    x = conv(conv(conv(net.scale(net.scale("image")), 32, 3, 2, 0), 32, 3, 1, 0), 64, 3)
    x = conv(conv(net.max_pool(x, 3, 2), 80, 1), 192, 3, 1, 0)
    x = first(first(first(net.max_pool(x, 3, 2), 32), 64), 64)
    three = conv(conv(conv(x, 64, 1), 96, 3), 96, 3, 2, 0)
    x = net.join(conv(x, 384, 3, 2, 0), three, net.max_pool(x, 3, 2))
    x = second(second(second(second(x, 128), 160), 160), 192)
    seven = conv(conv(conv(conv(x, 192, 1), 192, (1, 7)), 192, (7, 1)), 192, 3, 2, 0)
    x = net.join(conv(conv(x, 192, 1), 320, 3, 2, 0), seven, net.max_pool(x, 3, 2))
    net.linear(net.global_pool(third(third(x))), 1000)
    return net


def densenet121() -> Network:
    """torchvision.models.densenet121: the norms before the 1x1 convolutions cannot be folded."""
    net = Network(3, 224, 224)
    x = net.max_pool(net.conv(net.normalize("image"), 64, 7, 2), 3, 2, 1)
    for stage, depth in enumerate((6, 12, 24, 16)):
        if stage:
            x = net.batch_norm(x)
            # No norm follows the 1x1 convolution of a transition, and it has no bias
            x = net.average_pool(net.conv(x, net.channels(x) // 2, 1), 2, 2)
            net.parameters -= 2 * net.channels(x)
        features = [x]
        for _ in range(depth):
            joined = net.join(*features) if len(features) > 1 else x
            features.append(net.conv(net.conv(net.batch_norm(joined), 128, 1), 32, 3))
            net.parameters -= 2 * 32
        x = net.join(*features)
    net.linear(net.global_pool(net.batch_norm(x)), 1000)
    return net


# --------------------------------------------------------------------------------------------------------------
# Faces: Bazarevsky et al., 2019 (MediaPipe, in zmurez/MediaPipePyTorch); face_det_lite of AI Hub Models


def _blaze(net: Network, x: str, out: int, stride: int = 1) -> str:
    c = net.channels(x)
    deep = net.pad(x, bottom_right=2) if stride == 2 else x
    shortcut = net.max_pool(x, 2, 2) if stride == 2 else x
    if out > c:
        shortcut = net.pad(shortcut, channels=out - c)
    deep = net.conv(deep, c, 3, stride, 0 if stride == 2 else 1, groups=c, bias=True)
    return net.add(net.conv(deep, out, 1, bias=True), shortcut)


def _blazes(net: Network, x: str, count: int) -> str:
    for _ in range(count):
        x = _blaze(net, x, net.channels(x))
    return x


def mediapipe_face_landmark() -> Network:
    """BlazeFaceLandmark, without the slopes of its activations."""
    net = Network(3, 192, 192)
    x = net.conv(net.pad("image", bottom_right=1), 16, 3, 2, 0, bias=True)
    for out in (32, 64, 128, 128):
        x = _blaze(net, _blazes(net, x, 2), out, 2)
    x = _blazes(net, x, 2)
    landmarks, flag = _blazes(net, _blaze(net, x, 128, 2), 2), _blaze(net, x, 128, 2)
    ends = [net.conv(_blazes(net, net.conv(y, 32, 1, bias=True), 1), out, 3, 1, 0, bias=True)
            for y, out in ((landmarks, 1404), (flag, 1))]  # fmt: skip
    net.sigmoid(ends[1])
    return net


def mediapipe_face_detector() -> Network:
    """BlazeFace for the back camera, with the symmetric padding that AI Hub Models gives it."""
    net = Network(3, 256, 256)
    x = _blazes(net, net.conv(net.pad("image", around=2), 24, 5, 2, 0, bias=True), 7)
    for out in (24, 48, 96):
        x = _blazes(net, _blaze(net, x, out, 2), 7)
    last = net.conv(net.pad(x, bottom_right=2), 96, 3, 2, 0, groups=96, bias=True)
    last = net.conv(last, 96, 1, bias=True)
    for y, scores, boxes in ((x, 2, 32), (last, 6, 96)):
        net.channels_last(net.conv(y, scores, 1, bias=True))
        net.channels_last(net.conv(y, boxes, 1, bias=True))
    return net


def face_det_lite() -> Network:
    """FaceDetLite on a grey 480x640 image; its normalisation is two element-wise operators."""
    net = Network(1, 480, 640)

    def squeeze(x: str) -> str:
        c = net.channels(x)
        return net.multiply(x, net.sigmoid(net.conv(net.conv(net.global_pool(x), c // 4, 1), c, 1)))

    x = net.conv(net.scale(net.scale("image")), 16, 3, 2)
    plain = ((3, 16, 16, 2), (3, 64, 32, 2), (3, 96, 32, 1))
    deep = (
        (5, 96, 32, 2),
        (5, 224, 32, 1),
        (5, 224, 32, 1),
        (5, 128, 64, 1),
        (5, 160, 64, 1),
        (5, 256, 96, 2),
    )
    kept = []
    for index, (kind, inner, out, stride) in enumerate((*plain, *deep)):
        y = net.conv(net.conv(x, inner, 1), out, 3, stride if kind == 3 else 1)
        if kind == 5:
            y = squeeze(net.conv(y, out, 3, stride))
        if stride == 1:
            y = net.add(y, x if net.channels(x) == out else net.conv(x, out, 1))
        x = y
        if index in (2, 7):
            kept.append(x)
    x = net.conv(x, 32, 1)
    for skip in reversed(kept):
        # The definition gives these 1x1 convolutions no padding
        x = net.add(net.conv(net.upsample(x), 32, 3), net.conv(skip, 32, 1))
    narrow = net.conv(x, 8, 3)
    context = net.join(net.conv(narrow, 8, 3), net.conv(net.conv(narrow, 8, 3), 8, 3))
    x = net.join(net.conv(x, 16, 3), context)
    for out in (1, 4, 10):
        net.conv(x, out, 1, bias=True)
    return net


# --------------------------------------------------------------------------------------------------------------
# HRNet: Sun et al., 2019


def _hrnet(net: Network, width: int, all_scales: bool) -> list[str]:
    """Feature maps at 1/4, 1/8, 1/16 and 1/32 of the image; only the first one where the others are not used."""
    x = net.conv(net.conv(net.normalize("image"), 64, 3, 2), 64, 3, 2)
    for block in range(4):
        shortcut = x if block else net.conv(x, 256, 1)
        x = net.add(net.conv(net.conv(net.conv(x, 64, 1), 64, 3), 256, 1), shortcut)
    maps = [net.conv(x, width, 3), net.conv(x, 2 * width, 3, 2)]
    for branches, modules in ((2, 1), (3, 4), (4, 3)):
        if len(maps) < branches:
            maps.append(net.conv(maps[-1], width * 2 ** len(maps), 3, 2))
        for module in range(modules):
            for _ in range(4):
                maps = [_basic_block(net, y, net.channels(y), 1) for y in maps]
            last = branches == 4 and module == modules - 1
            maps = [_fuse(net, maps, i) for i in range(1 if last and not all_scales else branches)]
    return maps


def _fuse(net: Network, maps: Sequence[str], scale: int) -> str:
    """Sum of all maps, brought to one scale."""
    terms = []
    out = net.channels(maps[scale])
    for source, x in enumerate(maps):
        if source > scale:
            x = net.upsample(net.conv(x, out, 1), 2 ** (source - scale))
        for step in range(source + 1, scale + 1):
            x = net.conv(x, out if step == scale else net.channels(x), 3, 2)
        terms.append(x)
    return functools.reduce(net.add, terms)


def hrnet_face() -> Network:
    """HRNet-W18 for 29 landmarks, of HRNet/HRNet-Facial-Landmark-Detection."""
    net = Network(3, 256, 256)
    first, *others = _hrnet(net, 18, all_scales=True)
    x = net.join(first, *(net.upsample(y, 2 ** (i + 1)) for i, y in enumerate(others)))
    net.conv(net.conv(x, net.channels(x), 1), 29, 1, bias=True)
    return net


def hrnet_pose() -> Network:
    """HRNet-W32 for 17 joints, of leoxiaobin/deep-high-resolution-net.pytorch."""
    net = Network(3, 256, 192)
    net.conv(_hrnet(net, 32, all_scales=False)[0], 17, 1, bias=True)
    return net


NETWORKS: dict[str, Callable[[], Network]] = {
    build.__name__: build
    for build in (
        densenet121,
        face_det_lite,
        facemap_3dmm,
        googlenet,
        hrnet_face,
        hrnet_pose,
        inception_v3,
        mediapipe_face_detector,
        mediapipe_face_landmark,
        mobilenet_v2,
        regnet,
        regnet_y_800mf,
        resnet18,
        resnet50,
        resnet101,
        resnext50,
        resnext101,
        shufflenet_v2,
        squeezenet1_1,
        wideresnet50,
    )
}


def features_of(network: Network) -> GraphFeatures:
    """Count a network's features."""
    with tempfile.TemporaryDirectory() as folder:
        return graph_features(network.save(Path(folder) / "network.onnx"))


def main() -> int:
    """Write the features into the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    text = TABLE.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("#")]
    lines.append(",".join(COLUMNS))
    for row in read_table():
        features = astuple(features_of(NETWORKS[row.model]()))
        lines.append(",".join(map(str, (row.model, row.job, row.milliseconds, *map(int, features)))))
    with whole_file(TABLE) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{TABLE}: {len(read_table())} networks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
