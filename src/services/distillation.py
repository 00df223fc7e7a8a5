"""Distillation: a student learns in stages from a teacher that does not change; only the student is kept."""

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

import keras
import numpy as np

from common import tracking
from common.artifacts import Model, Report, Table
from common.config import ConfigError
from common.run import Run
from common.runtime.keras_file import load_network
from common.runtime.model_of_file import model_of_file
from src.data.labels import identity_labels
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.selection import Data, check_trial, preprocessing_for
from src.data.splits import overlap
from src.models._build import import_custom_model_file
from src.models._two_stems import input_shapes
from src.schema import Config, Distillation, ModelSection, Stage
from src.services._embed import embed, with_mirror_image
from src.training import validation
from src.training.batches import Batches, batches_of
from src.training.check_training import check_training
from src.training.checkpoint import Best, Progress, is_checkpoint, read_checkpoint
from src.training.start import Start, inputs_of, start_of, start_preprocessing, with_best
from src.training.step import Teacher
from src.training.teacher import (
    cached_teacher,
    following_teacher,
    margins_of,
    prototypes_of,
    seeing_teacher,
)
from src.training.train import train, trained_model
from src.training.validator import searched

_LOGGER = logging.getLogger(__name__)
_FOLDER = "distilled_models"
_BATCH = 64
_STAGE_SEEDS = 10_007  # between the seeds of two stages
_OF_DISTILLATION = ("batch_size", "images_per_identity", "bnneck", "sampler", "mixed_precision")


def preflight(config: Config, data: Data, model: Model | None) -> None:
    """Check who teaches whom, the people of the validation, and each stage as the training that it is.

    Raises:
        ConfigError: validation people are trained on or tested, a teacher cannot be read, was trained in another trial
            of the data set or takes other images than the student without a cache, a stage cannot be trained, or a
            checkpoint does not fit its losses or its teacher.
    """
    section = _section(config)
    _check_validation(data)
    teachers = _teacher_files(section)
    student = _student_of(config, model)
    for teacher in teachers:
        check_trial(config, teacher, "distillation.teacher")
    if student.model is not None:
        check_trial(config, student.model, "distillation.student")
    inputs = _inputs(student, section.resume_training)
    stages = section.stages_of(section.sampler == "cross_modal" or "" not in inputs)
    for number, stage in enumerate(stages, 1):
        with _naming(number):
            as_training = student.training(stage, section.resume_training)
            check_training(as_training, data, student.model)
    if section.resume_training:
        stage = stages[_stage_of_checkpoint(student.model, len(stages)) - 1]
        length = sum(load_network(teacher.path).outputs[0].shape[-1] for teacher in teachers)
        _first_start(student.training(stage, True), data, student.model, stages, length)
    if section.cache_teacher or section.teacher_momentum is not None:
        return
    shape = next(iter(inputs.values()))
    preprocessing = start_preprocessing(as_training, student.model, shape)
    batches = batches_of(as_training, data, identity_labels(data.training)[0], inputs, preprocessing)
    for path, seen in _seen_by_teachers(config, teachers, model):
        _check_same_images(path, seen, batches)


@dataclass(frozen=True)
class _Student:
    """Whom a distillation trains.

    Attributes:
        config: The configuration with the student in its section `model`.
        model: Where it starts from, if it is not new.
    """

    config: Config
    model: Model | None

    def training(self, stage: Stage, resumes: bool = False) -> Config:
        """The configuration of a stage as that of a training."""
        training = _section(self.config).training_of(stage, resumes)
        return self.config.model_copy(update={"training": training})


def _section(config: Config) -> Distillation:
    assert config.distillation is not None
    return config.distillation


def _student_of(config: Config, model: Model | None) -> _Student:
    """The student, which `distillation.student` states where the model so far is the teacher."""
    stated = _section(config).student
    if stated is None:
        if model is not None and model.path != config.model.model_path:  # a training has made it
            config = config.model_copy(update={"model": ModelSection(model_path=model.path)})
        return _Student(config, model)
    import_custom_model_file(stated.custom_model_file)
    own = None
    if stated.model_path is not None:
        own = model_of_file(_embedding_file(stated.model_path, "distillation.student.model_path"))
        stated.require_shape(own.input_shape, "distillation.student")
    return _Student(config.model_copy(update={"model": stated}), own)


