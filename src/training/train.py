"""One training: from its start to its last epoch, with checkpoints and curves."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from common import plotting
from common.artifacts import Model
from common.layers.rewrite import with_fused_batch_norm, with_synchronized_batch_norm
from common.layers.start_statistics import start_statistics
from common.run import Run, require_free_space
from src.data.labels import identity_labels
from src.data.preprocessing import Preprocessing
from src.data.selection import Data, data_set_name, reader_arguments
from src.models._head import embedding_model
from src.models._two_stems import input_shapes
from src.schema import Config
from src.training.batches import Batches, batches_of
from src.training.callbacks import FollowLossSchedules, make_callbacks
from src.training.checkpoint import Progress, save_checkpoint
from src.training.distribution import Distribution, distribution_of, take_whole_gradients
from src.training.fit import fit
from src.training.optimizer import optimizer_of
from src.training.start import Start
from src.training.step import Teacher, losses_of, make_training_step, network_input
from src.training.validator import validator_of

_LOGGER = logging.getLogger(__name__)
# Best and last checkpoint and one being written, each with two slots of the optimizer a weight; best model, its copy.
_CHECKPOINT_COPIES = 3 * 3 + 2


def train(
    config: Config,
    data: Data,
    start: Start,
    preprocessing: Preprocessing,
    folder: Path,
    run: Run,
    teacher_of: Callable[[keras.Model], Teacher] | None = None,
) -> Progress:
    """Train a network; the folder then has `best_model.keras` and the checkpoints.

    Args:
        config: With a section `training`.
        data: Its images.
        start: Where to start.
        preprocessing: Of one of the network's inputs.
        folder: Where the models go.
        run: Where logs and curves go.
        teacher_of: Of a distillation; makes the teacher of the network that is trained, a copy of the start's.

    Returns:
        The progress at the end.
    """
    network = start.network
    labels, identities = identity_labels(data.training)
    batches = batches_of(config, data, labels, input_shapes(network), preprocessing)
    _LOGGER.info(
        "training %s on %d images of %d identities, validating on %d images of %s identities, %d trainable weights",
        network.name, len(data.training), len(identities), len(data.validation),
        "other" if data.validation_is_retrieval else "the same",
        sum(int(np.prod(v.shape)) for v in network.trainable_variables),
    )  # fmt: skip
    require_free_space(
        folder, _CHECKPOINT_COPIES * 4 * network.count_params(), "the checkpoints of the training"
    )
    distribution = distribution_of(start.training.distribution)
    done = _fit(config, start, batches, folder, run, distribution, teacher_of)
    if distribution.is_chief:
        _plot(done, run.folder)
    return done


def trained_model(
    config: Config,
    data: Data,
    network: keras.Model,
    preprocessing: Preprocessing,
    folder: Path,
    made_by: str = "training",
) -> Model:
    """Return what `train` has left in a folder.

    Args:
        config: The configuration.
        data: Its images.
        network: The training network.
        preprocessing: Of one of its inputs.
        folder: Where the models are.
        made_by: The service.
    """
    return Model(
        files={"keras": folder / "best_model.keras"},
        precision="float32",
        input_shape=next(iter(input_shapes(network).values())),
        embedding_dim=network.output["embedding"].shape[-1],
        preprocessing=asdict(preprocessing),
        trained_on={
            "dataset_name": data_set_name(config),
            "dataset_arguments": reader_arguments(config),
            "identities": len({sample.identity for sample in data.training}),
            "images": len(data.training),
            "modalities": sorted({sample.modality for sample in data.training}),
            "model_name": network.name,
        },
        made_by=made_by,
    )


def _fit(
    config: Config,
    start: Start,
    batches: Batches,
    folder: Path,
    run: Run,
    distribution: Distribution,
    teacher_of: Callable[[keras.Model], Teacher] | None,
) -> Progress:
    """Compile the network on its devices, and run the loop with everything that listens to it."""
    training, network, data = start.training, start.network, batches.data
    policy = "float32" if training.mixed_precision == "none" else f"mixed_{training.mixed_precision}"
    trained = with_fused_batch_norm(network, policy)
    done = start.done.epoch * batches.steps + start.done.step
    stream = batches.stream(done, run.seed)
    if start.is_random:
        start_statistics(trained, network_input(trained, next(iter(stream))["images"]))
    with distribution.scope():
        losses = losses_of(training)
        if distribution.is_distributed:
            stream = batches.stream(done, run.seed, distribution.worker, distribution.workers)
            trained = with_synchronized_batch_norm(trained)
            trained.set_weights(distribution.from_chief(trained.get_weights()))
        optimizer = optimizer_of(training)
        if start.optimizer is not None:
            optimizer = _restored(start.optimizer, trained)
        trained.compile(optimizer=optimizer, jit_compile=False)
        teacher = None if teacher_of is None else teacher_of(trained)
        step = make_training_step(
            trained, optimizer, losses,
            compiled=not distribution.is_distributed,
            by_modality=batches.by_modality,
            head_rate=training.head_rate,
            teacher=teacher,
        )  # fmt: skip
    if distribution.is_distributed:
        take_whole_gradients(optimizer)
        step = distribution.over_replicas(step)
    validate = validator_of(trained, losses, batches)
    preprocessing = next(iter(batches.preprocessing.values()))
    settings = _settings_of(start, preprocessing)
    logs = run.make(config.general.logs_dir)
    scheduled = any(term.schedule is not None for term in training.terms)
    more = [FollowLossSchedules(training.terms, losses)] if scheduled else []
    return fit(
        step=step,
        batches=stream,
        epochs=training.epochs,
        steps_per_epoch=batches.steps,
        validate=lambda: distribution.average(validate()),
        callbacks=make_callbacks(trained, training.callbacks, logs, more),
        done=start.done,
        save=_saver(network, trained, optimizer, preprocessing, settings, folder)
        if distribution.is_chief
        else lambda done, is_best: None,
        names_of=lambda index: [str(data.training[i].path) for i in index],
        folder=run.folder,
        seed=run.seed + distribution.worker,
        any_worker=distribution.any_worker,
        takes=("images", "labels") if teacher is None else ("images", "labels", "index"),
    )


def _settings_of(start: Start, preprocessing: Preprocessing) -> dict[str, Any]:
    """What a training must have in common with one that it is resumed from."""
    network = start.network
    return {
        "network": network.name,
        "inputs": input_shapes(network),
        "identities": network.output["logits"].shape[-1],
        "embedding_dim": network.output["embedding"].shape[-1],
        "preprocessing": asdict(preprocessing),
        "training": start.training.model_dump(mode="json"),
        **start.settings,
    }


def _restored(saved: keras.optimizers.Optimizer, network: keras.Model) -> keras.optimizers.Optimizer:
    """A copy of an optimizer with its state, for the variables of another copy of its network."""
    optimizer = type(saved).from_config(saved.get_config())
    optimizer.build(network.trainable_variables)
    for variable, value in zip(optimizer.variables, saved.variables, strict=True):
        variable.assign(value)
    return optimizer


def _saver(
    network: keras.Model,
    trained: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    preprocessing: Preprocessing,
    settings: Mapping[str, Any],
    folder: Path,
) -> Callable[[Progress, bool], None]:
    """Save `last_augmented_model.keras` each epoch, and the two best models when the epoch is the best so far.

    The saved files have Keras's own batch norm and float32 layers, so that any Keras opens them. The augmented
    ones take pixels in [0, 255], keep the training head, and carry the optimizer's state.
    """
    pixels, rescaled = {}, {}
    for name, shape in input_shapes(network).items():
        prefix = f"{name}_" if name else ""
        pixels[name] = keras.Input(shape, name=name or "pixels")
        own = preprocessing.of_shape(shape)
        rescaling = keras.layers.Rescaling(own.scale, own.offset, name=f"{prefix}rescaling")
        rescaled[name] = rescaling(pixels[name])
    outputs = network(rescaled.get("", rescaled))
    augmented = keras.Model(pixels.get("", pixels), outputs, name=f"augmented_{network.name}")
    augmented.compile(optimizer=optimizer, jit_compile=False)
    embedding = embedding_model(network)

    def save(done: Progress, is_best: bool) -> None:
        network.set_weights(trained.get_weights())
        if is_best:
            save_checkpoint(augmented, folder / "best_augmented_model.keras", done, settings)
            save_checkpoint(embedding, folder / "best_model.keras")
        save_checkpoint(augmented, folder / "last_augmented_model.keras", done, settings)

    return save


_NEITHER = ("learning_rate", "images_per_second", "processor_seconds")


def _plot(done: Progress, folder: Path) -> None:
    """Losses in one picture, scores between 0 and 1 in another."""
    history, best = done.history, done.best
    epochs = list(range(1, len(history["loss"]) + 1))
    losses = [name for name in history if name.endswith("loss")]
    scores = [name for name in history if name not in (*losses, *_NEITHER)]
    title = f"best epoch {best.epoch + 1} by {best.monitor} {best.value:.4g}"
    if best.epoch < 0:
        title = f"no epoch improves {best.monitor} {best.value:.4g}, where it started"
    for file, names, label in (("Training_curves", losses, "loss"), ("Training_scores", scores, "score")):
        curves = {name: (epochs, history[name]) for name in names}
        plotting.line_curves(folder / f"{file}.png", curves, xlabel="epoch", ylabel=label, title=title)
