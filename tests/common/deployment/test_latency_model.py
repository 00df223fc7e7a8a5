import dataclasses

import numpy as np
import pytest

from common.config import ConfigError
from common.deployment import latency_model as module
from common.deployment.graph_features import GraphFeatures
from common.deployment.latency_model import (
    LatencyModel,
    Measured,
    estimate_latency,
    fit_latency,
    leave_one_out,
    read_table,
)

TRUE = LatencyModel(
    ms_per_gmac=0.1, ms_per_megabyte=0.02, ms_per_operator=0.002, normalization_ms=0.3, floor_ms=0.1
)


def networks(noise=0.0, count=12):
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        features = GraphFeatures(
            int(10 ** rng.uniform(8, 10)),
            int(10 ** rng.uniform(5, 8)),
            10**7,
            int(rng.integers(30, 200)),
            index % 2 == 0,
        )
        milliseconds = TRUE.milliseconds(features) * float(np.exp(noise * rng.normal()))
        rows.append(Measured(f"n{index}", "job", milliseconds, features))
    return rows


def test_the_formula():
    arithmetic = GraphFeatures(2 * 10**9, 10**6, 1, 100, True)  # 0.2 ms against 0.02 ms of reading
    assert TRUE.milliseconds(arithmetic) == pytest.approx(0.2 + 100 * 0.002 + 0.3)
    reading = GraphFeatures(2 * 10**9, 30 * 10**6, 1, 100, False)  # 0.6 ms of reading
    assert TRUE.milliseconds(reading) == pytest.approx(0.6 + 100 * 0.002)
    tiny = GraphFeatures(10**8, 10**5, 1, 20, False)  # 0.01 ms + 0.04 ms
    assert TRUE.milliseconds(tiny) == 0.1


def test_the_fit_finds_the_coefficients_behind_exact_latencies():
    found = fit_latency(networks())
    assert dataclasses.astuple(found) == pytest.approx(
        (0.1, 0.02, 0.002, 0.3, min(row.milliseconds for row in networks())), rel=1e-9
    )


def best_with(rows, ridge):
    """The other coefficients for one ridge by an unconstrained solver, whose results here are positive."""
    features = [row.features for row in rows]
    terms = [
        [max(f.macs, ridge * f.weight_bytes) / 1e9, f.operators, f.input_normalization] for f in features
    ]
    relative = np.array(terms, float) / np.array([[row.milliseconds] for row in rows])
    work, operators, normalization = np.linalg.lstsq(relative, np.ones(len(rows)))[0]
    assert min(work, operators, normalization) > 0
    return work, work * ridge / 1e3, operators, normalization, 0.0


def test_the_fit_is_the_least_sum_of_squared_relative_errors():
    rows = networks(noise=0.1)
    found = np.array(dataclasses.astuple(fit_latency(rows)))

    def loss(coefficients):
        model = LatencyModel(*coefficients)
        return sum((model.milliseconds(row.features) / row.milliseconds - 1) ** 2 for row in rows)

    # The ridge is on a grid: both sides of the roofline are moved together
    for work, operators, normalization in np.random.default_rng(1).normal(size=(200, 3)):
        moved = found * (1 + 0.01 * np.array([work, work, operators, normalization, 0]))
        assert loss(moved) > loss(found)
    others = [ridge for ridge in range(0, 401, 20) if not np.isclose(ridge, 1e3 * found[1] / found[0])]
    for ridge in others:
        assert loss(best_with(rows, ridge)) >= loss(found)


def test_no_coefficient_is_negative():
    # Latency that falls with the number of operators: without the constraint its coefficient would be negative
    rows = [
        Measured("a", "", 1.0, GraphFeatures(10**9, 1, 1, 200, False)),
        Measured("b", "", 1.2, GraphFeatures(10**9, 1, 1, 100, False)),
        Measured("c", "", 1.5, GraphFeatures(10**9, 1, 1, 50, True)),
    ]
    found = fit_latency(rows)
    assert found.ms_per_operator == 0
    assert min(dataclasses.astuple(found)) >= 0


