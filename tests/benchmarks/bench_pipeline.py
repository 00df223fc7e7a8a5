"""Images per second of the input pipeline alone, against what training osnet_a025 consumes in the same run.

P x K batches of 64 at 256x128 from JPEG files of several sizes, with and without the uint8 cache; also the check of
the files before a run, and the memory that streaming holds on to. About two minutes on 2 cores.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import cv2
import keras
import numpy as np
import tensorflow as tf

from common.layers.rewrite import with_fused_batch_norm
from src.augmentation.random_crop_pad import random_crop_pad
from src.augmentation.random_erasing import random_erasing
from src.augmentation.random_flip import random_flip
from src.data.checks import check_images
from src.data.pipeline import evaluation_batches, training_batches
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.samplers import steps_per_epoch
from src.losses.cross_entropy import cross_entropy
from src.losses.triplet import triplet
from src.models._head import reid_network
from src.models.osnet import osnet_a025
from src.training.step import make_training_step

SHAPE, P, K = (256, 128, 3), 16, 4
IMAGES, PER_IDENTITY, EPOCHS, ROUNDS = 1600, 20, 3, 3
TRAINING_STEPS, WARM_UP = 8, 3
BAR, MEMORY_BAR_MB = 5.0, 200
LOSSES = {
    "cross_entropy": (1.0, lambda outputs, labels: cross_entropy(outputs["logits"], labels)),
    "triplet": (1.0, lambda outputs, labels: triplet(outputs["features"], labels)),
}


def write_images(folder: Path, size: tuple[int, int]) -> list[Sample]:
    """Write smooth noise that compresses like a photograph: about 10 kB at 256x128."""
    folder.mkdir()
    random = np.random.default_rng(0)
    samples = []
    for number in range(IMAGES):
        coarse = random.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
        image = cv2.GaussianBlur(cv2.resize(coarse, size[::-1]), (5, 5), 2)
        path = folder / f"{number:05d}.jpg"
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        samples.append(Sample(path, number // PER_IDENTITY, 1))
    return samples


def training_speed() -> float:
    """Return images per second of the product's training step on osnet_a025."""
    network = with_fused_batch_norm(reid_network(osnet_a025(SHAPE), IMAGES // PER_IDENTITY, bnneck=True))
    step = make_training_step(network, keras.optimizers.Adam(1e-3), LOSSES)
    images = np.random.default_rng(0).uniform(-1, 1, (P * K, *SHAPE)).astype("float32")
    labels = np.repeat(np.arange(P), K).astype("int32")
    seconds = []
    for _ in range(WARM_UP + TRAINING_STEPS):
        start = perf_counter()
        float(step(images, labels)["loss"])
        seconds.append(perf_counter() - start)
    return P * K / median(seconds[WARM_UP:])


def stream_speed(make: Callable[[], tf.data.Dataset], images: int) -> float:
    """Return images per second of a whole pass, its start included."""
    speeds = []
    for _ in range(ROUNDS):
        start = perf_counter()
        for _batch in make():
            pass
        speeds.append(images / (perf_counter() - start))
    return median(speeds)


def resident_mb() -> float:
    """Return the memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> int:
    """Print images per second of every arm; return 1 when a bar is missed."""
    print(f"P x K = {P} x {K} at {SHAPE[0]}x{SHAPE[1]}, {len(os.sched_getaffinity(0))} cores", flush=True)
    need = BAR * training_speed()
    print(f"training osnet_a025: {need / BAR:.0f} images/s, so the bar is {need:.0f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        same, small, large = (
            write_images(Path(folder) / f"{size[0]}", size) for size in ((256, 128), (128, 64), (512, 256))
        )
        labels = np.array([sample.identity for sample in same])
        plain, sharp = Preprocessing(SHAPE), Preprocessing(SHAPE, interpolation="lanczos3")
        cache = Path(folder) / "cache"

        def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            for function in (random_flip(), random_crop_pad(), random_erasing()):
                images = function(images, seed)
            return images

        def batches(samples: list[Sample], preprocessing: Preprocessing, **more: object) -> tf.data.Dataset:
            return training_batches(samples, labels, preprocessing, P, K, seed=0, epochs=EPOCHS, **more)

        arms: dict[str, Callable[[], tf.data.Dataset]] = {
            "256x128 files": lambda: batches(same, plain),
            "128x64 files, bilinear": lambda: batches(small, plain),
            "128x64 files, lanczos3": lambda: batches(small, sharp),
            "512x256 files, bilinear": lambda: batches(large, plain),
            "256x128 files, flip, crop, erase": lambda: batches(same, plain, augment=augment),
            "cache in memory": lambda: batches(same, plain, cache="memory"),
            "cache in a folder": lambda: batches(same, plain, cache=cache),
            "cache in a folder, flip, crop, erase": lambda: batches(
                same, plain, cache=cache, augment=augment
            ),
        }
        drawn = EPOCHS * steps_per_epoch(IMAGES, P, K) * P * K
        missed = False
        print(f"{'arm':<40}{'images/s':>10}{'of the bar':>12}")
        for name, make in arms.items():
            speed = stream_speed(make, drawn)
            missed |= speed < need
            print(f"{name:<40}{speed:>10.0f}{speed / need:>12.1f}{'  missed' * (speed < need)}", flush=True)
        speed = stream_speed(lambda: evaluation_batches(same, plain, 64), IMAGES)
        print(f"{'evaluation, 256x128 files':<40}{speed:>10.0f}")
        start = perf_counter()
        check_images(same)
        print(f"{'check of the files':<40}{IMAGES / (perf_counter() - start):>10.0f}")

        before = resident_mb()
        stream_speed(arms["256x128 files"], drawn)
        grown = resident_mb() - before
        missed |= grown > MEMORY_BAR_MB
        streamed = ROUNDS * drawn * 4 * np.prod(SHAPE) / 1e6
        print(f"streaming {streamed:.0f} MB of batches keeps {grown:.0f} MB more (bar {MEMORY_BAR_MB} MB)")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
