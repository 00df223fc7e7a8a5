"""Training throughput of `agw` with ResNet-50, against PyTorch's ResNet-50 of the same size and batch in the same run.

Ours is the product's step: two stems, non-local blocks, generalized-mean pool, neck, cross-entropy and weighted
regularized triplet loss, SGD; half of the images are visible, half thermal. PyTorch's is a plain ResNet-50 (last stride
1 too) with cross-entropy and SGD in `channels_last`. The arms take turns, images are random and in memory.
Afterwards TensorFlow's trace of our step says which operations its time goes to.

PyTorch is no dependency of the product: TORCH_PYTHON names the Python of an environment that has torch==2.13.0. Without
it, one is made in experiments_outputs/ (a large download).
About five minutes on 2 cores that do nothing else: beside other work PyTorch, whose threads wait for one another after
every operation, slows down far more than TensorFlow, and the ratio means nothing. `--short` measures little and holds
nothing to the bars.
"""

import argparse
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import keras
import numpy as np

from common.layers.rewrite import with_fused_batch_norm
from src.losses.cross_entropy import cross_entropy
from src.losses.weighted_regularized_triplet import weighted_regularized_triplet
from src.models._head import reid_network
from src.models.agw import agw
from src.training.step import make_training_step
from tests.benchmarks._operations import seconds_by_kind

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / "experiments_outputs" / "torch_environment"
TORCH = "torch==2.13.0"
BATCH, SHAPE, IDENTITIES = 16, (256, 128, 3), 395
BARS = {"float32": 1.0, "bfloat16": 0.8}
LOSSES = {
    "cross_entropy": (1.0, lambda outputs, labels: cross_entropy(outputs["logits"], labels)),
    "weighted_regularized_triplet": (
        1.0,
        lambda outputs, labels: weighted_regularized_triplet(outputs["features"], labels),
    ),
}
PAUSE = 0.3  # seconds, in which the threads of the other side fall asleep


def torch_python() -> str:
    """The Python that has PyTorch; made where none is named."""
    if named := os.environ.get("TORCH_PYTHON"):
        return named
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / ".complete").is_file():
        print(f"  TORCH_PYTHON is not set: installing {TORCH} into {ENVIRONMENT}", flush=True)
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", TORCH, "numpy"], check=True)
        (ENVIRONMENT / ".complete").touch()
    return str(python)


@contextmanager
def torch_arms() -> Iterator[Callable[[str, int], list[float]]]:
    """A function of precision and number of steps to the seconds of each, in a process of its own."""
    arguments = [
        torch_python(),
        "-m",
        "tests.benchmarks._torch_resnet50",
        *map(str, (BATCH, *SHAPE[:2], IDENTITIES)),
    ]
    with subprocess.Popen(
        arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:

        def answer() -> Any:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"error: {arguments[0]} ended; does it have {TORCH}? See above")
            return json.loads(line)

        def steps(precision: str, count: int) -> list[float]:
            process.stdin.write(f"{precision} {count}\n")
            return answer()

        facts = answer()
        print(f"  PyTorch {facts['torch']}, {facts['threads']} threads", flush=True)
        yield steps
        process.stdin.close()


def keras_step(precision: str) -> Callable[[], Any]:
    """Our training step on one batch."""
    network = reid_network(agw(SHAPE), IDENTITIES)
    trained = with_fused_batch_norm(network, "float32" if precision == "float32" else f"mixed_{precision}")
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    step = make_training_step(trained, optimizer, LOSSES)
    random = np.random.default_rng(0)
    images = {
        name: random.uniform(-1, 1, (BATCH // 2, *SHAPE)).astype("float32") for name in ("visible", "thermal")
    }
    labels = np.tile(np.arange(BATCH // 2) // 4, 2).astype("int32")
    return lambda: float(step(images, labels)["loss"])


def timed(step: Callable[[], Any], count: int) -> list[float]:
    """Seconds of each of some steps."""
    seconds = []
    for _ in range(count):
        start = perf_counter()
        step()
        seconds.append(perf_counter() - start)
    return seconds


def main() -> int:
    """Print images per second of every arm and our profile; return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description="Training throughput of agw against PyTorch.")
    parser.add_argument("--short", action="store_true", help="few steps, no bars")
    short = parser.parse_args().short
    warm_up, count, rounds = (1, 1, 2) if short else (3, 2, 7)
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(
        f"ResNet-50, batch {BATCH}, {SHAPE[0]}x{SHAPE[1]}, {cores} cores, load before {load:.1f}", flush=True
    )
    ours = {precision: keras_step(precision) for precision in BARS}
    seconds: dict[tuple[str, str], list[float]] = {}
    with torch_arms() as theirs:
        for precision, step in ours.items():
            timed(step, warm_up)
            theirs(precision, warm_up)
            print(f"  ready: {precision}", flush=True)
        for number in range(1, rounds + 1):
            for precision, step in ours.items():
                sleep(PAUSE)
                seconds.setdefault((precision, "ours"), []).append(median(timed(step, count)))
                sleep(PAUSE)
                seconds.setdefault((precision, "PyTorch"), []).append(median(theirs(precision, count)))
            speeds = ", ".join(
                f"{side} {precision} {BATCH / s[-1]:.1f}" for (precision, side), s in seconds.items()
            )
            print(f"  round {number}/{rounds}: {speeds} images/s", flush=True)

    missed = False
    print(f"{'precision':<10}{'agw, images/s':>15}{'PyTorch':>10}{'ratio':>8}{'bar':>6}")
    for precision, bar in BARS.items():
        own, other = seconds[precision, "ours"], seconds[precision, "PyTorch"]
        ratio = median(theirs / ours for ours, theirs in zip(own, other, strict=True))
        verdict = "  missed" if ratio < bar else ""
        speeds = f"{BATCH / median(own):>15.1f}{BATCH / median(other):>10.1f}"
        print(f"{precision:<10}{speeds}{ratio:>8.2f}{bar:>6.1f}{verdict}")
        missed |= ratio < bar
    for precision, step in ours.items():
        shares = seconds_by_kind(step)
        total = sum(shares.values())
        print(f"where our {precision} step goes, in % of the time of all operations:")
        print("  " + ", ".join(f"{kind} {100 * part / total:.0f}" for kind, part in shares.items()))
    return int(missed and not short)


if __name__ == "__main__":
    sys.exit(main())