def _teacher_files(section: Distillation) -> list[Model]:
    return [model_of_file(_embedding_file(path, "distillation.teacher")) for path in section.teacher]


def _embedding_file(path: Path, key: str) -> Path:
    """The path, which is a file that is no checkpoint."""
    if not path.is_file():
        raise ConfigError(f"{key}: there is no file {path}")
    if is_checkpoint(path):
        raise ConfigError(
            f"{key}: {path} is a checkpoint with the training head in it: give the best_model.keras beside it"
        )
    return path


def _inputs(student: _Student, resumes: bool) -> dict[str, tuple[int, int, int]]:
    stage = _section(student.config).stages_of(by_modality=True)[0]
    return inputs_of(student.training(stage, resumes), student.model)


def _check_validation(data: Data) -> None:
    """The best epoch is chosen by people who are neither trained on nor tested."""
    if not data.validation_is_retrieval:
        raise ConfigError(
            "distillation chooses its best epoch by the mAP of people whom it does not train on, but the validation "
            "images are of training people: set dataset.validation_split_by: identity, or give a validation_path with "
            "other people"
        )
    tested = overlap(data.validation, data.query)
    if tested:
        raise ConfigError(
            f"distillation chooses its best epoch by the validation people, of whom {len(tested)} are also tested "
            f"({', '.join(str(name) for name in tested[:3])} ...): give a validation_path with other people"
        )


@contextmanager
def _naming(stage: int) -> Iterator[None]:
    """A mistake of a stage is one of the keys that the user wrote."""
    try:
        yield
    except ConfigError as error:
        text = re.sub(rf"\btraining\.({'|'.join(_OF_DISTILLATION)})\b", r"distillation.\1", str(error))
        text = re.sub(r"\btraining\.", f"distillation.stages.{stage - 1}.", text)
        raise ConfigError(f"stage {stage} of the distillation: {text}") from error


def _stage_of_checkpoint(model: Model | None, stages: int) -> int:
    """The stage, from 1, that a checkpoint stands in."""
    assert model is not None
    _, settings = read_checkpoint(model.path)
    stage = settings.get("stage")
    if stage is None or stage > stages:
        received = "is of a training" if stage is None else f"is of stage {stage} of a distillation"
        raise ConfigError(
            f"distillation.resume_training: {model.path} {received}, expected one of a distillation of {stages} stages"
        )
    return int(stage)


def _seen_by_teachers(
    config: Config, teachers: Sequence[Model], model: Model | None
) -> Iterator[tuple[str, Mapping[str, Preprocessing]]]:
    """What each teacher takes, by modality; of one that is still to be trained what it will take."""
    for teacher in teachers:
        network = load_network(teacher.path)
        preprocessing = preprocessing_for(config, teacher)
        shapes = input_shapes(network)
        yield str(teacher.path), {name: preprocessing.of_shape(shape) for name, shape in shapes.items()}
    if not teachers:
        shapes = inputs_of(config, model)
        preprocessing = start_preprocessing(config, model, next(iter(shapes.values())))
        yield "the trained model", {name: preprocessing.of_shape(shape) for name, shape in shapes.items()}


def _check_same_images(teacher: str, seen: Mapping[str, Preprocessing], batches: Batches) -> None:
    """A teacher without a cache sees the images of the student's batches."""
    for modality, own in batches.preprocessing.items():
        expected = seen.get(modality, seen.get(""))
        if expected is None:
            raise ConfigError(
                f"distillation.teacher: {teacher} takes visible and thermal images, but the batches do not tell them "
                "apart: set distillation.cache_teacher: True, or sampler: cross_modal"
            )
        if expected != own:
            raise ConfigError(
                f"distillation.teacher: {teacher} takes {_differences(expected, own)} of the student: set "
                "distillation.cache_teacher: True, so that each has its own images"
            )


def _differences(one: Preprocessing, other: Preprocessing) -> str:
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in vars(one)}
    told = [f"{name} {a} in place of {b}" for name, (a, b) in pairs.items() if a != b]
    return ", ".join(told)


