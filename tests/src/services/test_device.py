"""A real device behind benchmarking: which way is taken, what is reported; the devices themselves are stand-ins."""

from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from common.artifacts import Model
from common.config import ConfigError, validate
from common.deployment.device_profile import DeviceProfile, LayerTime
from src.data.preprocessing import Preprocessing
from src.schema import Benchmarking, Config
from src.services import _device, benchmarking
from src.services._parity import UNKNOWN_LIMIT
from src.services._target import Part

PROFILE = DeviceProfile(
    "QCS8550 (Proxy)", "job 7", (0.9, 1.0, 1.3), (1_000_000, 5_000_000),
    (LayerTime("conv", "Conv2d", "NPU", 12.5), LayerTime("pool", "PoolAvg2d", "NPU", 3.0)),
)  # fmt: skip
EMBEDDINGS = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)


@pytest.fixture
def calls(monkeypatch):
    """Records what is asked of either way."""
    asked = []

    class Hub:
        def __init__(self, device):
            asked.append(("hub", device))

        def compile(self, onnx_path, out_path):
            asked.append(("compile", out_path.name))
            return out_path

        def embed(self, compiled, onnx_path, images):
            return EMBEDDINGS

        def profile(self, compiled):
            return PROFILE

    class Sdk:
        def __init__(self, soc, performance_mode="burst"):
            asked.append(("sdk", soc, performance_mode))

        def require_device(self):
            raise ConfigError("adb shows no device")

        def convert(self, onnx_path, out_path):
            asked.append(("convert", out_path.name))
            return out_path

        def quantize(self, dlc, out_path, input_name, images):
            asked.append(("quantize", dlc.name, out_path.name, input_name, len(images)))
            return out_path

        def compile(self, dlc, out_path, graph_name, vtcm_mb, graph_optimization):
            asked.append(("compile", dlc.name, out_path.name, graph_name, vtcm_mb, graph_optimization))
            return out_path

        def run(self, context, onnx_path, images):
            return EMBEDDINGS, PROFILE

    monkeypatch.setattr(_device, "AiHub", Hub)
    monkeypatch.setattr(_device, "QairtSdk", Sdk)
    return asked


def section(**values):
    return validate(Benchmarking, values)


def test_without_a_device_nothing_is_asked(calls):
    _device.require_device(section())
    assert calls == []


def test_what_is_missing_is_said_before_the_run(calls):
    with pytest.raises(ConfigError, match="adb shows no device"):
        _device.require_device(section(device="qairt_sdk", board="SM8650"))
    assert calls == [("sdk", "SM8650", "burst")]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"device": "ai_hub"}, [("hub", "QCS8550 (Proxy)"), ("compile", "net_ai_hub.dlc")]),
        (
            {"device": "qairt_sdk", "vtcm_mb": 4, "graph_optimization": 1, "performance_mode": "balanced"},
            [
                ("sdk", "QCS8550", "balanced"),
                ("convert", "net_qairt_sdk.dlc"),
                ("compile", "net_qairt_sdk.dlc", "net_qairt_sdk.bin", "net_qairt_sdk", 4, 1),
            ],
        ),
    ],
)
def test_both_ways_give_embeddings_and_times(calls, tmp_path, values, expected):
    found, profile = _device.run_on_device(
        section(**values), tmp_path / "net.onnx", tmp_path, np.zeros((2, 4, 4, 3)), "int8"
    )
    assert calls == expected
    assert found is EMBEDDINGS and profile is PROFILE


def test_the_sdk_quantizes_a_float_graph(calls, tmp_path, monkeypatch):
    monkeypatch.setattr(_device, "inspect_onnx", lambda path: SimpleNamespace(input_name="images"))
    images = np.zeros((2, 4, 4, 3))
    _device.run_on_device(section(device="qairt_sdk"), tmp_path / "net.onnx", tmp_path, images, "float32")
    assert calls[2:] == [
        ("quantize", "net_qairt_sdk.dlc", "net_qairt_sdk_w8a8.dlc", "images", 2),
        ("compile", "net_qairt_sdk_w8a8.dlc", "net_qairt_sdk.bin", "net_qairt_sdk", 0, 3),
    ]


def test_numbers_are_named_after_the_device(tmp_path):
    metrics = _device.device_metrics(PROFILE, np.array([0.9, 1.0]))
    assert metrics["device/latency_ms"] == 1.0
    assert metrics["device/peak_memory_low_mb"] == 1.0 and metrics["device/peak_memory_high_mb"] == 5.0
    assert metrics["device/parity_cosine_min"] == 0.9
    rows = dict(_device.device_table(PROFILE, metrics).rows)
    assert rows["source"] == "job 7" and rows["operators"] == "2 on NPU"
    assert rows["peak memory"] == "1.0 to 5.0 MB, too wide for a limit"
    lines = _device.layers_csv(tmp_path, PROFILE).read_text().splitlines()
    assert lines[:2] == ["name,type,unit,microseconds,cycles", "conv,Conv2d,NPU,12.5,"]


