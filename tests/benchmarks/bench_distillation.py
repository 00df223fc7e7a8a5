"""What a step costs with a teacher, cached or seeing every batch, against one without.

The student is that of `vireid/phase3_distillation_synthetic.yaml` in batches of 64 at 128x64, the teacher AGW with
`plain_cnn`; images are random and in memory, and the arms take turns. It is processor time that counts, which does not
depend on what else runs. The bar is 1.5 plain steps for a cached teacher. About a minute.
"""

import argparse
import sys
from statistics import median
from time import process_time
from typing import Any

import keras
import numpy as np

from common.config import validate
from common.layers.rewrite import with_fused_batch_norm
from src.models._head import reid_network
from src.models._two_stems import MODALITIES, branches_of
from src.registries import MODELS
from src.schema import Training
from src.training.step import Teacher, losses_of, make_training_step
from src.training.teacher import cached_teacher, prototypes_of, seeing_teacher

SHAPE, P, K, IDENTITIES, IMAGES = (128, 64, 3), 16, 2, 300, 7200
BAR = 1.5
PLAIN = ({"name": "cross_entropy"}, {"name": "weighted_regularized_triplet"})
TAUGHT = ("logit_distillation", "relational_distillation", "focal_ranking")


def step_of(teacher: Teacher | None) -> Any:
    """A compiled training step of the student."""
    losses = [*PLAIN, *({"name": name} for name in TAUGHT if teacher is not None)]
    raw = {
        "batch_size": 2 * P * K,
        "epochs": 1,
        "optimizer": "AdamW",
        "images_per_identity": K,
        "losses": losses,
    }
    backbone = MODELS.get("plain_cnn")(SHAPE, width=0.5)
    student = with_fused_batch_norm(reid_network(backbone, IDENTITIES, bnneck=True))
    optimizer = keras.optimizers.AdamW()
    return make_training_step(
        student, optimizer, losses_of(validate(Training, raw)), by_modality=True, teacher=teacher
    )


def main(arguments: list[str]) -> int:
    """Print processor milliseconds a step; returns 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of each arm (default: 20)")
    options = parser.parse_args(arguments)
    random = np.random.default_rng(0)
    vectors = random.normal(size=(IMAGES, 192)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    prototypes = prototypes_of(vectors, np.arange(IMAGES) % IDENTITIES, ["visible"] * IMAGES)
    agw = branches_of(MODELS.get("agw")(SHAPE, backbone="plain_cnn"))
    steps = {
        "plain": (step_of(None), 0),
        "cached teacher": (step_of(cached_teacher(vectors, prototypes)), 1),
        "seeing teacher": (step_of(seeing_teacher([agw], prototypes)), 1),
    }
    images = {name: random.normal(size=(P * K, *SHAPE)).astype(np.float32) for name in MODALITIES}
    labels = np.tile(np.repeat(np.arange(P, dtype=np.int32), K), 2)
    index = random.integers(0, IMAGES, 2 * P * K).astype(np.int32)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.steps + 3):
        for name, (step, vectors_given) in steps.items():
            start = process_time()
            float(step(images, labels, *[index] * vectors_given)["loss"])
            if number >= 3:
                times[name].append(1000 * (process_time() - start))
    plain = median(times["plain"])
    for name, found in times.items():
        print(
            f"{name:15} {median(found):7.1f} ms of processor time a step, {median(found) / plain:.2f} x plain"
        )
    passed = median(times["cached teacher"]) <= BAR * plain
    print(f"{'yes' if passed else 'no'}: a step with a cached teacher costs at most {BAR} plain steps")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
