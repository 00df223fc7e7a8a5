"""Quantization-aware training: distilled from the float network, validated beside it every epoch, the best kept."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from time import perf_counter
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from common import tracking
from common.artifacts import Table
from common.config import ConfigError
from common.quantization.branches import branches
from common.quantization.grids import settle
from common.quantization.qat import fine_tune, prepare_qat
from common.run import progress
from src.data.labels import identity_labels
from src.data.pipeline import training_batches
from src.data.sample import Sample
from src.data.samplers import check_identities, steps_per_epoch
from src.registries import LOSSES
from src.schema import QuantizationAwareTraining
from src.services._embed import l2_normalize
from src.services._int8.branch import Branch, Embedding, embed_samples
from src.services._int8.numeric_gate import gaps
from src.training import validation
from src.training.teacher import prototype_logits, prototypes_of

_LOGGER = logging.getLogger(__name__)
_IMAGES_PER_IDENTITY = 4
_WARM_UP = 3  # steps that trace or fill caches
_EQUAL_MAP = 0.005  # what the validation images of a few hundred people cannot tell apart


@dataclass(frozen=True)
class Trained:
    """A quantization-aware model and how it came about.

    Attributes:
        model: With the weights of the best epoch.
        table: A row an epoch; empty where there is nothing to validate on.
        metrics: `qat/images_per_second`, and the best epoch's scores.
        note: What the best epoch was chosen by.
    """

    model: tf_keras.Model
    table: Table
    metrics: dict[str, float]
    note: str


def float_layers_of(network: keras.Model, patterns: Sequence[str]) -> list[str]:
    """Names of the layers that the patterns of `quantization.qat.float_layers` mean.

    Raises:
        ValueError: a pattern means none.
    """
    names = [layer.name for layer in network._flatten_layers(include_self=False)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"float_layers: '{pattern}' is no layer of {network.name}, which has {_some(names)}"
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:6])} ... {', '.join(names[-6:])}"


def _batch_of(section: QuantizationAwareTraining, images: int, inputs: int) -> tuple[int, int]:
    """P and K of the batches of each input: without identities P images, each one of its own."""
    k = _IMAGES_PER_IDENTITY if section.task_weight else 1
    return min(section.batch_size, images) // k // inputs, k


def check_batches(
    section: QuantizationAwareTraining, inputs: Sequence[str], training: Sequence[Sample]
) -> None:
    """Check that the training images of each input, by its name, fill a batch.

    Raises:
        ConfigError: too few images, too few people for `task_weight`, or a batch that has none for each input.
    """
    p, k = _batch_of(section, len(training), len(inputs))
    if p < 1:
        raise ConfigError(
            f"quantization.qat: batches of {section.batch_size} of {len(training)} images have none for each of "
            f"{len(inputs)} inputs: expected at least {k * len(inputs)}"
        )
    for name in inputs:
        own = [sample for sample in training if name in ("", sample.modality)]
        if section.task_weight:
            check_identities(identity_labels(own)[0], p)
        elif len(own) < p:
            raise ConfigError(
                f"quantization.qat: a batch has {p} {name} images, and there are {len(own)} to train on: set "
                f"quantization.qat.batch_size to at most {len(own) * len(inputs)}, or give more images of this modality"
            )


def train_int8(
    section: QuantizationAwareTraining,
    network: keras.Model,
    branches_: Sequence[Branch],
    training: Sequence[Sample],
    held_out: Sequence[Sample],
    seed: int,
) -> Trained:
    """Fine-tune a network with fake quantization.

    Args:
        section: `quantization.qat`.
        network: The float network, which teaches.
        branches_: Its inputs.
        training: Images to train on; their identities count only with `task_weight`.
        held_out: Images to validate on, by retrieval where people are known and seen more than once, else by the cosine
            to float embeddings.
        seed: Of the order of the images.
    """
    model = prepare_qat(network, _together(branches_), float_layers_of(network, section.float_layers))
    p, k = _batch_of(section, len(training), len(branches_))
    own = [[sample for sample in training if branch.takes(sample)] for branch in branches_]
    epoch_steps = min(steps_per_epoch(len(part), p, k) for part in own)
    steps = min(section.epochs * epoch_steps, section.max_steps or section.epochs * epoch_steps)
    watch = _Watch(model, branches_, held_out, epoch_steps, steps)
    watch.look(0)
    with progress("quantization-aware training", steps, "steps") as advance:

        def on_step(step: int, values: dict[str, float]) -> None:
            watch.tick()
            advance(1, f"cosine to float {values['cosine']:.4f}")
            if step % epoch_steps == 0 or step == steps:
                tracking.log_metrics({f"qat/{name}": value for name, value in values.items()}, step)
                watch.look(step)

        fine_tune(
            model,
            network,
            _stream(section, branches_, own, p, k, seed),
            steps,
            section.learning_rate,
            section.distillation_weight,
            extra_loss=_task_loss(section, branches_, training) if section.task_weight else None,
            on_step=on_step,
        )
    return watch.finish(p * k * len(branches_))


def _together(branches_: Sequence[Branch]) -> Callable[[], Iterator[Any]]:
    """Calibration batches as the network takes them; the shorter modality starts again until the longer one ends."""
    if len(branches_) == 1:
        return branches_[0].calibrate
    longest = max(branches_, key=lambda branch: len(branch.calibration))

    def batches() -> Iterator[dict[str, np.ndarray]]:
        streams = [
            branch.calibrate() if branch is longest else _again_and_again(branch) for branch in branches_
        ]
        for parts in zip(*streams, strict=False):
            yield {branch.name: part for branch, part in zip(branches_, parts, strict=True)}

    return batches


def _again_and_again(branch: Branch) -> Iterator[np.ndarray]:
    while True:
        yield from branch.calibrate()


def _stream(
    section: QuantizationAwareTraining,
    branches_: Sequence[Branch],
    own: Sequence[Sequence[Sample]],
    p: int,
    k: int,
    seed: int,
) -> Iterator[tuple[Any, Any]]:
    """Batches of (images, labels); of several inputs, images are a dict and labels follow the order of its keys."""
    everyone = identity_labels([sample for part in own for sample in part])[0] if k > 1 else None
    streams, start = [], 0
    for branch, part in zip(branches_, own, strict=True):
        # Distillation needs no labels: with each image as an identity of its own, P x 1 is a plain shuffle.
        labels = np.arange(len(part)) if everyone is None else everyone[start : start + len(part)]
        start += len(part)
        streams.append(
            training_batches(part, labels, branch.preprocessing, p, k, seed, epochs=section.epochs)
        )
    for steps in zip(*streams, strict=False):
        images = {branch.name: step["images"] for branch, step in zip(branches_, steps, strict=True)}
        labels = tf.concat([step["labels"] for step in steps], axis=0)
        yield (images if len(branches_) > 1 else steps[0]["images"]), labels


def _task_loss(
    section: QuantizationAwareTraining, branches_: Sequence[Branch], training: Sequence[Sample]
) -> Callable[[Any, Any], Any]:
    """Triplet loss, and cross-entropy of a cosine classifier that has the mean float embedding of each person."""
    functions = {branch.name: validation.embedder(branch.network) for branch in branches_}
    embeddings = l2_normalize(embed_samples(branches_, functions, training, "prototypes of people"))
    modalities = [sample.modality for sample in training]
    prototypes = tf.constant(prototypes_of(embeddings, identity_labels(training)[0], modalities))  # (C, D)
    triplet, cross_entropy = LOSSES.get("triplet"), LOSSES.get("cross_entropy")

    def loss(embeddings: Any, labels: Any) -> Any:
        logits = prototype_logits(tf.math.l2_normalize(embeddings, axis=-1), prototypes)
        return section.task_weight * (triplet(embeddings, labels) + cross_entropy(logits, labels))

    return loss


class _Watch:
    """Validation of the INT8 model beside the float one, and the best weights so far."""

    def __init__(
        self,
        model: tf_keras.Model,
        branches_: Sequence[Branch],
        held_out: Sequence[Sample],
        epoch_steps: int,
        steps: int,
    ) -> None:
        self._model, self._branches, self._epoch_steps, self._steps = model, branches_, epoch_steps, steps
        self._query, self._gallery = validation.split_query_gallery(held_out)
        self._float = self._embed({b.name: validation.embedder(b.network) for b in branches_}, "float")
        self._float_scores = self._scores(self._float)
        models = branches(model)
        self._functions = {b.name: validation.embedder(models[b.name]) for b in branches_}
        self._rows: list[dict[str, float]] = []
        self._kept: tuple[dict[str, float], list[np.ndarray]] | None = None
        self._seconds: list[float] = []
        self._last = perf_counter()

    def tick(self) -> None:
        """Time a step."""
        now = perf_counter()
        self._seconds.append(now - self._last)
        self._last = now

    def look(self, step: int) -> None:
        """Validate after a step."""
        if not self._query:
            return
        settle(self._model)
        embeddings = self._embed(self._functions, "INT8")
        cosine = 1 - gaps(embeddings, self._float)
        row = {
            "step": float(step),
            **self._scores(embeddings),
            "cosine_mean": float(cosine.mean()),
            "cosine_1_percent": float(np.percentile(cosine, 1)),
        }
        self._rows.append(row)
        tracking.log_metrics({f"qat/val_{name}": value for name, value in row.items()}, step)
        _LOGGER.info(
            "quantization-aware training, step %d of %d: %s", step, self._steps,
            ", ".join(f"{name} {value:.4f}" for name, value in row.items() if name != "step"),
        )  # fmt: skip
        if self._kept is None or self._is_better(row, self._kept[0]):
            self._kept = row, self._model.get_weights()
        self._last = perf_counter()

    def _is_better(self, row: dict[str, float], kept: dict[str, float]) -> bool:
        """Whether to keep a later step: of those about as good as the best one, the nearest to the float model."""
        if "mAP" in row:
            least = max(row["mAP"] for row in self._rows) - _EQUAL_MAP
            if (row["mAP"] >= least) != (kept["mAP"] >= least):
                return row["mAP"] >= least
        return row["cosine_mean"] >= kept["cosine_mean"]

    def finish(self, batch: int) -> Trained:
        """Put the best weights back and tell what happened."""
        timed = self._seconds[_WARM_UP:] or self._seconds
        metrics = {"qat/images_per_second": batch / float(np.median(timed))}
        columns = list(self._rows[0]) if self._rows else []
        note = "The last step of quantization-aware training is kept: there are no validation images."
        rows = []
        if self._kept is not None:
            chosen, weights = self._kept
            self._model.set_weights(weights)
            metrics |= {f"qat/val_{name}": value for name, value in chosen.items()}
            metrics |= {f"qat/val_float_{name}": value for name, value in self._float_scores.items()}
            note = (
                f"Step {chosen['step']:.0f} of quantization-aware training is kept, the best by {self._criterion} on "
                f"{len(self._query) + len(self._gallery)} validation images; step 0 is calibrated only."
            )
            rows = [
                (
                    "float",
                    *self._cells(self._float_scores | {"cosine_mean": 1.0, "cosine_1_percent": 1.0}),
                    "",
                ),
                *(
                    (f"{row['step']:.0f}", *self._cells(row), "kept" if row is chosen else "")
                    for row in self._rows
                ),
            ]
        table = Table(
            "Float and quantization-aware model on validation images",
            (*columns, "") if columns else (),
            tuple(rows),
        )
        return Trained(self._model, table, metrics, note)

    @property
    def _criterion(self) -> str:
        if "mAP" not in self._float_scores:
            return "cosine to float"
        return f"mAP, and among those within {100 * _EQUAL_MAP:.1f} points of it by cosine to float,"

    def _embed(self, functions: dict[str, Embedding], what: str) -> np.ndarray:
        return embed_samples(self._branches, functions, [*self._query, *self._gallery], f"{what}: validation")

    def _scores(self, embeddings: np.ndarray) -> dict[str, float]:
        """Rank-1 and mAP in [0, 1]; nothing where nobody is known or no query has a match."""
        if not all(sample.is_person for sample in self._query):
            return {}
        count = len(self._query)
        try:
            found = validation.score(embeddings[:count], embeddings[count:], self._query, self._gallery)
        except ValueError:
            return {}
        return {"rank1": float(found.cmc[0]), "mAP": float(found.mAP)}

    def _cells(self, row: dict[str, float]) -> list[str]:
        percent = [f"{100 * row[name]:.1f}" for name in ("rank1", "mAP") if name in row]
        return [*percent, *(f"{row[name]:.4f}" for name in ("cosine_mean", "cosine_1_percent"))]