@pytest.mark.parametrize("unit", ["CPU", "NPU"])
def test_a_layer_beside_the_npu_fails_the_run_once_everything_is_kept(tmp_path, monkeypatch, unit):
    profile = replace(PROFILE, layers=(*PROFILE.layers, LayerTime("erf", "Erf", unit, 9.0)))
    monkeypatch.setattr(benchmarking, "run_on_device", lambda *_: (EMBEDDINGS, profile))
    found, images = benchmarking._Findings(), np.zeros((2, 4, 4, 3))

    def compare(name, embeddings):
        return np.ones(2)

    benchmarking._on_device(
        section(device="ai_hub"), tmp_path / "net.onnx", images, "int8", tmp_path, compare, found
    )
    report = found.report()
    assert report.metrics["device/latency_ms"] == 1.0 and report.files == (tmp_path / "device_layers.csv",)
    if unit == "NPU":
        assert report.failure is None
    else:
        assert "expected every operator on the NPU, found 2 on NPU, 1 on CPU" in report.failure
        assert f"{tmp_path / 'device_layers.csv'} names them" in report.failure


@pytest.mark.parametrize(
    ("device", "precision", "limits"),
    [
        ("ai_hub", "float32", ()),
        ("qairt_sdk", "int8", ()),
        ("qairt_sdk", "float32", (UNKNOWN_LIMIT,)),
    ],
)
def test_only_what_the_sdk_quantizes_itself_is_held_to_the_loose_limit(
    tmp_path, monkeypatch, device, precision, limits
):
    monkeypatch.setattr(benchmarking, "run_on_device", lambda *_: (EMBEDDINGS, PROFILE))
    asked = []

    def compare(name, embeddings, *limit):
        asked.append(limit)
        return np.ones(2)

    found, images = benchmarking._Findings(), np.zeros((2, 4, 4, 3))
    benchmarking._on_device(section(device=device), tmp_path, images, precision, tmp_path, compare, found)
    assert asked == [limits]


def _run_with(device, mode="chain_bd", model="m.onnx", **sections):
    return {
        "operation_mode": mode, "model": {"model_path": model}, "benchmarking": {"device": device, **sections},
        "dataset": {"test_query_path": "query", "test_gallery_path": "gallery"},
    }  # fmt: skip


PACKED = {"deployment": {"board": "SM8650"}}
EMULATED = {"evaluation": {"target": "qnn_htp_emulator"}}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            _run_with("none") | PACKED,
            "benchmarking.board, which is emulated and measured, is QCS8550: the card",
        ),
        (_run_with("qairt_sdk") | PACKED, "deployment.board is SM8650, but benchmarking.board"),
        (
            _run_with("none", "chain_ed") | PACKED | EMULATED,
            "deployment.board is SM8650, but benchmarking.board",
        ),
        (_run_with("ai_hub", board="SM8650") | PACKED, r"is 'QCS8550 \(Proxy\)': the checklist"),
        (_run_with("ai_hub", ai_hub_device="Samsung Galaxy S24"), "measure in a run of its own"),
        (_run_with("ai_hub", "benchmarking", "m.tflite"), "but the model is a .tflite"),
    ],
)
def test_the_device_is_the_chip_of_the_package_and_runs_the_model(raw, message):
    with pytest.raises(ConfigError, match=message):
        validate(Config, raw)


@pytest.mark.parametrize(
    "raw",
    [
        _run_with("ai_hub"),
        _run_with("ai_hub", "benchmarking", ai_hub_device="Galaxy S24"),
        _run_with("none", board="SM8650") | PACKED,
        _run_with("none", "chain_ed") | PACKED,
        _run_with("ai_hub", "chain_ed", ai_hub_device="Galaxy S24") | EMULATED,
        _run_with("none", "deployment") | PACKED,
    ],
)
def test_a_device_of_that_chip_or_without_a_package_is_taken(raw):
    validate(Config, raw)


def test_the_estimate_says_that_it_knows_no_float_operators(monkeypatch):
    estimate = SimpleNamespace(milliseconds=1.0, low=0.5, high=2.0)
    monkeypatch.setattr(benchmarking, "estimate_latency", lambda path: estimate)
    assert "stay float" not in benchmarking._estimate(None, {}, 0)
    assert (
        "9 operators stay float, which the estimate does not know: it is too low"
        in benchmarking._estimate(None, {}, 9)
    )


def test_a_network_that_cannot_be_exported_is_named(tmp_path):
    path, image = tmp_path / "noisy.keras", keras.Input((32, 32, 3))
    noise = keras.layers.GaussianNoise(0.1, name="noise")(image)
    keras.Model(image, keras.layers.GlobalAveragePooling2D()(noise)).save(path)
    model, part = (
        Model({"keras": path}, "float32", (32, 32, 3), 3),
        Part(path, "", Preprocessing((32, 32, 3))),
    )
    with pytest.raises(ConfigError, match="cannot export .*noisy.keras to ONNX: layer 'noise'"):
        benchmarking._onnx_file(model, part, tmp_path)


def test_an_unknown_device_is_refused():
    with pytest.raises(ConfigError, match="device: unknown value 'aihub', did you mean 'ai_hub'"):
        section(device="aihub")
