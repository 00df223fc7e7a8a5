import numpy as np
import pytest

from common.deployment import host_latency as module
from common.deployment.host_latency import host_latency
from common.runtime import Runtime, open_model

IMAGES = np.arange(3 * 4 * 2 * 3, dtype=np.float32).reshape(3, 4, 2, 3)


class Clocked(Runtime):
    """A model that moves the clock on: 1 ms a call, 50 ms every tenth, 10 s for each of the first five."""

    name = "keras"
    input_shape, embedding_dim, precision, threads, batch_size = (4, 2, 3), 1, "float32", 2, 16

    def __init__(self):
        self.calls, self.seconds = [], 0.0

    def _embed_batch(self, images):
        self.calls.append(images.copy())
        count = len(self.calls)
        self.seconds += 10 if count <= 5 else 0.05 if count % 10 == 0 else 0.001
        return np.zeros((len(images), 1), np.float32)

    def close(self):
        pass


@pytest.fixture
def clocked(monkeypatch):
    model = Clocked()
    monkeypatch.setattr(module.time, "perf_counter", lambda: model.seconds)
    return model


def test_percentiles_of_single_images_without_the_warm_up(clocked):
    result = host_latency(clocked, IMAGES, runs=20, warmup=5)
    times = [1.0] * 18 + [50.0] * 2  # calls 6 to 25, of which 10 and 20 are slow
    assert result == pytest.approx(
        {
            "p50_ms": 1.0,
            "p90_ms": np.percentile(times, 90),
            "p99_ms": 50.0,
            "mean_ms": np.mean(times),
            "runs": 20,
            "threads": 2,
        }
    )
    assert len(clocked.calls) == 25
    assert {call.shape for call in clocked.calls} == {(1, 4, 2, 3)}
    assert len({call.tobytes() for call in clocked.calls}) == 3


def test_a_real_model_is_timed(float_onnx, images):
    with open_model(float_onnx, threads=1) as model:
        result = host_latency(model, images, runs=5)
    assert 0 < result["p50_ms"] <= result["p90_ms"] <= result["p99_ms"]


def test_what_is_no_latency_is_refused(batch_of_four_onnx, images):
    emulator = Clocked()
    emulator.name = "qnn_htp_emulator"
    with pytest.raises(ValueError, match="not latency"):
        host_latency(emulator, IMAGES)
    with open_model(batch_of_four_onnx) as model, pytest.raises(ValueError, match="takes 4 images only"):
        host_latency(model, images)
    for wrong in ({"runs": 0}, {"warmup": -1}):
        with pytest.raises(ValueError, match="Expected runs >= 1"):
            host_latency(Clocked(), IMAGES, **wrong)
    with pytest.raises(ValueError, match="one image"):
        host_latency(Clocked(), IMAGES[:0])
