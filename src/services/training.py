"""Training: from labelled images to `best_model.keras`, an embedding model without anything training-only in it."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

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
from src.data.pipeline import evaluation_batches
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.selection import Data, data_set_name, preprocessing_for, preprocessing_of
from src.models._build import build_backbone
from src.models._head import centers_of, embedding_model, log_variances_of, reid_network
from src.models._two_stems import (
    MODALITIES,
    has_two_stems,
    input_shapes,
    of_modality,
    start_from_single,
    table_of_copies,
)
from src.registries import check_monitors, monitors
from src.schema import Config, Training
from src.training import validation
from src.training.batches import Batches, batches_of
from src.training.callbacks import FollowLossSchedules, build_callback, make_callbacks
from src.training.checkpoint import Best, Progress, read_checkpoint, save_checkpoint
from src.training.distribution import Distribution, distribution_of, take_whole_gradients
from src.training.fit import fit
from src.training.frozen_layers import freeze, table_of
from src.training.step import (
    check_losses,
    losses_of,
    make_training_step,
    make_validation_step,
    network_input,
)

_LOGGER = logging.getLogger(__name__)
_VALIDATION_BATCH = 64
# Best and last checkpoint and one being written, each with two slots of the optimizer a weight; best model, its copy.
_CHECKPOINT_COPIES = 3 * 3 + 2
_FIXED_BY_CHECKPOINT = (
    "optimizer", "dropout", "frozen_layers", "bnneck", "mixed_precision", "loss_weighting",
)  # fmt: skip


def preflight(config: Config, data: Data, model: Model | None) -> None:
    """Check the identities for the batch, the channels of the input, and everything that is built by name.

    Raises:
        ConfigError: there are too few identities, or an argument has a value that Keras refuses.
    """
    training = _section(config)
    inputs = _inputs(config, model)
    shape = next(iter(inputs.values()))
    preprocessing = _preprocessing(config, model, shape)
    batches = batches_of(config, data, identity_labels(data.training)[0], inputs, preprocessing)
    distribution = distribution_of(training.distribution)
    _check_batch(training, batches, distribution)
    if config.dataset.cache not in ("none", "memory"):
        pixels = len(data.training) * max(int(np.prod(shape)) for shape in inputs.values())
        require_free_space(Path(config.dataset.cache), pixels, "the cached training images")
    _optimizer(training)
    sequence(config.data_augmentation, shape)
    check_losses(training)
    names = [term.name for term in training.terms]
    check_monitors(training.callbacks, monitors(names, data.validation_is_retrieval))
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


def _inputs(config: Config, model: Model | None) -> dict[str, tuple[int, int, int]]:
    """Shapes of the images that the network will take, as `input_shapes`."""
    if model is not None and _section(config).resume_training:
        _, settings = read_checkpoint(model.path)
        inputs = settings.get("inputs", {"": model.input_shape})
        return {name: tuple(shape) for name, shape in inputs.items()}
    if model is not None or config.model.model_name in ("agw", "custom_model"):
        return input_shapes(_backbone(config, model)[0])
    return {"": config.model.input_shape}


def _preprocessing(config: Config, model: Model | None, shape: tuple[int, int, int]) -> Preprocessing:
    """What the configuration states, else what came with the model; an interrupted training goes on as it began."""
    if model is None or (config.preprocessing is not None and not _section(config).resume_training):
        return preprocessing_of(config, shape)
    return preprocessing_for(config, model)


def _check_batch(training: Training, batches: Batches, distribution: Distribution) -> None:
    """Refuse batches that cannot be drawn, or not be shared by the replicas."""
    size = (
        f"training.batch_size {training.batch_size} with images_per_identity {training.images_per_identity}"
    )
    wanted, identities = batches.p, len(np.unique(batches.labels))
    if identities < wanted:
        raise ConfigError(
            f"{size} needs {wanted} identities, the training set has {identities}; set batch_size to "
            f"{identities * training.batch_size // wanted} or less"
        )
    batches.check()
    if batches.by_modality and distribution.is_distributed:
        raise ConfigError(
            f"training.distribution: {training.distribution} divides batches of one modality; with sampler cross_modal "
            "expected none"
        )
    if wanted % distribution.replicas:
        raise ConfigError(
            f"{size} is {wanted} identities, which {distribution.replicas} replicas (training.distribution: "
            f"{training.distribution}) cannot share evenly; set batch_size to a multiple of "
            f"{distribution.replicas * training.images_per_identity}"
        )


def run(config: Config, data: Data, model: Model | None, run: Run) -> Model:
    """Train and return the best embedding model."""
    training = _section(config)
    labels, identities = identity_labels(data.training)
    start = _start(config, training, data, model, len(identities))
    network = start.network
    inputs = input_shapes(network)
    shape = next(iter(inputs.values()))
    preprocessing = _preprocessing(config, model, shape)
    batches = batches_of(config, data, labels, inputs, preprocessing)
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
    done = _fit(config, start, batches, folder, run, distribution)
    if distribution.is_chief:
        _plot(done, run.folder)
    saved = Model(
        files={"keras": folder / "best_model.keras"},
        precision="float32",
        input_shape=shape,
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
    resumed = augmented.get_layer(settings["network"])
    training = _as_before(training, settings["training"])
    _check_heads(training, resumed, model.path)
    _LOGGER.info("resuming in epoch %d of %d, batch %d", done.epoch + 1, training.epochs, done.step + 1)
    return _Start(training, resumed, done, augmented.optimizer)


def _check_heads(training: Training, resumed: keras.Model, path: Path) -> None:
    """Raise ConfigError where a loss needs what the network of a checkpoint was not trained with."""
    missing = [
        name for term in training.terms for name in term.of_training_branch if name not in resumed.output
    ]
    if _needs_centers(training) and centers_of(resumed) is None:
        missing.append("centers")
    log_variances = log_variances_of(resumed)
    if log_variances is not None and log_variances.terms != len(training.terms):
        missing.append(f"learned weights of {len(training.terms)} losses")
    if missing:
        raise ConfigError(
            f"training.losses needs {', '.join(dict.fromkeys(missing))}, which {path} was trained without: resume with "
            "the losses of before"
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
        if name in training.model_fields_set and now[name] != before.get(name, now[name])
    ]
    if changed:
        _LOGGER.warning(
            "%s cannot change when a training is resumed: ignored, the original settings are kept",
            " and ".join(f"training.{name}" for name in changed),
        )
    stated = training.model_dump(mode="json", exclude_unset=True)
    fixed = {name: before[name] for name in _FIXED_BY_CHECKPOINT if name in before}
    return Training.model_validate({**stated, **fixed})


def _network(config: Config, training: Training, model: Model | None, num_identities: int) -> keras.Model:
    backbone, copies = _backbone(config, model)
    if copies:
        _LOGGER.info("%s starts from %s\n%s", backbone.name, config.model.model_path, copies)
    if isinstance(backbone.output, dict) and "logits" in backbone.output:
        backbone = embedding_model(backbone)
    return reid_network(
        backbone,
        num_identities,
        training.bnneck,
        training.dropout,
        _needs_centers(training),
        log_variances=len(training.terms) if training.loss_weighting == "uncertainty" else 0,
    )


def _backbone(config: Config, model: Model | None) -> tuple[keras.Model, str]:
    """The zoo's model, that of a file, or the zoo's `agw` or `idkl` with the weights of a file for one modality.

    The text says what was copied in the last case, and is empty in the others.
    """
    if model is None:
        return build_backbone(config.model), ""
    loaded = keras.saving.load_model(model.path, compile=False, safe_mode=True)
    if config.model.model_name is None:
        return loaded, ""
    if has_two_stems(loaded):
        raise ConfigError(
            f"model.model_path: {model.path} takes visible and thermal images already; leave model_name out"
        )
    backbone = build_backbone(config.model.model_copy(update={"input_shape": model.input_shape}))
    return backbone, table_of_copies(backbone, start_from_single(backbone, loaded))


def _needs_centers(training: Training) -> bool:
    return any(term.takes("centers") for term in training.terms)


def _fit(
    config: Config, start: _Start, batches: Batches, folder: Path, run: Run, distribution: Distribution
) -> Progress:
    training, network, data = start.training, start.network, batches.data
    policy = "float32" if training.mixed_precision == "none" else f"mixed_{training.mixed_precision}"
    trained = with_fused_batch_norm(network, policy)
    done = start.done.epoch * batches.steps + start.done.step
    stream = batches.stream(done, run.seed)
    if config.model.model_path is None and not config.model.pretrained:
        start_statistics(trained, network_input(trained, next(iter(stream))["images"]))
    with distribution.scope():
        losses = losses_of(training)
        if distribution.is_distributed:
            stream = batches.stream(done, run.seed, distribution.worker, distribution.workers)
            trained = with_synchronized_batch_norm(trained)
            trained.set_weights(distribution.from_chief(trained.get_weights()))
        optimizer = _optimizer(training)
        if start.optimizer is not None:
            optimizer = _restored(start.optimizer, trained)
        trained.compile(optimizer=optimizer, jit_compile=False)
        step = make_training_step(
            trained, optimizer, losses,
            compiled=not distribution.is_distributed,
            by_modality=batches.by_modality,
            head_rate=training.head_rate,
        )  # fmt: skip
    if distribution.is_distributed:
        take_whole_gradients(optimizer)
        step = distribution.over_replicas(step)
    validate = _validator(trained, losses, batches)
    preprocessing = next(iter(batches.preprocessing.values()))
    settings = {
        "network": network.name,
        "inputs": input_shapes(network),
        "identities": network.output["logits"].shape[-1],
        "embedding_dim": network.output["embedding"].shape[-1],
        "preprocessing": asdict(preprocessing),
        "training": training.model_dump(mode="json"),
    }
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
    )


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


def _validator(network: keras.Model, losses: Any, batches: Batches) -> Callable[[], dict[str, float]]:
    data, preprocessing = batches.data, next(iter(batches.preprocessing.values()))
    if data.validation_is_retrieval:
        query, gallery = _searched(data.validation, batches.by_modality)
        routes = validation.routes_of(network, preprocessing)

        def embed(samples: Sequence[Sample]) -> np.ndarray:
            return validation.embed_samples(routes, samples, _VALIDATION_BATCH)

        return lambda: validation.retrieval(embed, query, gallery)
    label_of = {
        sample.identity: int(label) for sample, label in zip(data.training, batches.labels, strict=True)
    }
    known = [sample for sample in data.validation if sample.identity in label_of]
    inputs = [
        _Part(name, part, make_validation_step(part, losses, modality=number))
        for number, (name, part) in enumerate(_parts(network, batches).items())
    ]
    return lambda: _classified(inputs, known, label_of, preprocessing)


def _parts(network: keras.Model, batches: Batches) -> dict[str, keras.Model]:
    """The network as the images of each modality see it."""
    if not batches.by_modality:
        return {"": network}
    return {name: of_modality(network, name) if has_two_stems(network) else network for name in MODALITIES}


def _searched(samples: Sequence[Sample], by_modality: bool) -> tuple[list[Sample], list[Sample]]:
    """Query and gallery of validation: thermal images search visible ones where both are trained on together."""
    thermal = [sample for sample in samples if sample.modality == "thermal"]
    visible = [sample for sample in samples if sample.modality == "visible"]
    return (
        (thermal, visible) if by_modality and thermal and visible else validation.split_query_gallery(samples)
    )


class _Part(NamedTuple):
    """A network as one of its inputs sees it."""

    modality: str
    network: keras.Model
    validate: Callable[[Any, Any], Mapping[str, Any]]


def _classified(
    parts: Sequence[_Part],
    samples: Sequence[Sample],
    label_of: Mapping[int | str, int],
    preprocessing: Preprocessing,
) -> dict[str, float]:
    """Scalars of validation steps, mean over all images."""
    sums: dict[str, float] = {}
    for modality, network, step in parts:
        own = [sample for sample in samples if modality in ("", sample.modality)]
        if not own:
            continue
        labels = np.array([label_of[sample.identity] for sample in own], dtype=np.int32)
        images = evaluation_batches(own, preprocessing.of_shape(network.input_shape[1:]), _VALIDATION_BATCH)
        for name, value in validation.classification(step, images, labels).items():
            sums[name] = sums.get(name, 0.0) + value * len(own) / len(samples)
    return sums


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
