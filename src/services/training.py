"""Training: from labelled images to `best_model.keras`, an embedding model without anything training-only in it."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from common import plotting
from common.artifacts import Model
from common.config import ConfigError
from common.layers.rewrite import with_fused_batch_norm, with_synchronized_batch_norm
from common.layers.start_statistics import start_statistics
from common.run import Run, require_free_space
from src.augmentation._sequence import sequence
from src.data.labels import identity_labels
from src.data.pipeline import evaluation_batches, training_batches
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.samplers import steps_per_epoch
from src.data.selection import Data, data_set_name, preprocessing_of
from src.models._build import build_backbone
from src.models._head import embedding_model, reid_network
from src.registries import check_monitors, monitors
from src.schema import Config, Training
from src.training import validation
from src.training.callbacks import build_callback, make_callbacks
from src.training.checkpoint import Best, Progress, read_checkpoint, save_checkpoint
from src.training.distribution import Distribution, distribution_of, take_whole_gradients
from src.training.fit import fit
from src.training.frozen_layers import freeze, table_of
from src.training.step import losses_of, make_training_step, make_validation_step

_LOGGER = logging.getLogger(__name__)
_VALIDATION_BATCH = 64
# Best and last checkpoint and one being written, each with two slots of the optimizer a weight; best model, its copy.
_CHECKPOINT_COPIES = 3 * 3 + 2
_FIXED_BY_CHECKPOINT = ("optimizer", "dropout", "frozen_layers", "bnneck", "mixed_precision")


def preflight(config: Config, data: Data, model: Model | None) -> None:
    """Check the identities for the batch, the channels of the input, and everything that is built by name.

    Raises:
        ConfigError: there are too few identities, or an argument has a value that Keras refuses.
    """
    training = _section(config)
    identities = len({sample.identity for sample in data.training})
    wanted = training.batch_size // training.images_per_identity
    if identities < wanted:
        raise ConfigError(
            f"training.batch_size {training.batch_size} with images_per_identity {training.images_per_identity} needs "
            f"{wanted} identities, the training set has {identities}; set batch_size to "
            f"{identities * training.images_per_identity} or less"
        )
    distribution = distribution_of(training.distribution)
    if wanted % distribution.replicas:
        raise ConfigError(
            f"training.batch_size {training.batch_size} with images_per_identity {training.images_per_identity} is "
            f"{wanted} identities, which {distribution.replicas} replicas (training.distribution: "
            f"{training.distribution}) cannot share evenly; set batch_size to a multiple of "
            f"{distribution.replicas * training.images_per_identity}"
        )
    preprocessing = preprocessing_of(config, model.input_shape if model else config.model.input_shape)
    if config.model.model_name == "custom_model":
        build_backbone(config.model)
    if config.dataset.cache not in ("none", "memory"):
        pixels = len(data.training) * int(np.prod(preprocessing.input_shape))
        require_free_space(Path(config.dataset.cache), pixels, "the cached training images")
    _optimizer(training)
    sequence(config.data_augmentation, preprocessing.input_shape)
    check_monitors(training.callbacks, monitors(losses_of(training), data.validation_is_retrieval))
    for name, arguments in training.callbacks.items():
        _built(f"callback '{name}'", build_callback, name, arguments or {})
    images = [(sample.path.name, sample.identity, sample.camera) for sample in data.training]
    start = read_checkpoint(model.path) if model and training.resume_training else None
    section = config.model
    settings = (
        training,
        config.general.global_seed,
        section.model_name,
        section.arguments,
        preprocessing,
        start,
    )
    distribution.require_same("training images", repr(images))
    distribution.require_same("settings of the training", repr((*settings, config.data_augmentation)))


def run(config: Config, data: Data, model: Model | None, run: Run) -> Model:
    """Train and return the best embedding model."""
    training = _section(config)
    labels, identities = identity_labels(data.training)
    start = _start(config, training, data, model, len(identities))
    network = start.network
    preprocessing = preprocessing_of(config, network.input_shape[1:])
    _LOGGER.info(
        "training %s on %d images of %d identities, validating on %d images of %s identities, %d trainable weights",
        network.name, len(data.training), len(identities), len(data.validation),
        "other" if data.validation_is_retrieval else "the same",
        sum(int(np.prod(v.shape)) for v in network.trainable_variables),
    )  # fmt: skip
    folder = run.make(config.general.saved_models_dir)
    require_free_space(
        folder, _CHECKPOINT_COPIES * 4 * network.count_params(), "the checkpoints of the training"
    )
    trained_on = {
        "dataset_name": data_set_name(config),
        "identities": len(identities),
        "images": len(data.training),
        "model_name": network.name,
    }
    if model is not None and training.resume_training:
        start = replace(start, done=_with_best(start.done, model.path, folder))
    distribution = distribution_of(training.distribution)
    done = _fit(config, start, data, labels, preprocessing, folder, run, distribution)
    if distribution.is_chief:
        _plot(done, run.folder)
    saved = Model(
        files={"keras": folder / "best_model.keras"},
        precision="float32",
        input_shape=network.input_shape[1:],
        embedding_dim=network.output["embedding"].shape[-1],
        preprocessing=asdict(preprocessing),
        trained_on=trained_on,
    )
    if distribution.is_chief:
        saved.save()
    if distribution.is_chief and distribution.workers > 1:
        _LOGGER.info(
            "the other workers end here; TensorFlow may report that they stopped sending heartbeats: that is expected"
        )
    return saved


def _section(config: Config) -> Training:
    assert config.training is not None
    return config.training


@dataclass(frozen=True)
class _Start:
    """What a training starts from: a new network, or a checkpoint."""

    training: Training
    network: keras.Model
    done: Progress
    optimizer: keras.optimizers.Optimizer | None = None


def _start(
    config: Config, training: Training, data: Data, model: Model | None, num_identities: int
) -> _Start:
    if not training.resume_training:
        best = Best("val_mAP", "max") if data.validation_is_retrieval else Best("val_loss", "min")
        network = _network(config, training, model, num_identities)
        rows = freeze(network, training.frozen_layers)
        if training.frozen_layers is not None:
            _LOGGER.info("frozen layers\n%s", table_of(rows))
        return _Start(training, network, Progress(best))
    assert model is not None
    done, settings = read_checkpoint(model.path)
    if settings["identities"] != num_identities:
        raise ConfigError(
            f"{model.path} was trained on {settings['identities']} identities, the training set has {num_identities}: "
            "resume on the same images, or train further without resume_training"
        )
    augmented = keras.saving.load_model(model.path, safe_mode=True)
    _LOGGER.info("resuming in epoch %d of %d, batch %d", done.epoch + 1, training.epochs, done.step + 1)
    return _Start(
        _as_before(training, settings["training"]),
        augmented.get_layer(settings["network"]),
        done,
        augmented.optimizer,
    )


def _with_best(done: Progress, checkpoint: Path, folder: Path) -> Progress:
    """Bring the best models so far along, since no later epoch may be better; where they are lost, the next one is."""
    if done.best.value is None:
        return done
    files = [checkpoint.with_name(name) for name in ("best_augmented_model.keras", "best_model.keras")]
    if not all(file.is_file() for file in files):
        _LOGGER.warning("%s is not there: the best epoch is chosen among the coming ones", files[-1])
        return replace(done, best=Best(done.best.monitor, done.best.mode))
    for file in files:
        temporary = folder / f".{file.stem}.tmp{file.suffix}"
        shutil.copyfile(file, temporary)
        temporary.replace(folder / file.name)
    return done


def _as_before(training: Training, before: Mapping[str, Any]) -> Training:
    """The settings that a checkpoint fixes, with a warning where the configuration states others."""
    now = training.model_dump(mode="json")
    changed = [
        name
        for name in _FIXED_BY_CHECKPOINT
        if name in training.model_fields_set and now[name] != before[name]
    ]
    if changed:
        _LOGGER.warning(
            "%s cannot change when a training is resumed: ignored, the original settings are kept",
            " and ".join(f"training.{name}" for name in changed),
        )
    return Training.model_validate({**now, **{name: before[name] for name in _FIXED_BY_CHECKPOINT}})


def _network(config: Config, training: Training, model: Model | None, num_identities: int) -> keras.Model:
    if model is not None:
        backbone = keras.saving.load_model(model.path, compile=False, safe_mode=True)
        if isinstance(backbone.output, dict):
            backbone = embedding_model(backbone)
    else:
        backbone = build_backbone(config.model)
    return reid_network(backbone, num_identities, training.bnneck, training.dropout)


def _fit(
    config: Config,
    start: _Start,
    data: Data,
    labels: np.ndarray,
    preprocessing: Preprocessing,
    folder: Path,
    run: Run,
    distribution: Distribution,
) -> Progress:
    training, network = start.training, start.network
    policy = "float32" if training.mixed_precision == "none" else f"mixed_{training.mixed_precision}"
    trained = with_fused_batch_norm(network, policy)
    p, k = training.batch_size // training.images_per_identity, training.images_per_identity
    steps = training.steps_per_epoch or steps_per_epoch(len(data.training), p, k)
    stream = partial(_stream, config, data, labels, preprocessing, training, steps, start.done, run.seed)
    batches = stream()
    if config.model.model_name is not None and not config.model.pretrained:
        start_statistics(trained, next(iter(batches))["images"])
    losses = losses_of(training)
    with distribution.scope():
        if distribution.is_distributed:
            batches = stream(distribution.worker, distribution.workers)
            trained = with_synchronized_batch_norm(trained)
            trained.set_weights(distribution.from_chief(trained.get_weights()))
        optimizer = _optimizer(training)
        if start.optimizer is not None:
            optimizer = _restored(start.optimizer, trained)
        trained.compile(optimizer=optimizer, jit_compile=False)
        step = make_training_step(trained, optimizer, losses, compiled=not distribution.is_distributed)
    if distribution.is_distributed:
        take_whole_gradients(optimizer)
        step = distribution.over_replicas(step)
    validate = _validator(data, trained, losses, labels, preprocessing)
    settings = {
        "network": network.name,
        "identities": network.output["logits"].shape[-1],
        "embedding_dim": network.output["embedding"].shape[-1],
        "preprocessing": asdict(preprocessing),
        "training": training.model_dump(mode="json"),
    }
    return fit(
        step=step,
        batches=batches,
        epochs=training.epochs,
        steps_per_epoch=steps,
        validate=lambda: distribution.average(validate()),
        callbacks=make_callbacks(trained, training.callbacks, run.make(config.general.logs_dir)),
        done=start.done,
        save=_saver(network, trained, optimizer, preprocessing, settings, folder)
        if distribution.is_chief
        else lambda done, is_best: None,
        names_of=lambda index: [str(data.training[i].path) for i in index],
        folder=run.folder,
        seed=run.seed + distribution.worker,
        any_worker=distribution.any_worker,
    )


def _stream(
    config: Config,
    data: Data,
    labels: np.ndarray,
    preprocessing: Preprocessing,
    training: Training,
    steps: int,
    done: Progress,
    seed: int,
    part: int = 0,
    parts: int = 1,
) -> Any:
    """All batches that are not done yet, or one of several parts of each.

    The stream has its own epochs, which `training.steps_per_epoch` may cut.
    """
    p, k = training.batch_size // training.images_per_identity, training.images_per_identity
    natural = steps_per_epoch(len(data.training), p, k)
    first, skipped = divmod(done.epoch * steps + done.step, natural)
    batches = training_batches(
        data.training, labels, preprocessing, p, k, seed,
        epoch=first,
        epochs=max(1, -(-training.epochs * steps // natural) - first),
        cache=None if config.dataset.cache == "none" else config.dataset.cache,
        augment=sequence(config.data_augmentation),
        part=part,
        parts=parts,
    )  # fmt: skip
    return batches.skip(skipped)


def _restored(saved: keras.optimizers.Optimizer, network: keras.Model) -> keras.optimizers.Optimizer:
    """A copy of an optimizer with its state, for the variables of another copy of its network."""
    optimizer = type(saved).from_config(saved.get_config())
    optimizer.build(network.trainable_variables)
    for variable, value in zip(optimizer.variables, saved.variables, strict=True):
        variable.assign(value)
    return optimizer


def _optimizer(training: Training) -> keras.optimizers.Optimizer:
    name, arguments = training.optimizer.name, training.optimizer.arguments
    optimizer = _built(f"optimizer '{name}'", lambda: getattr(keras.optimizers, name)(**arguments))
    if training.mixed_precision == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _built(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a constructor whose arguments come from the configuration, and name it when it refuses one."""
    try:
        return function(*arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what} cannot be made: {error}") from error


