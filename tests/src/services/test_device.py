"""A real device behind benchmarking: which way is taken, what is reported; the devices themselves are stand-ins."""

import numpy as np
import pytest

from common.config import ConfigError, validate
from common.deployment.device_profile import DeviceProfile, LayerTime
from src.schema import Benchmarking
from src.services import _device

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

        def compile(self, dlc, out_path, vtcm_mb, graph_optimization):
            asked.append(("compile", out_path.name, vtcm_mb, graph_optimization))
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
                ("compile", "net_qairt_sdk.bin", 4, 1),
            ],
        ),
    ],
)
def test_both_ways_give_embeddings_and_times(calls, tmp_path, values, expected):
    found, profile = _device.run_on_device(
        section(**values), tmp_path / "net.onnx", tmp_path, np.zeros((2, 4, 4, 3))
    )
    assert calls == expected
    assert found is EMBEDDINGS and profile is PROFILE


def test_numbers_are_named_after_the_device(tmp_path):
    metrics = _device.device_metrics(PROFILE, np.array([0.9, 1.0]))
    assert metrics["device/latency_ms"] == 1.0
    assert metrics["device/memory_mb"] == 5.0
    assert metrics["device/parity_cosine_min"] == 0.9
    rows = dict(_device.device_table(PROFILE, metrics).rows)
    assert rows["source"] == "job 7" and rows["operators"] == "2 on NPU"
    lines = _device.layers_csv(tmp_path, PROFILE).read_text().splitlines()
    assert lines[:2] == ["name,type,unit,microseconds,cycles", "conv,Conv2d,NPU,12.5,"]


def test_an_unknown_device_is_refused():
    with pytest.raises(ConfigError, match="device: unknown value 'aihub', did you mean 'ai_hub'"):
        section(device="aihub")
