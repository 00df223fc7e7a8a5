"""What a step costs with a teacher, cached or seeing every batch, against one without.

Student, losses and batch are those of `vireid/phase3_alone_synthetic.yaml` and of the two stages of
`vireid/phase3_distillation_synthetic.yaml`: 48 images at 128x64, of 8 people. The teacher is AGW with `plain_cnn`;
images are random and in memory, and the arms take turns. It is processor time that counts, which does not depend on
what else runs. The bar is 1.5 plain steps for a cached teacher in either stage. Two minutes.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import keras
import numpy as np
import yaml

from common.config import validate
from common.layers.rewrite import with_fused_batch_norm
from src.models._head import reid_network
from src.models._two_stems import MODALITIES, branches_of
from src.registries import MODELS
from src.schema import Training
from src.training.step import Teacher, losses_of, make_training_step
from src.training.teacher import cached_teacher, prototypes_of, seeing_teacher

RECIPES = Path(__file__).parents[2] / "config_file_examples/vireid"
SHAPE, P, K, IDENTITIES, IMAGES = (128, 64, 3), 8, 2, 300, 4800
VIEWS = {"visible": 2, "thermal": 1}
BAR = 1.5


def recipe(name: str) -> Any:
    """A recipe as it is written."""
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))


def step_of(losses: Any, length: int, teacher: Teacher | None = None) -> Any:
    """A compiled training step of the student, with a projection to the teacher's length."""
    raw = {
        "batch_size": sum(VIEWS.values()) * P * K,
        "epochs": 1,
        "optimizer": "AdamW",
        "images_per_identity": K,
        "losses": losses,
    }
    backbone = MODELS.get("plain_cnn")(SHAPE, width=0.5)
    projection = None if teacher is None else length
    student = with_fused_batch_norm(reid_network(backbone, IDENTITIES, bnneck=True, projection=projection))
    optimizer = keras.optimizers.AdamW()
    return make_training_step(
        student, optimizer, losses_of(validate(Training, raw)), by_modality=True, teacher=teacher
    )


def steps_of() -> Mapping[str, Any]:
    """A step of each arm, by its name."""
    agw = branches_of(MODELS.get("agw")(SHAPE, backbone="plain_cnn"))
    length = next(iter(agw.output.values())).shape[-1]
    random = np.random.default_rng(0)
    vectors = random.normal(size=(IMAGES, length)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    prototypes = prototypes_of(vectors, np.arange(IMAGES) % IDENTITIES, ["visible"] * IMAGES)
    stages = recipe("phase3_distillation_synthetic")["distillation"]["stages"]
    cached, seeing = cached_teacher(vectors, prototypes), seeing_teacher([agw], prototypes)
    return {
        "plain": step_of(recipe("phase3_alone_synthetic")["training"]["losses"], length),
        "cached teacher, easy pairs": step_of(stages["easy"]["losses"], length, cached),
        "cached teacher, hard pairs": step_of(stages["hard"]["losses"], length, cached),
        "seeing teacher, easy pairs": step_of(stages["easy"]["losses"], length, seeing),
    }


def main(arguments: list[str]) -> int:
    """Print processor milliseconds a step; returns 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of each arm (default: 20)")
    options = parser.parse_args(arguments)
    steps = steps_of()
    random = np.random.default_rng(0)
    images = {m: random.normal(size=(VIEWS[m] * P * K, *SHAPE)).astype(np.float32) for m in MODALITIES}
    labels = np.tile(np.repeat(np.arange(P, dtype=np.int32), K), sum(VIEWS.values()))
    index = random.integers(0, IMAGES, len(labels)).astype(np.int32)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.steps + 3):
        for name, step in steps.items():
            start = process_time()
            float(step(images, labels, *[index] * (name != "plain"))["loss"])
            if number >= 3:
                times[name].append(1000 * (process_time() - start))
    cost = {name: median(found) / median(times["plain"]) for name, found in times.items()}
    for name, found in times.items():
        print(f"{name:27} {median(found):7.1f} ms of processor time a step, {cost[name]:.2f} x plain")
    passed = all(cost[name] <= BAR for name in cost if name.startswith("cached"))
    print(f"{'yes' if passed else 'no'}: a step with a cached teacher costs at most {BAR} plain steps")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
