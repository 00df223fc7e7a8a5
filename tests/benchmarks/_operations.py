"""Which operations the time of a TensorFlow step goes to."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

_EVENT = re.compile(r"[^:]+:([A-Za-z_]\w*)")  # name of a node and its type
_KINDS = {
    r".*Conv2DBackpropFilter.*": "convolution, gradient of the kernel",
    r".*Conv2DBackpropInput.*": "convolution, gradient of the input",
    r".*Conv2D.*": "convolution, forward",
    r".*MatMul.*": "matrix products (gradients of kernels in bfloat16)",
    r".*FusedBatchNormGrad.*": "batch norm, gradient",
    r".*FusedBatchNorm.*": "batch norm, forward",
    r".*Relu.*": "ReLU and its gradient",
    r".*MaxPool.*|.*AvgPool.*": "pooling",
    r".*Cast|.*ToTf|.*Transpose.*": "casts and layouts",
    r"_?(Mkl)?(Native)?(Add.*|Sub|Mul|RealDiv|Square|Sqrt|Pow|Maximum|Minimum|Neg)": "sums and products",
    r"Assign.*|ReadVariable.*|ResourceApply.*": "weights read and written",
}


def seconds_by_kind(step: Callable[[], Any]) -> Counter[str]:
    """Trace one call and add up the time of its operations by kind, longest first; they may overlap."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        step()
        tf.profiler.experimental.stop()
        [path] = Path(folder).rglob("*.xplane.pb")
        trace = XSpace.FromString(path.read_bytes())
    found: Counter[str] = Counter()
    for plane in trace.planes:
        for line in plane.lines:
            for event in line.events:
                match = _EVENT.fullmatch(plane.event_metadata[event.metadata_id].name)
                if match:
                    found[_kind(match[1])] += event.duration_ps / 1e12
    return Counter(dict(found.most_common()))


def _kind(operation: str) -> str:
    return next((kind for types, kind in _KINDS.items() if re.fullmatch(types, operation)), "others")