def test_leave_one_out_never_sees_the_network():
    rows = networks(noise=0.2)
    before = leave_one_out(rows)
    for index in range(len(rows)):
        changed = list(rows)
        changed[index] = dataclasses.replace(rows[index], milliseconds=100.0)
        assert leave_one_out(changed)[index] == pytest.approx(before[index])
    slow = [fit_latency([r for r in rows if r is not row]).milliseconds(row.features) for row in rows]
    assert before == pytest.approx(slow)


def test_the_published_table_and_its_errors():
    rows = read_table()
    assert len(rows) == 20
    # perf.yaml of quic/ai-hub-models v0.46.1, QCS8550 (Proxy), w8a8, qnn_dlc
    published = {row.model: (row.milliseconds, row.job) for row in rows}
    assert published["resnet50"] == (0.902, "jp188d72g")
    assert published["mobilenet_v2"] == (0.460, "jgovvoxk5")
    errors = np.abs(leave_one_out(rows) / [row.milliseconds for row in rows] - 1)
    # The figures of docs/README_BENCHMARKING.md
    assert np.median(errors) == pytest.approx(0.084, abs=0.0005)
    assert errors.max() == pytest.approx(0.774, abs=0.0005)
    assert rows[int(errors.argmax())].model == "hrnet_pose"


@pytest.fixture
def known(monkeypatch):
    """Features without a graph: what lies between ResNet-18 and ResNet-50."""
    features = GraphFeatures(3 * 10**9, 20 * 10**6, 10 * 10**6, 60, False)
    monkeypatch.setattr(module, "graph_features", lambda _: features)
    return features


def test_an_estimate_says_that_it_is_one_and_how_far_it_can_be_off(known, tmp_path):
    rows = read_table()
    estimate = estimate_latency(tmp_path / "m.onnx")
    assert estimate.milliseconds == fit_latency(rows).milliseconds(known)
    ratios = np.array([row.milliseconds for row in rows]) / leave_one_out(rows)
    assert estimate.low / estimate.milliseconds == pytest.approx(ratios.min())
    assert estimate.high / estimate.milliseconds == pytest.approx(ratios.max())
    assert estimate.low < estimate.milliseconds < estimate.high
    assert estimate.coverage == pytest.approx(19 / 21)
    assert str(estimate) == (
        "estimate 0.49 ms (0.28 to 1.32 in 90% of networks) for W8A8, batch 1, NPU of a QCS8550; not measured"
    )


def test_the_interval_covers_as_often_as_it_says(monkeypatch, tmp_path):
    rng = np.random.default_rng(3)
    rows = networks(noise=0.3, count=200)
    held = 0
    trials = 100
    for _ in range(trials):
        chosen = [rows[i] for i in rng.choice(len(rows), 19, replace=False)]
        monkeypatch.setattr(module, "graph_features", lambda _, row=chosen[0]: row.features)
        monkeypatch.setattr(module, "_require_in_range", lambda *_: None)
        estimate = estimate_latency(tmp_path, chosen[1:])
        held += estimate.low <= chosen[0].milliseconds <= estimate.high
    assert held / trials == pytest.approx(estimate.coverage, abs=0.09)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"macs": 3 * 10**7}, "macs is 30 M, known are 34.98 M to 16.41 G"),
        ({"weight_bytes": 10**8}, "weight_bytes is 100 M, known are 136.2 k to 88.69 M"),
        ({"activation_bytes": 10**8}, "activation_bytes is 100 M"),
        ({"operators": 600}, "operators is 600, known are 33 to 514"),
    ],
)
def test_no_estimate_outside_of_what_is_known(known, monkeypatch, change, message, tmp_path):
    monkeypatch.setattr(module, "graph_features", lambda _: dataclasses.replace(known, **change))
    with pytest.raises(ConfigError) as error:
        estimate_latency(tmp_path / "big.onnx")
    assert message in str(error.value)
    assert "big.onnx" in str(error.value)
    assert str(error.value).count(", known are ") == 1


def test_a_small_graph_is_refused_with_everything_that_is_outside(float_onnx):
    with pytest.raises(ConfigError, match="macs is 53.25 k.*weight_bytes is 448,.*operators is 4,"):
        estimate_latency(float_onnx)
