"""Time and peak memory of one call (Linux)."""

import gc
import re
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any


def measured(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return the result, seconds, and the peak of resident memory above what was held before, in GB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak until now
    before = _resident("VmRSS")
    start = perf_counter()
    result = call()
    seconds = perf_counter() - start
    return result, seconds, (_resident("VmHWM") - before) / 1e6


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1])
