"""A model on a real device, for the service that benchmarks: Qualcomm AI Hub, or a QAIRT SDK with a device over adb."""

from pathlib import Path

import numpy as np

from common.artifacts import Table, write_csv
from common.deployment.ai_hub import AiHub
from common.deployment.device_profile import DeviceProfile
from common.deployment.host_latency import percentiles
from common.deployment.qairt_sdk import QairtSdk
from common.runtime.onnx_file import inspect_onnx
from src.schema import Benchmarking


def require_device(section: Benchmarking) -> None:
    """Check that the device can be reached.

    Raises:
        ConfigError: something is missing; the message names it.
    """
    if section.device == "ai_hub":
        AiHub(section.ai_hub_device)
    if section.device == "qairt_sdk":
        QairtSdk(section.board).require_device()


def run_on_device(
    section: Benchmarking, onnx_path: Path, folder: Path, images: np.ndarray, precision: str
) -> tuple[np.ndarray, DeviceProfile]:
    """Compile a graph for the device, time it there and embed images.

    Args:
        section: Which way, and which device.
        onnx_path: Graph with batch 1.
        folder: Receives what was compiled.
        images: Rescaled float32 images (N, H, W, C).
        precision: Of the graph; AI Hub computes a `float32` one in float16, the SDK quantizes it with the images.

    Returns:
        Embeddings (N, D) as the device gave them, and its times.

    Raises:
        ToolError: a job or a command failed; the message has its last words.
    """
    stem = f"{onnx_path.stem}_{section.device}"
    if section.device == "ai_hub":
        hub = AiHub(section.ai_hub_device)
        compiled = hub.compile(onnx_path, folder / f"{stem}.dlc")
        return hub.embed(compiled, onnx_path, images), hub.profile(compiled)
    sdk = QairtSdk(section.board, performance_mode=section.performance_mode)
    dlc = sdk.convert(onnx_path, folder / f"{stem}.dlc")
    if precision != "int8":
        dlc = sdk.quantize(dlc, folder / f"{stem}_w8a8.dlc", inspect_onnx(onnx_path).input_name, images)
    context = sdk.compile(
        dlc,
        folder / f"{stem}.bin",
        stem,
        vtcm_mb=section.vtcm_mb,
        graph_optimization=section.graph_optimization,
    )
    return sdk.run(context, onnx_path, images)


def device_metrics(profile: DeviceProfile, cosine: np.ndarray) -> dict[str, float]:
    """What was measured, named after the device; `cosine` (N,) compares its embeddings with ONNX Runtime's."""
    times = percentiles(profile.inference_ms)
    metrics = {
        "device/latency_ms": times["p50_ms"],
        "device/latency_p99_ms": times["p99_ms"],
        "device/parity_cosine_mean": float(cosine.mean()),
        "device/parity_cosine_min": float(cosine.min()),
    }
    if profile.peak_memory_bytes is not None:
        low, high = profile.peak_memory_bytes
        metrics |= {"device/peak_memory_low_mb": low / 1e6, "device/peak_memory_high_mb": high / 1e6}
    return metrics


def device_table(profile: DeviceProfile, metrics: dict[str, float]) -> Table:
    """The times and the agreement as rows."""
    times = percentiles(profile.inference_ms)
    units = ", ".join(f"{count} on {unit}" for unit, count in profile.units().items()) or "unknown"
    peak = profile.peak_memory_bytes
    memory = (
        "unknown" if peak is None else f"{peak[0] / 1e6:.1f} to {peak[1] / 1e6:.1f} MB, too wide for a limit"
    )
    rows = (
        ("device", profile.device),
        ("source", profile.source),
        ("one image, ms", f"p50 {times['p50_ms']:.3f}, p90 {times['p90_ms']:.3f}, p99 {times['p99_ms']:.3f}"),
        ("runs", times["runs"]),
        ("operators", units),
        ("peak memory", memory),
        ("cosine with ONNX Runtime", f"mean {metrics['device/parity_cosine_mean']:.5f}, "
         f"least {metrics['device/parity_cosine_min']:.5f}"),
    )  # fmt: skip
    return Table("Measured on the device", ("", "value"), rows)


def strays(profile: DeviceProfile, layers: Path) -> str | None:
    """Why the times are not the NPU's, in one sentence; None where no operator is known to have run elsewhere.

    Args:
        profile: What was measured.
        layers: What `layers_csv` wrote of it.
    """
    units = profile.units()
    if set(units) <= {"NPU"}:
        return None
    found = ", ".join(f"{count} on {unit}" for unit, count in units.items())
    return (
        f"{profile.device}: expected every operator on the NPU, found {found} ({layers} names them). The time is not "
        "the NPU's: replace the operators that it lacks"
    )


def layers_csv(folder: Path, profile: DeviceProfile) -> Path:
    """One line for each operator of the device."""
    rows = ((x.name, x.type, x.unit, x.microseconds, x.cycles) for x in profile.layers)
    return write_csv(folder / "device_layers.csv", ("name", "type", "unit", "microseconds", "cycles"), rows)
