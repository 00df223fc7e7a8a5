"""Adaptation: from a model and images that nobody labelled to a model that knows their cameras.

Each round clusters the images and learns from the clusters as if they were people (Dai et al., "Cluster Contrast for
Unsupervised Person Re-Identification", ACCV 2022). Those of two modalities are matched (Wu and Ye, "Unsupervised
Visible-Infrared Person Re-Identification via Progressive Graph Matching and Alternate Learning", CVPR 2023), and found
together where their sensors see the same tracks. Where clusters cannot be learned from, the model is left as it was
when they last could.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np

from common.artifacts import Model, Report
from common.config import ConfigError
from common.layers.start_statistics import average_statistics
from common.run import Run, progress, require_free_space
from common.runtime.keras_file import load_network
from src.adaptation.guards import (
    NothingToLearnError,
    check_features,
    check_images,
    check_linked,
    check_points,
)
from src.adaptation.pseudo_labels import PseudoLabels
from src.data.pipeline import View
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
from src.services._adaptation.last_round import Done, read_round, restore_round, save_round, settings_of
from src.services._adaptation.learner import Learner, learn, learner_of, memories_of
from src.services._adaptation.report import described, log_round, report_of
from src.services._adaptation.target import Target, target_of
from src.services._adaptation.target_images import Side, batches_of, features_of, sides_of
from src.training.batches import augmentations_of, views_of
from src.training.checkpoint import save_checkpoint, seed_dropout
from src.training.optimizer import optimizer_of

_LOGGER = logging.getLogger(__name__)
_MODEL = "adapted_model.keras"
_LAST_ROUND = "last_round.npz"
_STATISTICS_BATCHES = 16  # of 64 images of each modality
# Of the weights: three networks and two slots of the optimizer in a file and in one being written; the model, its copy.
_COPIES = 2 * 5 + 2


@dataclass(frozen=True)
class _Work:
    """What all rounds share.

    Attributes:
        section: The configuration's section.
        settings: What decides about a round.
        target: The images.
        sides: Their pixels, by modality.
        views: Parts of a batch.
        learner: The network, changed in place.
        model_path: Of the adapted model.
        folder: Of everything else.
        seed: Of draws and augmentation.
    """

    section: Adaptation
    settings: Mapping[str, Any]
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
    if section.resume_from is not None and {"training", "distillation"} & set(config.services):
        raise ConfigError(
            f"adaptation.resume_from goes on with the network of {section.resume_from}, and operation_mode "
            f"'{config.operation_mode}' makes another one before: expected a mode that begins with adaptation, such as "
            "adaptation or chain_aqe"
        )
    try:
        check_images(target.modalities.tolist(), target.names)
        _check_batch(section, [name for name, _ in augmentations_of(config) if name in target.names])
        if section.pseudo_labels is None and section.rounds:
            _check_points(section, target)
        if model is not None or config.services[0] == "adaptation":
            network = _network(config, model)
            check_images(target.modalities.tolist(), _expected(network, target))
            _views(config, target, _by_modality(network, _preprocessing(config, model, network)))
    except NothingToLearnError as error:
        raise ConfigError(f"adaptation: {error}") from error
    optimizer_of(section)
    try_clustering(section)
    if section.pseudo_labels is not None:
        given_by(section.pseudo_labels, target, section.cross_modal_weight)
    if section.resume_from is not None:
        done, _ = read_round(section.resume_from, target.samples, settings_of(config))
        if done.rounds >= section.rounds:
            raise ConfigError(
                f"adaptation.resume_from: {section.resume_from} is after round {done.rounds}, and adaptation.rounds is "
                f"{section.rounds}: expected more rounds than were made"
            )


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
        settings_of(config),
        target,
        sides_of(target.samples, _by_modality(network, preprocessing), config.dataset.cache),
        _views(config, target, _by_modality(network, preprocessing)),
        learner_of(network, preprocessing, section, target.names),
        folder / _MODEL,
        run.make("adaptation"),
        run.seed,
    )
    _LOGGER.info(
        "adapting %s to %s, %d by tracks and moments", network.name,
        " and ".join(f"{len(side.places)} {name} images" for name, side in work.sides.items()),
        len(np.unique(target.groups)),
    )  # fmt: skip
    missing = _missing_modality(model, network, target)
    save = partial(_saved, work, model, preprocessing, data_set_name(config))
    done, failure = _rounds(work, _statistics_to_set(config, model), save)
    sentences = [_sentence(section, target, done, data_set_name(config)), *missing]
    if failure is not None:
        if model is None and done.rounds == 0:
            for path in (work.model_path, work.model_path.with_suffix(".json")):
                path.unlink(missing_ok=True)
            raise ConfigError(f"adaptation: {failure} (there is no model to go back to, and none is kept)")
        sentences.append(f"Round {done.rounds + 1} failed, and the model is as it was before: {failure}.")
        _LOGGER.warning(sentences[-1])
    title = f"{config.general.project_name}: adaptation to {data_set_name(config)}"
    report = report_of(work.folder, title, sentences, target, done, section.rounds)
    return report, save(done)


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
        ConfigError: an augmentation refuses its arguments.
    """
    return views_of(config, {name: preprocessing[name] for name in target.names})


