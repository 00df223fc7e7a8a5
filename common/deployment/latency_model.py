"""Latency of a W8A8 network on the NPU of a QCS8550, estimated from published measurements of other networks."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from common.config import ConfigError
from common.deployment.graph_features import GraphFeatures, graph_features

TABLE = Path(__file__).with_name("aihub_qcs8550_w8a8.csv")
"""Published latencies with the features of their networks; its first lines give the source."""

_RIDGES = range(0, 401, 20)

COLUMNS = ("model", "job", "milliseconds", *(field.name for field in fields(GraphFeatures)))


@dataclass(frozen=True)
class Measured:
    """A published latency.

    Attributes:
        model: Name of the network in ``src/tools/published_networks.py``.
        job: Qualcomm AI Hub's number of the measurement.
        milliseconds: Published time of one inference with batch 1.
        features: Counted on the network's graph.
    """

    model: str
    job: str
    milliseconds: float
    features: GraphFeatures


@dataclass(frozen=True)
class LatencyModel:
    """A roofline (Williams et al., 2009) of arithmetic and of reading the weights, and what comes on top of it.

    ``ms = max(ms_per_gmac * macs / 1e9, ms_per_megabyte * weight_bytes / 1e6) + ms_per_operator * operators
    + normalization_ms * input_normalization``, and never less than ``floor_ms``: no published network is faster,
    because a call has a cost of its own that these few networks do not tell apart from that of their operators.

    A term for activations and one for the whole graph were tried: the first did not lower the error of networks
    left out, the second came out as nothing.
    """

    ms_per_gmac: float
    ms_per_megabyte: float
    ms_per_operator: float
    normalization_ms: float
    floor_ms: float

    def milliseconds(self, features: GraphFeatures) -> float:
        """The formula above."""
        formula = (
            max(self.ms_per_gmac * features.macs / 1e9, self.ms_per_megabyte * features.weight_bytes / 1e6)
            + self.ms_per_operator * features.operators
            + self.normalization_ms * features.input_normalization
        )
        return max(self.floor_ms, formula)


@dataclass(frozen=True)
class LatencyEstimate:
    """An estimate in milliseconds; it is no measurement.

    Attributes:
        milliseconds: One image on the NPU, without the transfer of image and embedding by the application.
        low: Lower end of the interval.
        high: Upper end.
        coverage: Share of networks like the published ones whose latency such an interval holds, 0..1.
    """

    milliseconds: float
    low: float
    high: float
    coverage: float

    def __str__(self) -> str:
        return (
            f"estimate {self.milliseconds:.2f} ms ({self.low:.2f} to {self.high:.2f} in {self.coverage:.0%} of "
            "networks) for W8A8, batch 1, NPU of a QCS8550; not measured"
        )


class UnlikePublishedError(ConfigError):
    """A network lies outside of the published ones.

    Attributes:
        reasons: Such as `macs is 6.912 k, known are 34.98 M to 16.41 G`, one for each feature that does.
    """

    def __init__(self, path: Path, reasons: Sequence[str]) -> None:
        self.reasons = reasons
        super().__init__(
            f"{path}: no latency is estimated, because the network lies outside the published ones: "
            f"{'; '.join(reasons)}. Measure it on a device (docs/README_BENCHMARKING.md)."
        )


def read_table(path: Path = TABLE) -> tuple[Measured, ...]:
    """Read published latencies."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = []
    for row in csv.DictReader(lines):
        features = GraphFeatures(
            macs=int(row["macs"]),
            weight_bytes=int(row["weight_bytes"]),
            activation_bytes=int(row["activation_bytes"]),
            operators=int(row["operators"]),
            input_normalization=row["input_normalization"] == "1",
        )
        rows.append(Measured(row["model"], row["job"], float(row["milliseconds"]), features))
    return tuple(rows)


def fit_latency(rows: Sequence[Measured]) -> LatencyModel:
    """Fit non-negative coefficients by least squares of the relative error.

    For a given ridge of the roofline (MACs per weight byte where its two sides meet) the other coefficients are a
    linear problem; the ridge is the best of a grid.
    """
    from scipy.optimize import nnls

    features = [row.features for row in rows]
    measured = np.array([row.milliseconds for row in rows])
    fits = []
    for ridge in _RIDGES:
        terms = [
            (max(f.macs, ridge * f.weight_bytes) / 1e9, f.operators, f.input_normalization) for f in features
        ]
        coefficients, residual = nnls(np.array(terms, float) / measured[:, None], np.ones(len(rows)))
        fits.append((residual, ridge, *map(float, coefficients)))
    _, ridge, per_gmac, per_operator, normalization = min(fits)
    return LatencyModel(per_gmac, per_gmac * ridge / 1e3, per_operator, normalization, float(measured.min()))


def leave_one_out(rows: Sequence[Measured]) -> np.ndarray:
    """Milliseconds of each network as estimated from all the others: (N,)."""
    others = [[*rows[:i], *rows[i + 1 :]] for i in range(len(rows))]
    return np.array(
        [fit_latency(rest).milliseconds(row.features) for rest, row in zip(others, rows, strict=True)]
    )


def estimate_latency(onnx_path: Path, rows: Sequence[Measured] | None = None) -> LatencyEstimate:
    """Estimate the latency of a graph once it runs in W8A8 on the NPU of a QCS8550.

    A float graph has the features of its quantized form, so it can be asked before quantization. Operators that
    stay in float cost more than this knows.

    The interval spans the ratios of measured to estimated latency of the N published networks, each left out of
    its fit. A further network of their kind falls into it with probability (N - 1) / (N + 1) (Vovk et al., 2005:
    the ratios are exchangeable), which says nothing of networks of another kind.

    Args:
        onnx_path: The graph.
        rows: Published latencies; those that come with the program when absent.

    Raises:
        UnlikePublishedError: A feature lies outside those of the published networks.
        ConfigError: The graph is unreadable, or has activations of more than 8 bits.
    """
    rows = read_table() if rows is None else rows
    features = graph_features(onnx_path)
    _require_in_range(onnx_path, features, rows)
    milliseconds = fit_latency(rows).milliseconds(features)
    ratios = np.array([row.milliseconds for row in rows]) / leave_one_out(rows)
    return LatencyEstimate(
        milliseconds=milliseconds,
        low=milliseconds * float(ratios.min()),
        high=milliseconds * float(ratios.max()),
        coverage=(len(rows) - 1) / (len(rows) + 1),
    )


def _require_in_range(onnx_path: Path, features: GraphFeatures, rows: Sequence[Measured]) -> None:
    outside = []
    for name, value in asdict(features).items():
        known = [asdict(row.features)[name] for row in rows]
        if not min(known) <= value <= max(known):
            outside.append(
                f"{name} is {_short(value)}, known are {_short(min(known))} to {_short(max(known))}"
            )
    if outside:
        raise UnlikePublishedError(onnx_path, outside)


def _short(value: int) -> str:
    power = min(int(math.log10(max(value, 1))) // 3, 3)
    return f"{value / 1000**power:.4g}{('', ' k', ' M', ' G')[power]}"