def _validator(
    data: Data, network: keras.Model, losses: Any, labels: np.ndarray, preprocessing: Preprocessing
) -> Callable[[], dict[str, float]]:
    if data.validation_is_retrieval:
        query, gallery = validation.split_query_gallery(data.validation)
        embed_images = validation.embedder(network)

        def embed(samples: Sequence[Sample]) -> np.ndarray:
            batches = evaluation_batches(samples, preprocessing, _VALIDATION_BATCH)
            return np.concatenate([embed_images(images) for images in batches])

        return lambda: validation.retrieval(embed, query, gallery)
    step = make_validation_step(network, losses)
    label_of = {sample.identity: int(label) for sample, label in zip(data.training, labels, strict=True)}
    known = [sample for sample in data.validation if sample.identity in label_of]
    known_labels = np.array([label_of[sample.identity] for sample in known], dtype=np.int32)
    return lambda: validation.classification(
        step, evaluation_batches(known, preprocessing, _VALIDATION_BATCH), known_labels
    )


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
    pixels = keras.Input(preprocessing.input_shape, name="pixels")
    rescaled = keras.layers.Rescaling(preprocessing.scale, preprocessing.offset, name="rescaling")(pixels)
    augmented = keras.Model(pixels, network(rescaled), name=f"augmented_{network.name}")
    augmented.compile(optimizer=optimizer, jit_compile=False)
    embedding = embedding_model(network)

    def save(done: Progress, is_best: bool) -> None:
        network.set_weights(trained.get_weights())
        if is_best:
            save_checkpoint(augmented, folder / "best_augmented_model.keras", done, settings)
            save_checkpoint(embedding, folder / "best_model.keras")
        save_checkpoint(augmented, folder / "last_augmented_model.keras", done, settings)

    return save


def _plot(done: Progress, folder: Path) -> None:
    """Losses in one picture, scores between 0 and 1 in another."""
    history, best = done.history, done.best
    epochs = list(range(1, len(history["loss"]) + 1))
    losses = [name for name in history if name.endswith("loss")]
    scores = [name for name in history if name not in (*losses, "learning_rate", "images_per_second")]
    title = f"best epoch {best.epoch + 1} by {best.monitor} {best.value:.4g}"
    for file, names, label in (("Training_curves", losses, "loss"), ("Training_scores", scores, "score")):
        curves = {name: (epochs, history[name]) for name in names}
        plotting.line_curves(folder / f"{file}.png", curves, xlabel="epoch", ylabel=label, title=title)