def _check_points(section: Adaptation, target: Target) -> None:
    """Check that there is enough to cluster, or to learn from without clustering.

    Raises:
        NothingToLearnError: there is not.
    """
    if section.clustering is None:
        check_linked(target.groups, target.modalities, section.cross_modal_weight > 0)
        return
    for name in target.names:
        check_points(len(np.unique(target.groups[target.modalities == name])), section.k1, name)


def _check_batch(section: Adaptation, views: Sequence[str]) -> None:
    """Check that a batch of these modalities can be divided.

    Raises:
        ConfigError: it cannot.
    """
    each = len(views) * section.images_per_identity
    if section.batch_size % each or section.batch_size < 2 * each:
        raise ConfigError(
            f"adaptation.batch_size must be a multiple of images_per_identity x {len(views)} views "
            f"({', '.join(views)}) with 2 clusters or more, received {section.batch_size} and "
            f"{section.images_per_identity}: expected a multiple of {each} from {2 * each} on"
        )


def _statistics_to_set(config: Config, model: Model | None) -> str | None:
    """What the names of the batch norms that take their statistics from the target have in them; None for no one's."""
    if _section(config).target_statistics:
        return ""
    if model is not None:
        return None
    # Pretrained weights come with the statistics of millions of images; only the neck is new then.
    return "bnneck" if config.model.pretrained else ""


def _missing_modality(model: Model | None, network: keras.Model, target: Target) -> list[str]:
    """Warn where a network with one input for both modalities adapts to one of them, and return the warning.

    Models say what they were trained on since `trained_on` has `modalities`; of others nothing is known.
    """
    known = () if model is None else model.trained_on.get("modalities", ())
    missing = [name for name in known if name not in target.names]
    if not missing or has_two_stems(network):
        return []
    sentence = (
        f"The model was trained on {' and '.join(known)} images, and the target has no {' and '.join(missing)} ones: "
        "what it learns need not hold across the two: add the missing images, or score across modalities before use."
    )
    _LOGGER.warning(sentence)
    return [sentence]


def _set_statistics(work: _Work, names: str) -> None:
    """Give the batch norms whose names have `names` in them the statistics of some images, as they are, unaugmented."""
    learner = work.learner

    def batch_of(images: Sequence[np.ndarray]) -> Any:
        whole = has_two_stems(learner.trained)
        return dict(zip(work.sides, images, strict=True)) if whole else np.concatenate(images)

    # The modality with fewer images gives them again.
    batches = zip(*map(_again_and_again, work.sides.values()), strict=True)
    number = min(_STATISTICS_BATCHES, max(side.num_batches for side in work.sides.values()))
    average_statistics(learner.trained, map(batch_of, islice(batches, number)), names)
    learner.joined.set_weights(learner.trained.get_weights())


def _again_and_again(side: Side) -> Iterator[np.ndarray]:
    while True:
        yield from side.batches()


