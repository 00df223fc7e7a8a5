"""Seconds until a wrong configuration is answered; the bar is 2 s. A few seconds."""

import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT, BAR, RUNS = Path(__file__).parents[2], 2.0, 5


def main() -> int:
    """Print the median of several starts of the program; 1 when it is above the bar."""
    command = [
        sys.executable,
        str(ROOT / "stm32ai_main.py"),
        "--config-name",
        "chain_tqeb_config",
        "training.epoch=1",
    ]
    seconds = []
    for _ in range(RUNS):
        start = perf_counter()
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds.append(perf_counter() - start)
        assert result.returncode == 2 and "did you mean 'epochs'" in result.stderr, result.stderr
    print(f"wrong configuration: {median(seconds):.2f} s, median of {RUNS} (bar: {BAR} s)")
    return int(median(seconds) > BAR)


if __name__ == "__main__":
    sys.exit(main())
