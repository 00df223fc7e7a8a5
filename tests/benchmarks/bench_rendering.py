"""Synthetic people per second, with JPEG encoding, on the cores of this machine.

Exits with 1 below the bar. The baseline of the same run is the JPEG encoding alone, which no renderer can avoid. Half a
minute.
"""

import sys
import tempfile
import time
from pathlib import Path

from datasets.synthetic import PRESETS, generate
from datasets.synthetic._generate import encode, render_shot, shots

BAR = 250.0  # images per second at 256 x 128 on two cores


def main() -> int:
    preset = PRESETS["bench"]
    some = [shot for number, shot in enumerate(shots(preset)) if number % 60 == 0]
    images = [render_shot(preset, 0, shot) for shot in some]  # also warms the caches up
    start = time.perf_counter()
    for shot in some:
        render_shot(preset, 0, shot)
    rendering = (time.perf_counter() - start) / len(some)
    start = time.perf_counter()
    for image in images:
        encode(image, 85)
    encoding = (time.perf_counter() - start) / len(some)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        root = generate("demo", Path(folder) / "demo")
        seconds = time.perf_counter() - start
        count = sum(1 for _ in root.rglob("*.jpg"))
    rate = count / seconds
    print(
        f"one core, 256 x 128: rendering {1e3 * rendering:.2f} ms, encoding {1e3 * encoding:.2f} ms an image"
    )
    print(
        f"all cores, `demo` with files: {count} images in {seconds:.1f} s = {rate:.0f} images/s, bar {BAR:.0f}"
    )
    return int(rate < BAR)


if __name__ == "__main__":
    sys.exit(main())
