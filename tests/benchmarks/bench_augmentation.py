"""Milliseconds that each augmentation takes for a batch of 64 images of 256x128, against one pass over the pixels.

Every image is changed (`change_rate: 1`) and two threads work, as in a training on two cores. Under a minute.
"""

import sys
from statistics import median
from time import perf_counter

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import track
from rich.table import Table

from src.augmentation._augment import Augment
from src.registries import AUGMENTATIONS

ROUNDS, BATCH, SHAPE = 7, 64, (256, 128, 3)
BAR = 120  # passes over the pixels; the slowest is augmix, which works on three copies of each image
REQUIRED = {
    "random_blur": {"filter_size": (1, 4)},
    "random_brightness": {"factor": 0.2},
    "random_contrast": {"factor": 0.4},
    "random_gamma": {"gamma": (0.5, 2)},
    "random_gaussian_noise": {"stddev": (0.02, 0.1)},
    "random_hsv": {"hue_delta": 0.1, "saturation_delta": 0.2, "value_delta": 0.2},
    "random_hue": {"delta": 0.1},
    "random_jpeg_quality": {"jpeg_quality": (50, 100)},
    "random_posterize": {"bits": (3, 8)},
    "random_rotation": {"factor": 0.03},
    "random_saturation": {"delta": 0.3},
    "random_sharpness": {"factor": 2},
    "random_shear": {"factor": 0.03},
    "random_shear_x": {"factor": 0.03},
    "random_shear_y": {"factor": 0.03},
    "random_translation": {"width_factor": 0.1, "height_factor": 0.1},
    "random_value": {"delta": 0.3},
    "random_zoom": {"width_factor": 0.2},
}


def seconds(function: Augment) -> float:
    """Return the median time of a batch, after two batches that trace and warm up."""
    images = tf.random.stateless_uniform((BATCH, *SHAPE), (1, 2), 0, 255)
    compiled = tf.function(function)
    times = []
    for step in range(2 + ROUNDS):
        start = perf_counter()
        np.asarray(compiled(images, tf.constant((0, step))))
        times.append(perf_counter() - start)
    return median(times[2:])


def main() -> int:
    """Print the table; returns 1 when an augmentation misses the bar."""
    one_pass = seconds(lambda images, seed: tf.clip_by_value(images * 1.1 - 3.0, 0.0, 255.0))
    rows = []
    for name in track(list(AUGMENTATIONS), "Measuring"):
        rate = {"change_rate": 1} if "change_rate" in AUGMENTATIONS.find(name).parameters else {}
        rows.append((seconds(AUGMENTATIONS.build(name, {**REQUIRED.get(name, {}), **rate})), name))
    table = Table("augmentation", "ms a batch", "images/s", f"passes (one is {1e3 * one_pass:.1f} ms)", "")
    for time, name in sorted(rows):
        passes = time / one_pass
        verdict = "ok" if passes <= BAR else "MISSED"
        table.add_row(name, f"{1e3 * time:.1f}", f"{BATCH / time:.0f}", f"{passes:.1f}", verdict)
    Console(width=110).print(table)
    return int(any(time > BAR * one_pass for time, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
