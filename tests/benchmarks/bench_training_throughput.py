"""Training throughput of osnet_a100 with batch norm on the fused kernel, against Keras's own in the same run.

The step is the product's: cross-entropy and triplet loss, gradients, Adam; images are random and in memory.
The arms take turns, so that a change of the machine's load meets all of them. About four minutes on 2 cores.
"""

import os
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import keras
import numpy as np

from common.layers.rewrite import with_fused_batch_norm
from src.losses.cross_entropy import cross_entropy
from src.losses.triplet import triplet
from src.models._head import reid_network
from src.models.osnet import osnet_a100
from src.training.step import make_training_step

BATCH, SHAPE, IDENTITIES = 32, (256, 128, 3), 300
WARM_UP, STEPS, ROUNDS = 4, 3, 7
BASELINE = "Keras, float32"
ARMS: dict[str, tuple[Callable[[keras.Model], keras.Model], float]] = {  # how the network is rewritten, bar
    BASELINE: (lambda network: network, 1.0),
    "fused, float32": (with_fused_batch_norm, 1.6),
    "fused, mixed_bfloat16": (lambda network: with_fused_batch_norm(network, "mixed_bfloat16"), 2.0),
}
LOSSES = {
    "cross_entropy": (1.0, lambda outputs, labels: cross_entropy(outputs["logits"], labels)),
    "triplet": (1.0, lambda outputs, labels: triplet(outputs["features"], labels)),
}


def prepare(rewrite: Callable[[keras.Model], keras.Model]) -> Callable[[], float]:
    """Return a function that takes one training step and returns its seconds, traced and warmed up."""
    network = rewrite(reid_network(osnet_a100(SHAPE), IDENTITIES, bnneck=True))
    step = make_training_step(network, keras.optimizers.Adam(1e-3), LOSSES)
    images = np.random.default_rng(0).uniform(-1, 1, (BATCH, *SHAPE)).astype("float32")
    labels = np.repeat(np.arange(BATCH // 4), 4).astype("int32")

    def timed() -> float:
        start = perf_counter()
        float(step(images, labels)["loss"])
        return perf_counter() - start

    for _ in range(WARM_UP):
        timed()
    return timed


def main() -> int:
    """Print images per second of every arm; return 1 when a bar is missed."""
    print(f"osnet_a100, batch {BATCH}, {SHAPE[0]}x{SHAPE[1]}, {len(os.sched_getaffinity(0))} cores")
    steps = {}
    for name, (rewrite, _) in ARMS.items():
        start = perf_counter()
        steps[name] = prepare(rewrite)
        print(f"  ready: {name} ({perf_counter() - start:.0f} s)", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    for number in range(1, ROUNDS + 1):
        for name, timed in steps.items():
            seconds[name].append(median(timed() for _ in range(STEPS)))
        speeds = ", ".join(f"{BATCH / seconds[name][-1]:.1f}" for name in ARMS)
        print(f"  round {number}/{ROUNDS}: {speeds} images/s", flush=True)

    missed = False
    print(f"{'batch norm, precision':<24}{'images/s':>10}{'ratio':>8}{'bar':>6}")
    for name, (_, bar) in ARMS.items():
        ratio = median(own / arm for own, arm in zip(seconds[BASELINE], seconds[name], strict=True))
        verdict = "  missed" if ratio < bar else ""
        print(f"{name:<24}{BATCH / median(seconds[name]):>10.1f}{ratio:>8.2f}{bar:>6.1f}{verdict}")
        missed |= ratio < bar
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