def run(config: Config, data: Data, model: Model | None, run: Run) -> tuple[Report, Model]:
    """Distil and return the best student, with what teacher and student score on validation people.

    A student of one teacher knows it as its source, so evaluation puts them side by side.
    """
    section, student = _section(config), _student_of(config, model)
    follows = section.teacher_momentum is not None
    teachers = [] if follows else _teacher_files(section) or [_trained(model)]
    inputs = _inputs(student, section.resume_training)
    by_modality = section.sampler == "cross_modal" or "" not in inputs
    stages = section.stages_of(by_modality)
    teaching = _Teaching(config, data, teachers)
    scores = {"teacher": teaching.validate(data, by_modality)} if teachers else {}
    first = _stage_of_checkpoint(student.model, len(stages)) if section.resume_training else 1
    as_training = student.training(stages[first - 1], section.resume_training)
    preprocessing = start_preprocessing(as_training, student.model, next(iter(inputs.values())))
    folder = run.make(_FOLDER)
    start = _first_start(as_training, data, student.model, stages, teaching.length)
    if section.resume_training:
        assert student.model is not None
        start = replace(start, done=with_best(start.done, start.training.epochs, student.model.path, folder))
    made = trained_model(student.config, data, start.network, preprocessing, folder, made_by="distillation")
    names = [str(teacher.path) for teacher in teachers] or ["moving average"]
    source = teachers[0] if len(teachers) == 1 else None
    made = replace(made, trained_on={**made.trained_on, "teacher": names}, source=source)
    made.save()  # before the file, so that a run that is cut off leaves a model that knows its preprocessing
    best = start.done.best
    for number, stage in enumerate(stages[first - 1 :], first):
        _LOGGER.info("stage %d of %d", number, len(stages))
        if number > first:
            as_training = student.training(stage)
            start = _next_start(as_training, folder, best)
        own, rows = teaching.easiest(data, stage.easiest_share)
        stage_run = Run(run.make("distillation", f"stage_{number}"), run.seed + (number - 1) * _STAGE_SEEDS)
        start, teacher_of = replace(start, settings={"stage": number}), teaching.teacher_of(section, rows)
        with tracking.stage_run(f"stage {number}"):
            done = train(as_training, own, start, preprocessing, folder, stage_run, teacher_of)
        scores[f"student, stage {number}"] = _best_of(done)
        best = done.best
    return _report(scores, best, teaching.seconds), made


def _trained(model: Model | None) -> Model:
    assert model is not None  # the training that comes before has made it
    return model


def _first_start(
    config: Config, data: Data, model: Model | None, stages: Sequence[Stage], length: int
) -> Start:
    """The student, new, from a file, or interrupted; with what the losses of any stage need.

    Raises:
        ConfigError: a checkpoint has no projection to the teacher's length, and a loss needs it.
    """
    losses = [loss for stage in stages for loss in stage.losses]
    projects = [loss.name for loss in losses if loss.takes("projected")]
    start = start_of(
        config,
        data,
        model,
        centers=any(loss.takes("centers") for loss in losses),
        projection=length if projects else None,
    )
    if start.training.resume_training:
        assert model is not None
        outputs = start.network.output
        found = outputs["projected"].shape[1] if "projected" in outputs else None
        expected = length or outputs["embedding"].shape[1]
        if projects and found != expected:
            raise ConfigError(
                f"{', '.join(projects)} needs a projection to {expected} dimensions, {model.path} has "
                f"{found or 'none'}: resume with the losses and the teacher of before"
            )
    return start


def _next_start(config: Config, folder: Path, best: Best) -> Start:
    """The best epoch so far, which a coming one has to exceed."""
    path = folder / "best_augmented_model.keras"
    _, settings = read_checkpoint(path)
    augmented = load_network(path)
    assert config.training is not None
    network = augmented.get_layer(settings["network"])
    return Start(config.training, network, Progress(replace(best, epoch=-1)))


