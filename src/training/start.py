"""What a training starts from: a new network, that of a file, or a checkpoint."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras

from common.artifacts import Model, whole_file
from common.config import ConfigError
from common.runtime.keras_file import load_network
from src.data.preprocessing import Preprocessing
from src.data.selection import Data, preprocessing_for, preprocessing_of
from src.models._build import build_backbone
from src.models._head import centers_of, embedding_model, log_variances_of, reid_network
from src.models._two_stems import has_two_stems, input_shapes, start_from_single, table_of_copies
from src.schema import Config, Training
from src.training.checkpoint import Best, Progress, read_checkpoint
from src.training.frozen_layers import freeze, table_of

_LOGGER = logging.getLogger(__name__)
_FIXED_BY_CHECKPOINT = (
    "optimizer", "dropout", "frozen_layers", "bnneck", "mixed_precision", "loss_weighting",
)  # fmt: skip


@dataclass(frozen=True)
class Start:
    """What a training starts from.

    Attributes:
        training: The settings, those that a checkpoint fixes as it says.
        network: The training network.
        done: What is done already.
        optimizer: Of a checkpoint, with its state.
        is_random: Whether all weights are random, so that batch norms have no statistics yet.
        settings: What checkpoints store beside the training's own settings.
    """

    training: Training
    network: keras.Model
    done: Progress
    optimizer: keras.optimizers.Optimizer | None = None
    is_random: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def start_of(
    config: Config,
    data: Data,
    model: Model | None,
    centers: bool | None = None,
    projection: int | None = None,
) -> Start:
    """Return the network that `model` means with a head for the people of the training images, or a checkpoint's.

    New weights are those of `general.global_seed`, which seeds Keras anew.

    Args:
        config: With a section `training`.
        data: Its images.
        model: The model that the run starts with, a checkpoint where `training.resume_training` is set.
        centers: Whether a new network holds centers; where the losses take them, if not set.
        projection: Of a new network, see `reid_network`.

    Raises:
        ConfigError: a checkpoint is of another number of people, or has not what the losses need.
    """
    training, num_identities = _training(config), len({sample.identity for sample in data.training})
    if not training.resume_training:
        best = Best("val_mAP", "max") if data.validation_is_retrieval else Best("val_loss", "min")
        centers = _needs_centers(training) if centers is None else centers
        # A seed means the same new weights whatever was built before, so that runs of different services are paired.
        keras.utils.set_random_seed(config.general.global_seed)
        network = _network(config, training, model, num_identities, centers, projection)
        rows = freeze(network, training.frozen_layers)
        if training.frozen_layers is not None:
            _LOGGER.info("frozen layers\n%s", table_of(rows))
        is_random = config.model.model_path is None and not config.model.pretrained
        return Start(training, network, Progress(best), is_random=is_random)
    assert model is not None
    done, settings = read_checkpoint(model.path)
    if settings["identities"] != num_identities:
        raise ConfigError(
            f"{model.path} was trained on {settings['identities']} identities, the training set has {num_identities}: "
            "resume on the same images, or train further without resume_training"
        )
    augmented = load_network(model.path, with_optimizer=True)
    resumed = augmented.get_layer(settings["network"])
    training = _as_before(training, settings["training"])
    _check_heads(training, resumed, model.path)
    _LOGGER.info("resuming in epoch %d of %d, batch %d", done.epoch + 1, training.epochs, done.step + 1)
    return Start(training, resumed, done, augmented.optimizer)


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


def _training(config: Config) -> Training:
    assert config.training is not None
    return config.training


def inputs_of(config: Config, model: Model | None) -> dict[str, tuple[int, int, int]]:
    """Return the shapes of the images that the network will take, as `input_shapes`."""
    if model is not None and _training(config).resume_training:
        _, settings = read_checkpoint(model.path)
        inputs = settings.get("inputs", {"": model.input_shape})
        return {name: tuple(shape) for name, shape in inputs.items()}
    if model is not None or config.model.model_name in ("agw", "custom_model"):
        return input_shapes(_backbone(config, model)[0])
    return {"": config.model.input_shape}


def start_preprocessing(config: Config, model: Model | None, shape: tuple[int, int, int]) -> Preprocessing:
    """Return what the configuration states, else what came with the model; a resumed training goes on as it began."""
    if model is None or (config.preprocessing is not None and not _training(config).resume_training):
        return preprocessing_of(config, shape)
    return preprocessing_for(config, model)


def with_best(done: Progress, epochs: int, checkpoint: Path, folder: Path) -> Progress:
    """Bring the best models so far along, since no later epoch may be better; where they are lost, the next one is.

    Raises:
        ConfigError: they are lost, and no epoch is left to be the next one.
    """
    if done.best.value is None:
        return done
    files = [checkpoint.with_name(name) for name in ("best_augmented_model.keras", "best_model.keras")]
    if not all(file.is_file() for file in files):
        if done.epoch >= epochs:
            raise ConfigError(
                f"{checkpoint} is at the end of its {epochs} epochs, and {files[-1]} is not there: copy "
                f"{files[0].name} and {files[-1].name} beside it, or ask for more epochs"
            )
        _LOGGER.warning("%s is not there: the best epoch is chosen among the coming ones", files[-1])
        return replace(done, best=Best(done.best.monitor, done.best.mode))
    for file in files:
        with whole_file(folder / file.name) as copy:
            shutil.copyfile(file, copy)
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


def _network(
    config: Config,
    training: Training,
    model: Model | None,
    num_identities: int,
    centers: bool,
    projection: int | None,
) -> keras.Model:
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
        centers,
        log_variances=len(training.terms) if training.loss_weighting == "uncertainty" else 0,
        projection=projection,
    )


def _backbone(config: Config, model: Model | None) -> tuple[keras.Model, str]:
    """The zoo's model, that of a file, or the zoo's `agw` or `idkl` with the weights of a file for one modality.

    The text says what was copied in the last case, and is empty in the others.
    """
    if model is None:
        return build_backbone(config.model), ""
    loaded = load_network(model.path)
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
