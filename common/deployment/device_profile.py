from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerTime:
    """What one operator took.

    Attributes:
        name: Name of the operator on the device.
        type: Its type; empty where the profiler does not tell.
        unit: Where it ran: ``NPU``, ``GPU`` or ``CPU``.
        microseconds: Its time, where the profiler gives times.
        cycles: Its processor cycles, where the profiler gives cycles.
    """

    name: str
    type: str
    unit: str
    microseconds: float | None = None
    cycles: int | None = None


@dataclass(frozen=True)
class DeviceProfile:
    """Times that were measured on a device.

    Attributes:
        device: Name of the device.
        source: Where the measurement can be looked up: the address of a job, or a file.
        inference_ms: Time of each inference in milliseconds, at least one.
        peak_memory_bytes: Least and greatest peak of the process, None where unknown. Wide: not fit for a limit.
        layers: One row an operator, in the device's order; empty where the profiler gives none.
    """

    device: str
    source: str
    inference_ms: tuple[float, ...]
    peak_memory_bytes: tuple[int, int] | None
    layers: tuple[LayerTime, ...]

    def units(self) -> Mapping[str, int]:
        """Number of operators by the unit that they ran on."""
        return Counter(layer.unit for layer in self.layers)