class _Teaching:
    """What the teachers say of the training images; nothing where the student's moving average teaches."""

    def __init__(self, config: Config, data: Data, teachers: Sequence[Model]) -> None:
        self._networks = [load_network(teacher.path) for teacher in teachers]
        self._routes = [
            validation.routes_of(network, preprocessing_for(config, teacher))
            for network, teacher in zip(self._networks, teachers, strict=True)
        ]
        self._labels = identity_labels(data.training)[0]
        self._modalities = [sample.modality for sample in data.training]
        start = process_time()
        self._embeddings = self._embed_training(data.training) if teachers else None
        self.seconds = process_time() - start

    @property
    def length(self) -> int:
        """Of the teacher's embedding; 0 for that of the student."""
        return 0 if self._embeddings is None else self._embeddings.shape[1]

    def _embed_training(self, samples: Sequence[Sample]) -> np.ndarray:
        """The mean of each image and its mirror image: a student sees both, and a cache has one answer."""
        mirrored = [
            {name: route._replace(embed=with_mirror_image(route.embed)) for name, route in routes.items()}
            for routes in self._routes
        ]
        return self._embed(mirrored, samples, "teacher: training images")

    def _embed(
        self, teachers: Sequence[validation.Routes], samples: Sequence[Sample], what: str
    ) -> np.ndarray:
        """Embeddings (N, sum of D) with rows of length 1, whose cosines are the means of the teachers'."""
        parts = [embed(routes, samples, _BATCH, what) for routes in teachers]
        return np.concatenate(parts, axis=1) / np.float32(math.sqrt(len(parts)))

    def validate(self, data: Data, by_modality: bool) -> dict[str, float]:
        """Scores on the validation images."""
        query, gallery = searched(data.validation, by_modality)
        scores = validation.retrieval(
            lambda samples: self._embed(self._routes, samples, "teacher: validation images"), query, gallery
        )
        _LOGGER.info("teacher: %s", "  ".join(f"{name} {value:.4g}" for name, value in scores.items()))
        return scores

    def easiest(self, data: Data, share: float) -> tuple[Data, np.ndarray]:
        """The images to train on, a share of those of each person in each modality, and which they are."""
        everything = np.arange(len(data.training))
        if share == 1 or self._embeddings is None:
            return data, everything
        order = np.argsort(-margins_of(self._embeddings, self._labels, self._modalities), kind="stable")
        groups: dict[tuple[int, str], list[int]] = {}
        for index in order.tolist():
            groups.setdefault((int(self._labels[index]), data.training[index].modality), []).append(index)
        kept = sorted(i for group in groups.values() for i in group[: math.ceil(share * len(group))])
        _LOGGER.info("training on the easiest %d of %d images", len(kept), len(everything))
        return replace(data, training=[data.training[i] for i in kept]), np.array(kept)

    def teacher_of(self, section: Distillation, rows: np.ndarray) -> Callable[[keras.Model], Teacher]:
        """What makes the teacher of a stage.

        Args:
            section: The configuration's.
            rows: Which training images the stage has.
        """
        if self._embeddings is None:
            momentum = section.teacher_momentum
            assert momentum is not None
            return lambda trained: following_teacher(trained, momentum)
        prototypes = prototypes_of(self._embeddings, self._labels, self._modalities)
        if section.cache_teacher:
            embeddings = self._embeddings[rows]
            return lambda trained: cached_teacher(embeddings, prototypes)
        return lambda trained: seeing_teacher(self._networks, prototypes)


def _best_of(done: Progress) -> dict[str, float]:
    """Validation scores of the best epoch of a stage."""
    epoch = int(np.argmax(done.history["val_mAP"]))
    return {name: values[epoch] for name, values in done.history.items() if name.startswith("val_")}


def _report(scores: Mapping[str, Mapping[str, float]], best: Best, teacher_seconds: float) -> Report:
    """Teacher and student on the validation images."""
    rows: list[tuple[Any, ...]] = [
        (name, 100 * found["val_rank1"], 100 * found["val_mAP"]) for name, found in scores.items()
    ]
    assert best.value is not None
    metrics = {
        f"{name.replace('student, ', '').replace(' ', '_')}_{key}": value
        for name, found in scores.items()
        for key, value in found.items()
    }
    notes = ["The student with the highest mAP on validation people is kept, whichever stage it is of."]
    if "teacher" in scores and best.value >= scores["teacher"]["val_mAP"]:
        notes.append("On validation people the student is not worse than its teacher: look for a better one.")
    return Report(
        "distillation",
        {**metrics, best.monitor: best.value, "teacher_processor_seconds": teacher_seconds},
        [Table("Teacher and student on validation people, %", ("", "Rank-1", "mAP"), tuple(rows))],
        notes=notes,
    )
