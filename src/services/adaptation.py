"""Adaptation: from a model and images that nobody labelled to a model that knows their cameras.

Each round clusters the images and learns from the clusters as if they were people (Dai et al., "Cluster Contrast for
Unsupervised Person Re-Identification", ACCV 2022); those of two modalities are clustered by themselves and matched (Wu
and Ye, "Unsupervised Visible-Infrared Person Re-Identification via Progressive Graph Matching and Alternate Learning",
CVPR 2023). Where clusters cannot be learned from, the model is left as it was when they last could.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np

from common.artifacts import Model, Report
from common.config import ConfigError
from common.layers.start_statistics import start_statistics
from common.run import Run, progress, require_free_space
from common.runtime.keras_file import load_network
from src.adaptation.guards import NothingToLearnError, check_images
from src.adaptation.pseudo_labels import PseudoLabels
from src.data.pipeline import View, load_images
from src.data.preprocessing import Preprocessing
from src.data.selection import Data, data_set_name, preprocessing_for, preprocessing_of
from src.models._build import build_backbone
from src.models._head import embedding_model, reid_network
from src.models._two_stems import MODALITIES, has_two_stems, input_shapes
from src.registries import build_schedule
from src.schema import Adaptation, Config
from src.services._adaptation.labels import (
    clustering_of,
    given_by,
    labels_file,
    labels_of,
    try_clustering,
    write_labels,
)
from src.services._adaptation.last_round import Done, read_round, restore_round, save_round
from src.services._adaptation.learner import Learner, learn, learner_of, memories_of
from src.services._adaptation.report import described, log_round, report_of
from src.services._adaptation.target import Target, target_of
from src.services._adaptation.target_images import Side, batches_of, features_of, sides_of
from src.training.batches import views_of
from src.training.checkpoint import save_checkpoint
from src.training.optimizer import optimizer_of

_LOGGER = logging.getLogger(__name__)
_MODEL = "adapted_model.keras"
_FIRST_IMAGES = 32
# Of the weights: two networks and two slots of the optimizer in a file and in one being written, the model and a copy.
_COPIES = 2 * 4 + 2


@dataclass(frozen=True)
class _Work:
    """What all rounds share.

    Attributes:
        section: The configuration's section.
        target: The images.
        sides: Their pixels, by modality.
        views: Parts of a batch.
        learner: The network, changed in place.
        model_path: Of the adapted model.
        folder: Of everything else.
        seed: Of draws and augmentation.
    """

    section: Adaptation
    target: Target
    sides: Mapping[str, Side]
    views: Sequence[View]
    learner: Learner
    model_path: Path
    folder: Path
    seed: int


def preflight(config: Config, data: Data, model: Model | None) -> None:
    """Check the images of the target, and everything that is built by name.

    Raises:
        ConfigError: a modality or images are missing, tracks contradict themselves, a batch cannot be drawn, an
            argument has a value that is refused, or a file to go on from or to take labels from does not fit.
    """
    section = _section(config)
    target = target_of(data.target, section.constraints)
    try:
        check_images(target.modalities.tolist(), target.names, least=2)
        if model is not None or config.services[0] == "adaptation":
            network = _network(config, model)
            check_images(target.modalities.tolist(), _expected(network, target), least=2)
            _views(config, target, _by_modality(network, _preprocessing(config, model, network)))
    except NothingToLearnError as error:
        raise ConfigError(f"adaptation: {error}") from error
    optimizer_of(section)
    try_clustering(section)
    if section.pseudo_labels is not None:
        given_by(section.pseudo_labels, target, section.cross_modal_weight)
    if section.resume_from is not None:
        read_round(section.resume_from, target.samples)


def run(config: Config, data: Data, model: Model | None, run: Run) -> tuple[Report, Model]:
    """Adapt a model, or a new network, to the target; the result knows the model that it was made from.

    Raises:
        ConfigError: nothing can be learned and there is no model to fall back on.
    """
    section = _section(config)
    target = target_of(data.target, section.constraints)
    network = _network(config, model)
    preprocessing = _preprocessing(config, model, network)
    folder = run.make(config.general.saved_models_dir)
    require_free_space(folder, _COPIES * 4 * network.count_params(), "the files of the adaptation")
    work = _Work(
        section,
        target,
        sides_of(target.samples, _by_modality(network, preprocessing), config.dataset.cache),
        _views(config, target, _by_modality(network, preprocessing)),
        learner_of(network, preprocessing, section, target.names),
        folder / _MODEL,
        run.make("adaptation"),
        run.seed,
    )
    # Pretrained weights come with the statistics of millions of images; only the neck is new then.
    new = "bnneck" if config.model.pretrained else ""
    done = _start(work, new_statistics=new if model is None else None)
    _LOGGER.info(
        "adapting %s to %s, %d by tracks and moments", network.name,
        " and ".join(f"{len(side.places)} {name} images" for name, side in work.sides.items()),
        len(np.unique(target.groups)),
    )  # fmt: skip
    done, failure = _rounds(work, done)
    sentences = [_sentence(section, target, done, data_set_name(config))]
    if failure is not None:
        if model is None and done.rounds == 0:
            raise ConfigError(f"adaptation: {failure}")
        sentences.append(f"Round {done.rounds + 1} failed, and the model is as it was before: {failure}.")
        _LOGGER.warning(sentences[-1])
    title = f"{config.general.project_name}: adaptation to {data_set_name(config)}"
    report = report_of(work.folder, title, sentences, target, done, section.rounds)
    return report, _saved(work, model, preprocessing, done, data_set_name(config))


def _section(config: Config) -> Adaptation:
    assert config.adaptation is not None
    return config.adaptation


def _network(config: Config, model: Model | None) -> keras.Model:
    """The network of a file, or a new one of the zoo with a neck, as images to embeddings."""
    if model is None:
        keras.utils.set_random_seed(config.general.global_seed)  # as in a training, whatever was built before
        return embedding_model(reid_network(build_backbone(config.model), num_identities=1, bnneck=True))
    network = load_network(model.path)
    if isinstance(network.output, dict) and not has_two_stems(network):
        return embedding_model(network)
    return network


def _preprocessing(config: Config, model: Model | None, network: keras.Model) -> Preprocessing:
    if model is not None:
        return preprocessing_for(config, model)
    return preprocessing_of(config, next(iter(input_shapes(network).values())))


def _by_modality(network: keras.Model, preprocessing: Preprocessing) -> dict[str, Preprocessing]:
    shapes = input_shapes(network)
    return {name: preprocessing.of_shape(shapes.get("") or shapes[name]) for name in MODALITIES}


def _expected(network: keras.Model, target: Target) -> tuple[str, ...]:
    """Modalities that a network needs; with one input, those that are there."""
    return MODALITIES if has_two_stems(network) else target.names


def _views(config: Config, target: Target, preprocessing: Mapping[str, Preprocessing]) -> tuple[View, ...]:
    """The parts of a batch.

    Raises:
        ConfigError: an augmentation refuses its arguments, or a batch cannot be divided.
    """
    section = _section(config)
    views = views_of(config, {name: preprocessing[name] for name in target.names})
    each = len(views) * section.images_per_identity
    if section.batch_size % each or section.batch_size < 2 * each:
        raise ConfigError(
            f"adaptation.batch_size must be a multiple of images_per_identity x {len(views)} views "
            f"({', '.join(view.modality for view in views)}) with 2 clusters or more, received {section.batch_size} "
            f"and {section.images_per_identity}: expected a multiple of {each} from {2 * each} on"
        )
    return views


def _start(work: _Work, new_statistics: str | None) -> Done:
    """Bring the learner to where it goes on.

    Args:
        work: Changed in place.
        new_statistics: What the names of the batch norms without statistics have in them; None where all have theirs.
    """
    path, learner = work.section.resume_from, work.learner
    if path is not None:
        done = read_round(path, work.target.samples)
        restore_round(path, learner)
        _LOGGER.info("going on after round %d of %d", done.rounds, work.section.rounds)
        return done
    if new_statistics is not None:
        images = {
            name: load_images(side.samples[:_FIRST_IMAGES], side.preprocessing)
            for name, side in work.sides.items()
        }
        given = images if has_two_stems(learner.trained) else np.concatenate(list(images.values()))
        start_statistics(learner.trained, given, new_statistics)
        learner.joined.set_weights(learner.trained.get_weights())
    return Done()


def _rounds(work: _Work, done: Done) -> tuple[Done, NothingToLearnError | None]:
    """Cluster and learn until all rounds are done, or until a guard stops them.

    Then the weights are again those with which clusters were last found.
    """
    learner = work.learner
    kept = done, learner.joined.get_weights()
    try:
        check_images(work.target.modalities.tolist(), _expected(learner.network, work.target), least=2)
        while done.rounds < work.section.rounds:
            features = features_of(work.sides, learner.routes, f"{_title(work, done)}: features")
            labels = labels_of(work.section, work.target, features)
            kept = done, learner.joined.get_weights()
            done = _learned(work, done, features, labels)
            write_labels(labels_file(work.folder, done.rounds), work.target, labels)
            save_round(work.folder / "last_round.npz", learner, done, work.target.samples)
            save_checkpoint(learner.network, work.model_path)
    except NothingToLearnError as error:
        done, weights = kept
        learner.go_back(weights)
        return done, error
    return done, None


def _title(work: _Work, done: Done) -> str:
    return f"round {done.rounds + 1}/{work.section.rounds}"


def _learned(work: _Work, done: Done, features: np.ndarray, labels: PseudoLabels) -> Done:
    """Take the steps of a round.

    Raises:
        NothingToLearnError: the loss or a weight is not finite.
    """
    section, target, learner = work.section, work.target, work.learner
    if (rate := section.learning_rate_schedule) is not None:
        learner.optimizer.learning_rate = build_schedule(rate.name, rate.arguments)(done.rounds)
    memories = memories_of(features, labels.own, target.modalities, target.cameras, section)
    steps = section.steps_per_round
    batches = batches_of(
        work.sides, work.views, labels.own, section.batch_size, section.images_per_identity, steps,
        work.seed, done.rounds * steps,
    )  # fmt: skip
    with progress(f"{_title(work, done)}: learning", steps, "batches") as advance:
        losses = learn(learner, batches, labels, memories, advance)
    learner.finish_round()
    are_numbers = all(np.isfinite(weight).all() for weight in learner.joined.get_weights())
    if not are_numbers or not np.isfinite(losses["loss"]):
        raise NothingToLearnError(
            f"the loss became {losses['loss']} or a weight is no number in round {done.rounds + 1}: lower the "
            "learning rate, or use mixed_precision: none"
        )
    rows = described(target, labels, done)
    log_round(rows, losses)
    return Done(done.rounds + 1, labels, (*done.history, *rows))


def _sentence(section: Adaptation, target: Target, done: Done, name: str) -> str:
    how = "labels of a file" if section.pseudo_labels is not None else clustering_of(section)[1]
    return (
        f"{done.rounds} rounds of {section.steps_per_round} batches on {len(target.samples)} images of {name} without "
        f"their labels: {how}. The model of the last round is kept. `across`: images whose person has a cluster in the "
        "other modality. `agreement`: adjusted Rand index with the round before."
    )


def _saved(work: _Work, model: Model | None, preprocessing: Preprocessing, done: Done, name: str) -> Model:
    network, before = work.learner.network, {} if model is None else model.trained_on
    save_checkpoint(network, work.model_path)
    saved = Model(
        files={"keras": work.model_path},
        precision="float32",
        input_shape=next(iter(input_shapes(network).values())),
        embedding_dim=work.learner.joined.output.shape[-1],
        preprocessing=asdict(preprocessing),
        trained_on={
            "model_name": network.name,
            **before,
            "adapted_to": name,
            "adapted_images": len(work.target.samples),
            "adaptation_rounds": done.rounds,
        },
        source=model,
        made_by="adaptation",
    )
    saved.save()
    return saved