def _rounds(
    work: _Work, new_statistics: str | None, save: Callable[[Done], Model]
) -> tuple[Done, NothingToLearnError | None]:
    """Cluster and learn until all rounds are done, or until a guard stops them.

    Then the weights are again those with which clusters were last found, or those of the start.

    Args:
        work: Changed in place.
        new_statistics: As of `_statistics_to_set`.
        save: Writes the model of a round.
    """
    section, learner, resumed = work.section, work.learner, work.section.resume_from
    done, kept = Done(), (Done(), learner.joined.get_weights())
    try:
        check_images(work.target.modalities.tolist(), _expected(learner.network, work.target))
        if resumed is not None:
            done, before = read_round(resumed, work.target.samples, work.settings)
            kept = before, restore_round(resumed, learner)
            _LOGGER.info("going on after round %d of %d", done.rounds, section.rounds)
        elif new_statistics is not None:
            _set_statistics(work, new_statistics)
        while section.rounds:  # without any, statistics alone are those of the target
            features = features_of(work.sides, learner.routes, f"{_title(work, done)}: features")
            if done.rounds == section.rounds:
                for name in work.target.names:  # nobody clusters with what the last round made
                    check_features(features[work.target.modalities == name], f"{name} images")
                return done, None
            labels = labels_of(section, work.target, features)
            if done.rounds:  # before, the start is kept, with its own statistics
                kept = done, learner.joined.get_weights()
            done = _learned(work, done, features, labels)
            write_labels(labels_file(work.folder, done.rounds), work.target, labels)
            save_round(work.folder / _LAST_ROUND, learner, done, kept, work.target.samples, work.settings)
            save(done)
    except NothingToLearnError as error:
        # Nobody can be found with what the last round made: it is taken back.
        if kept[0].rounds < done.rounds:
            labels_file(work.folder, done.rounds).unlink(missing_ok=True)
            (work.folder / _LAST_ROUND).unlink(missing_ok=True)
        done, weights = kept
        learner.go_back(weights)
        return done, error
    return done, None


def _title(work: _Work, done: Done) -> str:
    rounds = work.section.rounds
    return f"round {done.rounds + 1}/{rounds}" if done.rounds < rounds else f"after round {rounds}"


def _learned(work: _Work, done: Done, features: np.ndarray, labels: PseudoLabels) -> Done:
    """Take the steps of a round.

    Raises:
        NothingToLearnError: the loss or a weight is not finite.
    """
    section, target, learner = work.section, work.target, work.learner
    seed_dropout(learner.trained, work.seed, done.rounds * section.steps_per_round)
    if (rate := section.learning_rate_schedule) is not None:
        learner.optimizer.learning_rate = build_schedule(rate.name, rate.arguments)(done.rounds)
    memories = memories_of(features, labels.own, target.modalities, target.cameras, section)
    steps = section.steps_per_round
    batches = batches_of(
        work.sides, work.views, labels.own, (target.groups, target.cameras), section.batch_size,
        section.images_per_identity, steps, work.seed, done.rounds * steps,
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
    statistics = ""
    if section.target_statistics and (done.rounds or not section.rounds):
        statistics = " Its batch norms started with the statistics of these images."
    return (
        f"{done.rounds} rounds of {section.steps_per_round} batches on {len(target.samples)} images of {name} without "
        f"their labels: {how}. The model of the last round is kept. `across`: images whose person has a cluster in the "
        f"other modality. `agreement`: adjusted Rand index with the round before.{statistics}"
    )


def _saved(work: _Work, model: Model | None, preprocessing: Preprocessing, name: str, done: Done) -> Model:
    """Write the network as it is, with what it was made from, so that a run that is cut off leaves a whole model."""
    network, target = work.learner.network, work.target
    before = {"modalities": [*target.names]} if model is None else model.trained_on
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
            "adapted_images": len(target.samples),
            "adaptation_rounds": done.rounds,
        },
        source=model,
        made_by="adaptation",
    )
    saved.save()
    return saved
