"""Every key that a user may write: its type, its default and its meaning. No TensorFlow is imported here.

Defaults of sections live here and nowhere else; defaults of components (models, losses, augmentations, schedules)
live in their signatures.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from common.config import Component, ConfigError, FilePath, Number, NumberOrNumbers, Shape, Strict, suggest
from common.indices import parse_indices
from common.registry import check_arguments
from common.socs import SOCS
from src.registries import (
    AUGMENTATIONS,
    BASELINES,
    CLUSTERING,
    DATASETS,
    LOSSES,
    MODELS,
    PROTOCOLS,
    RERANKING,
    build_schedule,
    check_callback,
    check_callbacks,
    check_optimizer,
    custom_model_parameters,
)

SERVICE_OF_LETTER = {
    "t": "training",
    "k": "distillation",
    "a": "adaptation",
    "q": "quantization",
    "e": "evaluation",
    "p": "prediction",
    "b": "benchmarking",
    "d": "deployment",
}
MODEL_SUFFIXES = {
    "training": (".keras",),
    "distillation": (".keras",),
    "adaptation": (".keras",),
    "quantization": (".keras",),
    "evaluation": (".keras", ".tflite", ".onnx"),
    "prediction": (".keras", ".tflite", ".onnx"),
    "benchmarking": (".keras", ".tflite", ".onnx"),
    "deployment": (".onnx",),
}

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[Number, Field(gt=0, lt=1)]
Share = Annotated[Number, Field(gt=0, le=1)]
Positive = Annotated[Number, Field(gt=0)]


def services_of(operation_mode: str) -> tuple[str, ...]:
    """Return the services that a mode runs, in order: `chain_tqeb` -> training, quantization, evaluation, benchmarking.

    Raises:
        ValueError: the mode does not exist, or the chain makes no sense; the message says why.
    """
    services = tuple(SERVICE_OF_LETTER.values())
    if operation_mode in services:
        return (operation_mode,)
    match = re.fullmatch(r"chain_([a-z]+)", operation_mode)
    if not match:
        raise ValueError(
            f"unknown operation mode '{operation_mode}', expected one of {', '.join(services)}, or chain_ followed by "
            f"letters of {_letters()}, such as chain_tqeb"
        )
    letters = match.group(1)
    if reason := _nonsense(letters):
        raise ValueError(f"chain '{operation_mode}' makes no sense: {reason}")
    return tuple(SERVICE_OF_LETTER[letter] for letter in letters)


def _letters() -> str:
    return ", ".join(f"{letter} ({service})" for letter, service in SERVICE_OF_LETTER.items())


def _nonsense(letters: str) -> str | None:
    """Why a chain cannot be meant, or None."""
    unknown = sorted(set(letters) - set(SERVICE_OF_LETTER))
    if unknown:
        return f"there is no service '{unknown[0]}', only {_letters()}"
    if len(letters) == 1:
        return f"a single service is written operation_mode: {SERVICE_OF_LETTER[letters]}"
    for letter in "tkaqpbd":
        if letters.count(letter) > 1:
            return f"{SERVICE_OF_LETTER[letter]} appears more than once"
    if "t" in letters[1:]:
        return "training starts a model, so it comes first"
    if "k" in letters and set("aqpbd") & set(letters[: letters.index("k")]):
        return "distillation makes a float model, so it comes before all but training and evaluation"
    if "a" in letters[letters.find("q") :] and "q" in letters:
        return "quantization takes the weights that adaptation changes, so it comes after it"
    if "d" in letters[:-1]:
        return "deployment packages the final model, so it comes last"
    if "b" in letters.removesuffix("d")[:-1]:
        return "benchmarking measures the final model, so it comes last, or just before deployment"
    if set("tka") & set(letters) and "d" in letters and "q" not in letters:
        return "deployment packages an INT8 model, so quantization comes before it"
    if "ee" in letters:
        return "evaluation twice in a row measures the same model twice"
    return None


def _known(registry: Any) -> AfterValidator:
    def find(name: str) -> str:
        registry.find(name)
        return name

    return AfterValidator(find)


def _reader_name(value: Any) -> Any:
    """Accept the spelling of the data set's authors: `DeepSportradar`, `Market-1501`."""
    if isinstance(value, str) and value not in DATASETS:
        plain = re.sub(r"[-_ ]", "", value.lower())
        return next((name for name in DATASETS if name.replace("_", "") == plain), value)
    return value


def _path_or_nothing(value: Any) -> Any:
    return None if value == "" else value


OptionalPath = Annotated[FilePath | None, BeforeValidator(_path_or_nothing)]
ModelName = Annotated[str, _known(MODELS), WithJsonSchema({"type": "string", "enum": list(MODELS)})]
DatasetName = Annotated[
    str,
    BeforeValidator(_reader_name),
    _known(DATASETS),
    WithJsonSchema({"type": "string", "examples": list(DATASETS)}),
]
BaselineName = Annotated[str, _known(BASELINES), WithJsonSchema({"type": "string", "enum": list(BASELINES)})]


def _inside(folder: str) -> str:
    path = PurePath(folder)
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise ValueError(
            "expected the name of a folder inside the run's output folder; hydra.run.dir says where that is"
        )
    return folder


Inside = Annotated[str, AfterValidator(_inside)]


class General(Strict):
    """The project and the conditions of the run."""

    project_name: str = "re_identification"
    """Name of the MLflow experiment."""
    logs_dir: Inside = "logs"
    """Folder for TensorBoard and CSV logs, inside the run's output folder."""
    saved_models_dir: Inside = "saved_models"
    """Folder for trained models, inside the run's output folder."""
    global_seed: Annotated[int, Field(ge=0)] = 123
    """Seed of Python, NumPy and TensorFlow: weights, sampling, augmentation, calibration subsets."""
    deterministic_ops: bool = False
    """Use only deterministic TensorFlow operations: the same seed gives the same weights; slower."""
    num_threads: PositiveInt | None = None
    """CPU threads of TFLite and ONNX Runtime; all cores where it is not set."""


class ModelSection(Strict):
    """The model to start from: either a name of the zoo or a file; `agw` and `idkl` may have both."""

    model_name: ModelName | None = None
    """A model of the zoo (docs/README_MODELS.md)."""
    model_path: OptionalPath = None
    """A model file: `.keras` to train, quantize, or start `agw` or `idkl` from; else `.keras`, `.tflite`, `.onnx`."""
    input_shape: Shape = (256, 128, 3)
    """Height, width and channels of the input, in pixels; a model file brings its own, which must agree if stated."""
    pretrained: bool = False
    """Start from the ImageNet weights that Keras publishes (MobileNets and ResNet50V2)."""
    arguments: dict[str, Any] = {}
    """Further arguments of the model's function, such as those of `custom_model`."""
    custom_model_file: OptionalPath = None
    """A Python file with a function `custom_model`, used in place of `src/models/custom_model.py`; it is executed."""

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSection":
        is_start = self.model_name in ("agw", "idkl") and self.model_path is not None
        if (self.model_name is None) == (self.model_path is None) and not is_start:
            received = "both" if self.model_name else "neither"
            raise ValueError(f"expected exactly one of model_name and model_path, received {received}")
        if self.model_path is not None and self.pretrained:
            raise ValueError("pretrained cannot be set with model_path: the file has its own weights")
        if self.model_path is not None and self.arguments and not is_start:
            raise ValueError("arguments cannot be set with model_path: the file has its own layers")
        height, width, channels = self.input_shape
        if min(height, width) < 32 or channels not in (1, 3, 4):
            raise ValueError(
                f"input_shape must be (height, width, channels) with at least 32 x 32 pixels and 1, 3 or 4 channels, "
                f"received {self.input_shape}"
            )
        return self

    def require_shape(self, shape: tuple[int, ...], key: str = "model") -> None:
        """Check that the file has the input shape that the section states.

        Raises:
            ConfigError: it has another one; `key` is where the section stands.
        """
        if "input_shape" in self.model_fields_set and self.input_shape != shape:
            raise ConfigError(
                f"{key}.input_shape is {self.input_shape}, but the input of {self.model_path} is {shape}: leave "
                "input_shape out, or train a new model by its model_name"
            )

    @model_validator(mode="after")
    def _arguments_fit(self) -> "ModelSection":
        parameters = None if self.model_name is None else MODELS.find(self.model_name).parameters
        if self.custom_model_file is not None:
            if self.model_name not in (None, "custom_model"):
                raise ValueError(
                    f"custom_model_file goes with model_name: custom_model, received {self.model_name}"
                )
            own = custom_model_parameters(self.custom_model_file)
            parameters = None if self.model_name is None else own
        if parameters is not None:
            asked = {**self.arguments, **({"pretrained": True} if self.pretrained else {})}
            check_arguments(f"model '{self.model_name}'", parameters, asked, given=("input_shape",))
        return self


class Dataset(Strict):
    """The images, and how they are divided."""

    dataset_name: DatasetName = "deepsportradar"
    """The layout of the folders, which says how identity and camera are read (docs/README_DATASETS.md)."""
    synthetic_preset: Literal["tiny", "demo", "bench", "drone"] = "demo"
    """With `dataset_name: synthetic` and no paths: the preset that is rendered into `datasets/synthetic_<preset>`."""
    root_path: OptionalPath = None
    """Folder of a data set whose own lists say what is trained on and tested, in place of the paths below."""
    arguments: dict[str, Any] = {}
    """Arguments of the data set's reader, such as `trial` of `regdb`."""
    training_path: OptionalPath = None
    """Folder of the training images."""
    validation_path: OptionalPath = None
    """Folder of the validation images; without it a part of the training images is held out."""
    validation_split: Fraction = 0.2
    """Share of the training set to hold out for validation."""
    validation_split_by: Literal["image", "identity"] = "image"
    """`image` holds out images of known identities (accuracy); `identity` holds out whole identities (Rank-1, mAP)."""
    test_query_path: OptionalPath = None
    """Folder of the query images of the test set."""
    test_gallery_path: OptionalPath = None
    """Folder of the gallery images of the test set."""
    prediction_query_path: OptionalPath = None
    """Folder of the images to find matches for; the queries of the test set where it is not set."""
    prediction_gallery_path: OptionalPath = None
    """Folder of the images to find them in; the gallery of the test set where it is not set."""
    quantization_path: OptionalPath = None
    """Folder of the images that calibrate quantization; the training images where it is not set."""
    quantization_split: Share | None = None
    """Share of the calibration images to use, all of them where it is not set; at most `quantization.max_images`."""
    training_modalities: Annotated[list[Literal["visible", "thermal"]], Field(min_length=1)] | None = None
    """Modalities to train and validate on; all that are there where it is not set. Tests have all of theirs."""
    on_bad_image: Literal["raise", "skip"] = "raise"
    """What to do with images that cannot be decoded: stop before anything runs and list them, or leave them out."""
    cache: str = "none"
    """Where resized training images are kept as uint8, 98 kB each at 256x128: `none`, `memory`, or a folder."""
    seed: Annotated[int, Field(ge=0)] = 123
    """Seed of the splits."""

    @property
    def is_rendered(self) -> bool:
        """Whether the images are the synthetic preset, because no path is given."""
        paths = (self.training_path, self.validation_path, self.test_query_path, self.quantization_path)
        return self.dataset_name == "synthetic" and not any(paths)

    @property
    def has_lists(self) -> bool:
        """Whether the data set's own lists say which images are for what."""
        return "part" in DATASETS.find(self.dataset_name).parameters

    @property
    def has_test_set(self) -> bool:
        """Whether there are test images, which a folder of `vt_mot` may be without: a target that nobody labelled."""
        if self.root_path is not None:
            tests = [(self.root_path / name).is_dir() for name in ("query", "gallery")]
            return self.dataset_name != "vt_mot" or any(tests) or not self.root_path.is_dir()
        return self.test_query_path is not None or self.is_rendered

    @model_validator(mode="after")
    def _root_and_arguments_fit(self) -> "Dataset":
        parameters = DATASETS.find(self.dataset_name).parameters
        check_arguments(f"dataset '{self.dataset_name}'", parameters, self.arguments, given=("path", "part"))
        keys = ("training_path", "validation_path", "test_query_path", "test_gallery_path")
        unused = [key for key in keys if getattr(self, key) is not None]
        if self.has_lists and unused:
            raise ValueError(
                f"{', '.join(unused)} cannot be set: the lists of {self.dataset_name} say which images are for what; "
                "give its folder as root_path"
            )
        if self.root_path is not None and not self.has_lists:
            own = [name for name in DATASETS if "part" in DATASETS.find(name).parameters]
            raise ValueError(
                f"root_path is for data sets that bring lists ({', '.join(own)}), received dataset_name "
                f"{self.dataset_name}: give training_path, test_query_path and test_gallery_path"
            )
        return self

    @model_validator(mode="after")
    def _query_and_gallery(self) -> "Dataset":
        if (self.test_query_path is None) != (self.test_gallery_path is None):
            raise ValueError("test_query_path and test_gallery_path go together: one of them is missing")
        if (self.prediction_query_path is None) != (self.prediction_gallery_path is None):
            raise ValueError(
                "prediction_query_path and prediction_gallery_path go together: one of them is missing"
            )
        return self


class Rescaling(Strict):
    """Pixel values in [0, 255] become `scale * pixel + offset`."""

    scale: NumberOrNumbers = 1 / 127.5
    """Factor, for all channels or a list of one each; may be written 1/127.5."""
    offset: NumberOrNumbers = -1.0
    """Added after the factor, likewise."""


class Resizing(Strict):
    """From the size of the file to the input size of the model."""

    interpolation: Literal[
        "bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic"
    ] = "bilinear"
    """Interpolation method."""
    aspect_ratio: Literal["fit", "crop", "padding"] = "fit"
    """`fit` distorts, `crop` keeps the ratio and cuts the centre, `padding` keeps it and fills with black."""


class PreprocessingSection(Strict):
    """From a file to the input of the network."""

    rescaling: Rescaling = Rescaling()
    """Range of the network's input."""
    resizing: Resizing = Resizing()
    """Size of the network's input."""
    color_mode: Literal["grayscale", "rgb", "rgba"] = "rgb"
    """Channels that an image is decoded to."""


class TripletLoss(Strict):
    """Metric loss on the features before the neck (`src/losses/triplet.py`)."""

    margin: Annotated[Number, Field(ge=0)] = 0.3
    """Least gap between the distances anchor-negative and anchor-positive."""
    strategy: Literal["hard", "semi_hard", "simple"] = "hard"
    """Mining in the batch: hardest pair of each anchor, nearest negative beyond the positive, or all triplets."""
    distance_metric: Literal["euclidean", "cosine"] = "cosine"
    """Distance between features."""
    weight: Annotated[Number, Field(gt=0)] = 1.0
    """Factor of this loss in the sum."""


Output = Literal[
    "features", "embedding", "logits", "specific_features", "specific_embedding", "specific_logits"
]
OF_TRAINING_BRANCH = (
    *("specific_features", "specific_embedding", "specific_logits"),
    *("map_logits", "normed_features", "modality_logits", "confusion_logits"),
)
"""Outputs of a network that has a branch for training only: `idkl`."""
OF_TEACHER = ("teacher_embedding", "teacher_logits")
GIVEN_TO_LOSSES = (
    *("features", "logits", "labels", "modalities", "centers"),
    *(*OF_TRAINING_BRANCH, "projected", *OF_TEACHER),
)
"""Arguments of a loss that come from the network, the batch and, in distillation, the teacher."""
_SEEN = {
    "features": ("features", "embedding", "specific_features", "specific_embedding"),
    "logits": ("logits", "specific_logits"),
}
"""Argument of a loss to the outputs that may be given for it."""


class LossSchedule(Strict):
    """When a loss acts, in epochs."""

    after: Annotated[int, Field(ge=0)] = 0
    """Epochs without this loss, at the beginning."""
    ramp: PositiveInt = 1
    """Epochs in which its weight then rises to the full one, in equal steps."""

    def share(self, epoch: int) -> float:
        """The part of the weight that counts in an epoch, from 0 on."""
        return min(1.0, max(0.0, (epoch - self.after + 1) / self.ramp))


class Loss(Strict):
    """A term of the loss; all further keys are arguments of its function in `src/losses/`."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": True})

    name: Annotated[str, _known(LOSSES), WithJsonSchema({"type": "string", "enum": list(LOSSES)})]
    """Its function; the logs have it as `<name>_loss`."""
    weight: Annotated[Number, Field(ge=0)] = 1.0
    """Factor in the sum; 0 leaves the term out."""
    on: Annotated[list[Output], Field(min_length=1)] | Output | None = None
    """What it sees: `features` before the neck, or the `embedding`; of `cross_entropy` the `logits`; of several the
    sum."""
    schedule: LossSchedule | None = None
    """Where it does not act from the first epoch on with its full weight."""
    arguments: dict[str, Any] = {}
    """The arguments, which may also stand beside `name`."""

    @model_validator(mode="before")
    @classmethod
    def _further_keys_are_arguments(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        raw = {
            "on" if key is True else key: value for key, value in raw.items()
        }  # YAML reads the key on: as True
        own = {key: value for key, value in raw.items() if key in cls.model_fields}
        further = {key: value for key, value in raw.items() if key not in cls.model_fields}
        return {**own, "arguments": {**(own.get("arguments") or {}), **further}} if further else own

    @model_validator(mode="after")
    def _arguments_fit(self) -> "Loss":
        LOSSES.check(self.name, self.arguments, GIVEN_TO_LOSSES)
        allowed = _SEEN.get(self.argument, ())
        if any(self.takes(name) for name in ("centers", *OF_TRAINING_BRANCH)):
            allowed = allowed[:1]
        if wrong := [name for name in self.outputs if name not in allowed]:
            expected = " or ".join(allowed) or "what its arguments name, without `on`"
            raise ValueError(f"loss '{self.name}' acts on: {expected}, received {', '.join(wrong)}")
        return self

    def takes(self, argument: str) -> bool:
        """Whether its function has an argument."""
        return argument in LOSSES.find(self.name).parameters

    @property
    def argument(self) -> str:
        """The argument of its function for which `on` may give an output; empty where there is none."""
        return next((name for name in _SEEN if self.takes(name)), "")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the network that it sees as that argument, one after the other.

        A teacher's embedding is compared with the student's.
        """
        if self.on is None and self.argument == "features" and self.needs_teacher:
            return ("embedding",)
        if self.on is None:
            return (self.argument,) if self.argument else ()
        return tuple(self.on) if isinstance(self.on, list) else (self.on,)

    @property
    def of_training_branch(self) -> tuple[str, ...]:
        """The outputs of a branch for training only that it needs."""
        return tuple(name for name in OF_TRAINING_BRANCH if self.takes(name) or name in self.outputs)

    @property
    def needs_modalities(self) -> bool:
        """Whether its function cannot do without images of two modalities."""
        return self.takes("modalities") and LOSSES.find(self.name).parameters["modalities"] is None

    @property
    def needs_teacher(self) -> bool:
        """Whether its function compares with a teacher."""
        return any(self.takes(argument) for argument in OF_TEACHER)


def _by_name(value: Any) -> Any:
    """Read terms of the loss that are written by name, so that an override can reach one of them."""
    if not isinstance(value, Mapping):
        return value
    return [{"name": name, **(arguments or {})} for name, arguments in value.items()]


def _or_by_name(schema: dict[str, Any]) -> None:
    """Add that spelling to the JSON schema of the terms."""
    schema["anyOf"].insert(1, {"type": "object"})


def _check_terms(losses: list[Loss]) -> list[Loss]:
    if not any(loss.weight for loss in losses):
        raise ValueError("losses has weights of 0 only: there is nothing to learn from")
    names = [loss.name for loss in losses]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"losses has {', '.join(repeated)} more than once")
    return losses


Losses = Annotated[list[Loss], Field(min_length=1), BeforeValidator(_by_name), AfterValidator(_check_terms)]


def _check_p_by_k(batch_size: int, images_per_identity: int) -> None:
    if batch_size % images_per_identity:
        raise ValueError(
            f"batch_size must be a multiple of images_per_identity (P x K), received "
            f"{batch_size} and {images_per_identity}"
        )


def _checked(check: Any) -> AfterValidator:
    def run(component: Component) -> Component:
        check(component.name, component.arguments)
        return component

    return AfterValidator(run)


Optimizer = Annotated[Component, _checked(check_optimizer)]


def _check_each(check: Any) -> AfterValidator:
    def run(components: Mapping[str, Any]) -> Mapping[str, Any]:
        mistakes = []
        for name, arguments in components.items():
            try:
                check(name, arguments or {})
            except ValueError as error:
                mistakes.append(str(error))
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return components

    return AfterValidator(run)


def _together(callbacks: dict[str, dict[str, Any] | None]) -> dict[str, dict[str, Any] | None]:
    check_callbacks(callbacks)
    return callbacks


Callbacks = Annotated[
    dict[str, dict[str, Any] | None], _check_each(check_callback), AfterValidator(_together)
]


def _indices_text(value: Any) -> Any:
    """Spell the indices of layers in one way, text, whether YAML reads a number, a list or text."""
    if isinstance(value, list | tuple):
        value = f"({', '.join(str(item) for item in value)})"
    elif isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str):
        parse_indices(value)
    return value


LayerIndices = Annotated[
    str | None,
    BeforeValidator(_indices_text),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "integer"},
                {"type": "array", "items": {"type": ["integer", "string"]}},
                {"type": "null"},
            ]
        }
    ),
]


def _batch_size_or_p_and_k(schema: dict[str, Any]) -> None:
    """Say in the JSON schema that a batch is stated in one of two ways."""
    schema["required"].remove("batch_size")
    schema["anyOf"] = [{"required": ["batch_size"]}, {"required": ["p_size", "k_size", "sampler"]}]


class Training(Strict):
    """Training of an embedding with identity classification and, if wanted, a metric loss."""

    model_config = ConfigDict(json_schema_extra=_batch_size_or_p_and_k)

    batch_size: PositiveInt
    """Images in a batch: P identities x K images each, of every modality and view where the sampler is cross_modal."""
    epochs: PositiveInt
    """Number of epochs."""
    optimizer: Optimizer
    """Any Keras optimizer: `Adam`, or `Adam: {learning_rate: 0.001}`."""
    images_per_identity: PositiveInt = 4
    """K: images of each identity in a batch; of each modality where the sampler is cross_modal."""
    p_size: PositiveInt | None = None
    """P; `p_size` and `k_size` are another way to state `batch_size` and `images_per_identity`, with the sampler."""
    k_size: PositiveInt | None = None
    """K, as `images_per_identity`."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Dropout rate before the classifier."""
    bnneck: bool = False
    """Batch-normalise the embedding: metric loss before it, classifier and retrieval after it (Luo et al., 2019)."""
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    """Label smoothing of the softmax cross-entropy."""
    triplet_loss: TripletLoss | None = None
    """Adds a triplet loss to the cross-entropy; absent means cross-entropy alone."""
    losses: Losses | None = Field(default=None, json_schema_extra=_or_by_name)
    """All terms in place of the two keys above: `{name: {weight, on, schedule, ...arguments}}`, or a list of them."""
    loss_weighting: Literal["fixed", "uncertainty"] = "fixed"
    """`uncertainty` learns a factor on the weight of each term (Kendall et al., 2018)."""
    sampler: Literal["identities", "cross_modal"] | None = None
    """Batches of P x K images, or of P x K visible and as many thermal ones; by the network's inputs if not set."""
    head_rate: Positive = 1.0
    """Factor on the gradients, not on the weight decay, of neck and classifier, 10 in AGW's recipe; for SGD only."""
    mixed_precision: Literal["none", "bfloat16", "float16"] = "none"
    """16-bit computation; the saved model is float32."""
    callbacks: Callbacks = {}
    """Keras callbacks and at most one learning-rate schedule by name, with their arguments."""
    frozen_layers: LayerIndices = None
    """Layers that are not trained, by index in Python's spelling: `(0:-1)`, `(8, 110:121, -1)`, `2`."""
    resume_training: Annotated[
        bool, Field(validation_alias=AliasChoices("resume_training", "resume_training_from"))
    ] = False
    """Go on with an interrupted training: model.model_path is its `last_augmented_model.keras`."""
    steps_per_epoch: PositiveInt | None = None
    """Batches in an epoch; enough to see every image about once where it is not set."""
    distribution: Literal["none", "mirrored", "multi_worker"] = "none"
    """One device, all GPUs of this machine, or several machines: one process each, as `TF_CONFIG` describes them."""

    @model_validator(mode="after")
    def _batch_is_p_by_k(self) -> "Training":
        _check_p_by_k(self.batch_size, self.images_per_identity)
        if self.triplet_loss is not None and (
            self.images_per_identity < 2 or self.batch_size == self.images_per_identity
        ):
            raise ValueError(
                "triplet_loss needs a positive and a negative in the batch: images_per_identity of at least 2 and "
                f"batch_size of at least 2 identities, received {self.images_per_identity} and {self.batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _head_rate_has_an_effect(self) -> "Training":
        if self.head_rate != 1 and self.optimizer.name != "SGD":
            raise ValueError(
                f"head_rate scales gradients, of whose scale not every optimizer takes notice: expected optimizer SGD, "
                f"received {self.optimizer.name}"
            )
        return self

    @model_validator(mode="after")
    def _losses_are_stated_once(self) -> "Training":
        if self.losses is None:
            return self
        twice = [key for key in ("label_smoothing", "triplet_loss") if key in self.model_fields_set]
        if twice:
            raise ValueError(
                f"losses states every term, and {' and '.join(twice)} stands beside it: write them as terms, such as "
                "{name: cross_entropy, label_smoothing: 0.1} and {name: triplet, margin: 0.3}"
            )
        return self

    @property
    def terms(self) -> list[Loss]:
        """All terms of the loss that count; `label_smoothing` and `triplet_loss` are a short form of two."""
        if self.losses is not None:
            return [loss for loss in self.losses if loss.weight]
        terms = [Loss(name="cross_entropy", arguments={"label_smoothing": self.label_smoothing})]
        if self.triplet_loss is not None:
            arguments = self.triplet_loss.model_dump(exclude={"weight"})
            terms.append(Loss(name="triplet", weight=self.triplet_loss.weight, arguments=arguments))
        return terms


class Stage(Strict):
    """A part of a distillation with losses of its own; it starts from the best epoch before it."""

    epochs: PositiveInt
    """Number of epochs."""
    losses: Losses
    """All terms of the loss, as `training.losses`, with those that compare with the teacher."""
    optimizer: Optimizer
    """Any Keras optimizer."""
    callbacks: Callbacks = {}
    """Keras callbacks and at most one learning-rate schedule; epochs are those of the stage."""
    steps_per_epoch: PositiveInt | None = None
    """Batches in an epoch; enough to see every image about once where it is not set."""
    easiest_share: Share = 1.0
    """Share of each person's images to train on: those that the teacher tells best from other people."""


def _two_stages(by_modality: bool) -> list[Stage]:
    """Easy pairs, then hard ones."""

    def stage(rate: float, *losses: dict[str, Any]) -> Stage:
        decay = {"initial_lr": rate, "hold_steps": 0, "decay_steps": 39, "end_lr": rate / 100}
        raw = {
            "epochs": 40,
            "losses": [{"name": "cross_entropy"}, *losses],
            "optimizer": {"AdamW": {"learning_rate": rate, "weight_decay": 0.0005}},
            "callbacks": {"LRCosineDecay": decay},
        }
        return Stage.model_validate(raw)

    relational = {"name": "relational_distillation", "weight": 0.4}
    across = [{"name": "cosine_alignment", "weight": 0.2}] if by_modality else []
    return [
        stage(0.00035, {"name": "logit_distillation", "weight": 0.4}, relational, *across),
        stage(0.000175, {"name": "focal_ranking", "weight": 0.6}, relational),
    ]


def _one_or_several(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


def _in_order(value: Any) -> Any:
    """Read stages that are written by name, so that an override can reach one of them."""
    return list(value.values()) if isinstance(value, Mapping) else value


Stages = Annotated[list[Stage], Field(min_length=1), BeforeValidator(_in_order)]


class Distillation(Strict):
    """Training of a student from a teacher, in stages."""

    teacher: Annotated[
        list[FilePath],
        BeforeValidator(_one_or_several),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
    ] = []
    """The teacher's `best_model.keras`, or several, which teach the mean of their cosines; else the trained model."""
    student: ModelSection | None = None
    """The student of a chain whose training makes the teacher; else the section `model` is the student."""
    cache_teacher: bool = False
    """The teacher embeds every training image once, not augmented, in place of seeing what the student sees."""
    teacher_momentum: Fraction | None = None
    """The teacher is the moving average of the student's weights, with this momentum a step, such as 0.999."""
    batch_size: PositiveInt
    """As `training.batch_size`."""
    images_per_identity: PositiveInt = 4
    """As `training.images_per_identity`."""
    bnneck: bool = False
    """As `training.bnneck`, of the student."""
    sampler: Literal["identities", "cross_modal"] | None = None
    """As `training.sampler`."""
    mixed_precision: Literal["none", "bfloat16", "float16"] = "none"
    """16-bit computation of the student; the saved model is float32."""
    resume_training: bool = False
    """Go on with an interrupted distillation: model.model_path is its `last_augmented_model.keras`."""
    stages: Stages | None = Field(default=None, json_schema_extra=_or_by_name)
    """`{name: {epochs, losses, optimizer, ...}}` in order, or a list of them; see docs/README_DISTILLATION.md."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Distillation":
        _check_p_by_k(self.batch_size, self.images_per_identity)
        stages = self.stages_of(by_modality=True)
        if self.teacher_momentum is not None:
            if self.teacher:
                raise ValueError(
                    "teacher_momentum makes the student's moving average the teacher, and teacher stands beside it: "
                    "state one of them"
                )
            if self.cache_teacher or any(stage.easiest_share < 1 for stage in stages):
                raise ValueError(
                    "cache_teacher and easiest_share need a teacher that is there before the student, but with "
                    "teacher_momentum it follows it: leave them out"
                )
        if not any(loss.needs_teacher and loss.weight for stage in stages for loss in stage.losses):
            raise ValueError(
                "no loss of stages compares with the teacher: expected one of "
                f"{', '.join(name for name in LOSSES if Loss(name=name).needs_teacher)}, or operation_mode: training"
            )
        return self

    def stages_of(self, by_modality: bool) -> list[Stage]:
        """The stages, by default two; alignment needs batches of both modalities."""
        return self.stages or _two_stages(by_modality)

    def training_of(self, stage: Stage, resumes: bool = False) -> Training:
        """A stage as the training that it is."""
        own = {"batch_size", "images_per_identity", "bnneck", "sampler", "mixed_precision"}
        return Training.model_validate(
            {
                **self.model_dump(mode="json", include=own),
                **stage.model_dump(mode="json", exclude={"easiest_share"}),
                "resume_training": resumes,
            }
        )


Clustering = Annotated[Component, _checked(partial(CLUSTERING.check, given=("distances",)))]
Schedule = Annotated[Component, _checked(build_schedule)]


class Adaptation(Strict):
    """Rounds of clustering images that nobody labelled, and of learning from the clusters as if they were people."""

    target: Dataset | None = None
    """What to adapt to, with the keys of `dataset`, for this and all later services; `dataset` where it is not set."""
    optimizer: Optimizer
    """Any Keras optimizer: `Adam`, or `Adam: {learning_rate: 0.00035}`."""
    rounds: Annotated[int, Field(ge=0)] = 50
    """Number of rounds; the model of the last one is kept, since nothing says which is the best."""
    steps_per_round: PositiveInt = 200
    """Batches in a round."""
    batch_size: PositiveInt = 256
    """Images in a batch: P clusters x K images, of every modality and view."""
    images_per_identity: PositiveInt = 16
    """K: images of each cluster in a batch, of each modality and view."""
    learning_rate_schedule: Schedule | None = None
    """A learning-rate schedule by name, whose epochs are rounds; the optimizer's rate where it is not set."""
    temperature: Positive = 0.05
    """Of the contrastive loss between images and the memory of clusters; smaller is stricter."""
    momentum: Annotated[Number, Field(ge=0, le=1)] = 0.2
    """Share of what is remembered of a cluster that stays when it meets a new image."""
    hard: bool = True
    """Remember the image of a batch that is least like its cluster, in place of each image in turn."""
    k1: PositiveInt = 30
    """Nearest points, itself included, among which two points must find one another (Jaccard distance)."""
    k2: PositiveInt = 6
    """Nearest points over which the neighbourhood of a point is averaged."""
    clustering: Clustering | None = Component(name="dbscan")
    """How clusters are found, with its arguments; `null` takes each track, or image without one, for a cluster."""
    center_cameras: bool = True
    """Cluster and match without what all images of a camera share; where cameras are unknown, of a modality."""
    constraints: bool = True
    """Images of a track and of synchronised cameras are one person, people in one frame are several."""
    cross_modal_weight: Annotated[Number, Field(ge=0)] = 0.25
    """Weight of the loss between an image and the clusters of the other modality."""
    camera_proxies: bool = False
    """Remember each camera's images of a cluster by themselves."""
    target_statistics: bool = False
    """Start with the target's statistics in all batch norms (AdaBN); with `rounds: 0` that is all that is done."""
    mean_teacher: Fraction | None = None
    """Momentum, such as 0.995, of a moving average of the weights; clusters are found with it, and it is kept."""
    mixed_precision: Literal["none", "bfloat16", "float16"] = "none"
    """16-bit computation; the saved model is float32."""
    pseudo_labels: OptionalPath = None
    """A CSV with columns `file`, `label` and maybe `label_across`, such as corrected ones, in place of clusters."""
    resume_from: OptionalPath = None
    """Go on with an interrupted adaptation: its `adaptation/last_round.npz`."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Adaptation":
        if self.batch_size % self.images_per_identity or self.batch_size == self.images_per_identity:
            raise ValueError(
                f"batch_size must be a multiple of images_per_identity (P x K) with 2 clusters or more, received "
                f"{self.batch_size} and {self.images_per_identity}"
            )
        if self.k2 > self.k1:
            raise ValueError(f"k2 must be at most k1, received {self.k2} and {self.k1}")
        if not self.rounds and not self.target_statistics:
            raise ValueError(
                "rounds must be 1 or more, received 0, with which nothing is learned; 0 takes target_statistics: True"
            )
        return self


class QuantizationAwareTraining(Strict):
    """`quantizer: tfmot_qat`: fine-tuning with fake quantization, distilled from the float embedding."""

    epochs: PositiveInt = 2
    """Passes over the training images."""
    max_steps: PositiveInt | None = None
    """Upper bound on the number of batches in all."""
    batch_size: PositiveInt = 32
    """Images in a batch."""
    learning_rate: Annotated[Number, Field(gt=0)] = 1e-5
    """Peak learning rate of Adam; it decays to zero by a cosine. Small networks take 1e-4, large ones less."""
    distillation_weight: Annotated[Number, Field(ge=0)] = 1.0
    """Weight of 1 - cosine between the embeddings of the INT8 and the float model, which needs no labels."""
    task_weight: Annotated[Number, Field(ge=0)] = 0.0
    """Weight of triplet loss and cross-entropy against the people of the training set; batches of 4 images each."""
    float_layers: list[str] = []
    """Patterns of names of layers to compute in float, such as `features`, the pool; kernels are always int8.

    What a kernel reads of such a layer is rounded to 8 bits, for it takes integers.
    """

    @model_validator(mode="after")
    def _something_to_learn(self) -> "QuantizationAwareTraining":
        if self.distillation_weight == self.task_weight == 0:
            raise ValueError("distillation_weight and task_weight are both 0: there is no loss")
        if self.task_weight > 0 and (self.batch_size < 8 or self.batch_size % 4):
            raise ValueError(
                "task_weight takes batches of at least 2 people with 4 images each: batch_size must be a multiple of "
                f"4 from 8 on, received {self.batch_size}"
            )
        return self


class NumericGate(Strict):
    """Every INT8 file is run on calibration images beside what it was exported from; the run fails where it is off.

    A gap is 1 - cosine of two embeddings of one image. Two right implementations of an integer graph round some values
    to neighbouring steps, and layer by layer they part, up to twice the gap between INT8 and float model: where that is
    larger than a limit, it is the limit.
    """

    images: PositiveInt = 64
    """Calibration images to compare on."""
    mean_gap: Positive = 0.0005
    """Greatest mean gap between a file and its source."""
    max_gap: Positive = 0.005
    """Greatest gap of one image."""
    float_gap: Positive = 0.1
    """Greatest mean gap between an INT8 file and the float model; trained networks have 0.003 to 0.05.

    A single image may be five times as far.
    """
    dead_dimensions: Annotated[Number, Field(ge=0, le=1)] = 0.1
    """Greatest share of the dimensions that the float model tells images apart by and a file gives one value in."""


_KEYS_WITHOUT_USE = {
    "TFlite_converter": ("batch_sizes", "input_layout", "encodings", "calibrate_method", "qat"),
    "Onnx_quantizer": ("quantization_input_type", "quantization_output_type", "qat"),
    "tfmot_qat": (),
}
"""Quantizer to keys of the section that it never reads."""


class Quantization(Strict):
    """From the float model to an INT8 model."""

    quantizer: Literal["TFlite_converter", "Onnx_quantizer", "tfmot_qat"]
    """Post-training quantization to TFLite or to ONNX QDQ, or quantization-aware training to both."""
    quantization_type: Literal["PTQ", "QAT"] | None = None
    """Must agree with the quantizer where it is set: QAT for `tfmot_qat`, PTQ for the others."""
    quantization_input_type: Literal["int8", "uint8", "float"] = "float"
    """Type of the TFLite model's input; ONNX models take float."""
    quantization_output_type: Literal["int8", "uint8", "float"] = "float"
    """Type of the TFLite model's output; ONNX models give float."""
    granularity: Literal["per_channel", "per_tensor"] = "per_channel"
    """Scales of the weights; `tfmot_qat` is per channel."""
    calibrate_method: Literal["MinMax", "Entropy", "Percentile"] = "MinMax"
    """How activation ranges are found: of `Onnx_quantizer`, and of the PTQ that `tfmot_qat` is compared with."""
    activation_bits: Literal[8, 16] = 8
    """`Onnx_quantizer` only: with 16 the NPU gives what ONNX Runtime gives, and is slower; weights keep 8 bits."""
    max_images: PositiveInt = 256
    """Upper bound on the number of calibration images."""
    qat: QuantizationAwareTraining = QuantizationAwareTraining()
    """Settings of `tfmot_qat`."""
    batch_sizes: Annotated[list[PositiveInt], Field(min_length=1)] = [1]
    """Static batches: of `quantized_model.onnx` the first, of further files `quantized_model_batch<N>.onnx`."""
    input_layout: Literal["nhwc", "nchw"] = "nhwc"
    """Layout of the images that ONNX files take; the NPU computes in NHWC, NCHW costs it a transposition."""
    encodings: list[Literal["legacy", "1.0.0", "2.0.0"]] = ["legacy", "1.0.0", "2.0.0"]
    """Forms in which scales and offsets are written beside an ONNX file, for Qualcomm's converters."""
    gate: NumericGate = NumericGate()
    """Comparison of every file with its source."""
    compare: bool = False
    """Score float and INT8 side by side on the test set, or on validation images; `tfmot_qat` beside PTQ as well."""
    export_dir: str = "quantized_models"
    """Folder for quantized models, inside the run's output folder."""

    @model_validator(mode="after")
    def _type_agrees(self) -> "Quantization":
        kind = "QAT" if self.quantizer == "tfmot_qat" else "PTQ"
        if self.quantization_type not in (None, kind):
            raise ValueError(
                f"quantizer {self.quantizer} does {kind}, but quantization_type is {self.quantization_type}"
            )
        if self.activation_bits == 16 and self.quantizer != "Onnx_quantizer":
            raise ValueError(f"activation_bits: 16 takes quantizer Onnx_quantizer, received {self.quantizer}")
        if self.quantizer == "tfmot_qat" and self.granularity != "per_channel":
            raise ValueError(
                "quantizer tfmot_qat quantizes weights per channel, but granularity is per_tensor"
            )
        return self

    @model_validator(mode="after")
    def _keys_are_of_the_quantizer(self) -> "Quantization":
        unused = [key for key in _KEYS_WITHOUT_USE[self.quantizer] if key in self.model_fields_set]
        if unused:
            raise ValueError(
                f"quantizer {self.quantizer} has no use for {' and '.join(unused)}: leave out what it does not read, "
                f"or choose the quantizer that it is for (~quantization.{unused[0]} on the command line takes it away)"
            )
        if self.quantizer == "tfmot_qat" and "calibrate_method" in self.model_fields_set and not self.compare:
            raise ValueError(
                "calibrate_method is of the PTQ that quantizer tfmot_qat is compared with: set compare: True, or leave "
                "it out"
            )
        repeated = sorted({n for n in self.batch_sizes if self.batch_sizes.count(n) > 1})
        if repeated:
            raise ValueError(f"batch_sizes has {repeated} more than once")
        return self


Target = Literal["host", "qnn_htp_emulator"]


EvaluationProtocol = Annotated[
    Component,
    _checked(partial(PROTOCOLS.check, given=("query", "gallery", "distance", "max_rank"))),
]
Reranking = Annotated[Component, _checked(partial(RERANKING.check, given=("query", "gallery", "features")))]


class Evaluation(Strict):
    """Retrieval on the test set: CMC, mAP, mINP."""

    target: Target = "host"
    """`qnn_htp_emulator` also scores the INT8 `.onnx` on Qualcomm's emulator of the NPU; 0.1 to 5 s an image."""
    emulated_identities: PositiveInt | None = None
    """How many people of the test set the emulator embeds; it then embeds no validation images, so that it states no
    threshold. All people, and the validation images, where it is not set."""
    reid_distance_metric: Literal["cosine", "euclidean"] = "cosine"
    """Distance between L2-normalised embeddings."""
    protocol: EvaluationProtocol | None = None
    """How images are divided and counted, with its arguments; where not set, the data set's own, else by cameras."""
    reranking: Reranking | None = None
    """Adds rows whose ranking is corrected by the neighbourhoods of the whole test set."""
    false_match_rate: Share | None = None
    """Rate for which a threshold is suggested, chosen on validation data; the lowest that it supports by default."""
    max_rank: PositiveInt = 50
    """Length of the CMC curve."""
    batch_size: PositiveInt = 64
    """Images that are embedded at once."""
    baselines: list[BaselineName] = []
    """Trivial embeddings to print beside the model, such as mean colour."""
    random_network: bool = False
    """Print the same network with random weights beside the model."""

    @model_validator(mode="after")
    def _emulated_identities_need_the_emulator(self) -> "Evaluation":
        if self.emulated_identities is not None and self.target == "host":
            raise ValueError(
                "emulated_identities is about the emulator, but target is host: set target: qnn_htp_emulator"
            )
        return self


class Prediction(Strict):
    """The nearest gallery images of each query, as pictures and tables."""

    target: Target = "host"
    """`qnn_htp_emulator` runs an INT8 `.onnx` on Qualcomm's emulator of the NPU; 0.1 to 5 s an image."""
    top_k: PositiveInt = 10
    """Gallery images to show for each query."""
    reid_distance_metric: Literal["cosine", "euclidean"] = "cosine"
    """Distance between L2-normalised embeddings; both give the same order."""
    batch_size: PositiveInt = 64
    """Images that are embedded at once."""
    sheets: Annotated[int, Field(ge=0)] = 50
    """At most this many contact sheets, of queries at equal distances; the tables hold all queries."""


def _board(name: str) -> str:
    if name not in SOCS:
        raise ValueError(f"unknown value '{name}', {suggest(name, SOCS)}")
    return name


Board = Annotated[str, AfterValidator(_board), WithJsonSchema({"type": "string", "enum": list(SOCS)})]


class Chip(Strict):
    """The NPU, and how a graph is compiled for it and run on it."""

    board: Board = "QCS8550"
    """The chip to compile for."""
    graph_optimization: Annotated[int, Field(ge=0, le=3)] = 3
    """How far the compiler optimizes the graph: 3 gives the fastest, 0 the shortest compilation."""
    vtcm_mb: Annotated[int, Field(ge=0, le=16)] = 0
    """Fast memory of the NPU that the graph may use, in MB; 0 leaves it to the compiler, a QAIRT SDK gets 8 on v73."""
    performance_mode: Literal[
        "burst", "sustained_high_performance", "high_performance", "balanced", "low_balanced", "high_power_saver",
        "power_saver", "low_power_saver", "extreme_power_saver", "default",
    ] = "burst"  # fmt: skip
    """Clocks and voltage of the NPU on a device over adb and in the package; the emulator has none."""


class Benchmarking(Chip):
    """Compilation for the NPU, execution on its emulator, and latency on the host."""

    parity_images: PositiveInt = 16
    """Test images on which the emulator is compared with ONNX Runtime; each takes 0.1 to 5 s."""
    latency_runs: PositiveInt = 100
    """Timed single-image runs of TFLite and ONNX Runtime on the host."""
    device: Literal["none", "ai_hub", "qairt_sdk"] = "none"
    """Also measure on a real device: of Qualcomm AI Hub (uploads the model), or over adb with a local QAIRT SDK."""
    ai_hub_device: str = "QCS8550 (Proxy)"
    """Name of the device at Qualcomm AI Hub, which compiles for it with its own settings: `board` is the emulator's."""


class Gate(Strict):
    """The checklist of a product on what was measured; a requirement that is null is not asked for."""

    on_failure: Literal["warn", "fail"] = "warn"
    """`fail` ends the run with an error when a requirement fails; what is not measurable here never fails."""
    measurements: OptionalPath = None
    """A JSON file of values that were measured elsewhere: `{"latency_ms": {"value": 3.1, "source": "..."}}`."""
    rank1: Share | None = 0.68
    """Least Rank-1 of the INT8 model on the test set."""
    latency_ms: Positive | None = 5.0
    """Greatest latency of one image on the chip."""
    size_mb: Positive | None = 50.0
    """Greatest size of what is loaded: the larger of context binary and DLC, in 10^6 bytes."""
    memory_mb: Positive | None = 200.0
    """Greatest memory on the chip, in 10^6 bytes."""
    scenes: PositiveInt | None = 1000
    """Least number of scenes that the model was tested on."""
    night_rank1: Share | None = 0.75
    """Least Rank-1 on images of the night (thermal camera)."""
    day_to_night_rank1: Share | None = 0.75
    """Least Rank-1 of queries by day in a gallery by night, and the other way round."""
    gallery_persons: PositiveInt | None = 1000
    """Greatest number of people in the gallery of the product."""
    false_match_rate: Share | None = 0.05
    """Share of pairs of different people that are taken for the same at the threshold: below this."""
    detector_integration: Literal[True] | None = True
    """Whether the model was tested behind the detector."""
    edge_cases: Literal[True] | None = True
    """Whether occluded, blurred and distant people were tested."""


class Card(Strict):
    """What only the owners can say, in their words, for the model card; what is left out is called unknown there."""

    licence: str | None = None
    """Licence of the weights."""
    consent: str | None = None
    """Licence of the training images, and how the people in them agreed."""


class Deployment(Chip):
    """A package for the device: compiled model, ONNX, TFLite, preprocessing, model card, runners, checksums."""

    gate: Gate = Gate()
    """The checklist of the product."""
    card: Card = Card()
    """Statements for the model card."""


class Mlflow(Strict):
    """History of runs."""

    uri: str = "./experiments_outputs/mlruns"
    """A tracking server, a database such as sqlite:///runs.db, or a folder that holds both database and artefacts.

    Give the name and password of a server as the environment variables MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD: in an address they stay in the `.hydra` folder of the run, though not in the history.
    """


def _mode(operation_mode: str) -> str:
    services_of(operation_mode)
    return operation_mode


def _with_batch_size(training: Mapping[str, Any], views: int) -> dict[str, Any]:
    """State the size of a batch that `p_size` and `k_size` mean.

    Raises:
        ValueError: one of them is missing, the batch is stated twice, or the sampler is not stated.
    """
    if twice := [key for key in ("batch_size", "images_per_identity") if key in training]:
        raise ValueError(
            "training: p_size and k_size stand in place of batch_size and images_per_identity, received "
            f"{' and '.join(twice)} too (~training.{twice[0]} on the command line takes it away)"
        )
    p, k = training.get("p_size"), training.get("k_size")
    if p is None or k is None or training.get("sampler") not in ("identities", "cross_modal"):
        raise ValueError(
            "training: expected p_size, k_size and sampler (identities or cross_modal) together: a batch is P x K "
            "images, of each modality and view where the sampler is cross_modal"
        )
    if not all(isinstance(size, int) and size > 0 for size in (p, k)):
        return dict(training)  # the fields answer
    views = views if training["sampler"] == "cross_modal" else 1
    return {**training, "batch_size": p * k * views, "images_per_identity": k}


AugmentationSection = Annotated[dict[str, dict[str, Any] | None], _check_each(AUGMENTATIONS.check)]


class Config(Strict):
    """A run: one YAML file."""

    operation_mode: Annotated[
        str,
        AfterValidator(_mode),
        WithJsonSchema(
            {
                "type": "string",
                "examples": [
                    *SERVICE_OF_LETTER.values(),
                    "chain_tqeb",
                    "chain_tkqeb",
                    "chain_taqeb",
                    "chain_tkaqeb",
                    "chain_tqe",
                    "chain_tqep",
                    "chain_eqe",
                    "chain_eqeb",
                    "chain_qb",
                    "chain_qd",
                ],
            }
        ),
    ]
    """A service, or `chain_` and letters: t training, k distillation, a adaptation, q quantization, e evaluation,
    p prediction, b benchmarking, d deployment."""
    general: General = General()
    """The project and the conditions of the run."""
    model: ModelSection
    """The model to start from."""
    dataset: Dataset = Dataset()
    """The images."""
    preprocessing: PreprocessingSection | None = None
    """From a file to the input of the network. A model made here carries its own: training and distillation take this
    section in its place where it is stated, all other services keep the model's and warn."""
    data_augmentation: AugmentationSection = {}
    """Augmentations by name with their arguments, applied to training images in the order of appearance."""
    data_augmentation_visible: AugmentationSection = {}
    """Applied to visible images after those; one that is in both takes these arguments. Sampler cross_modal only."""
    data_augmentation_thermal: AugmentationSection = {}
    """The same for thermal images."""
    data_augmentation_second_view: AugmentationSection = {}
    """The visible images of a batch come a second time, with these, such as `random_channel_exchange`."""
    training: Training | None = None
    """Needed by training."""
    distillation: Distillation | None = None
    """Needed by distillation."""
    adaptation: Adaptation | None = None
    """Needed by adaptation."""
    quantization: Quantization | None = None
    """Needed by quantization."""
    evaluation: Evaluation = Evaluation()
    """Settings of evaluation."""
    prediction: Prediction = Prediction()
    """Settings of prediction."""
    benchmarking: Benchmarking = Benchmarking()
    """Settings of benchmarking."""
    deployment: Deployment = Deployment()
    """Settings of deployment."""
    mlflow: Mlflow = Mlflow()
    """History of runs."""
    hydra: dict[str, Any] | None = None
    """Hydra's own settings, such as `run.dir`, the pattern of the output folder."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, raw: Any) -> Any:
        """`general:` with nothing below it means the defaults, and `p_size` and `k_size` the size of a batch."""
        if not isinstance(raw, Mapping):
            return raw
        raw = {key: value for key, value in raw.items() if value is not None}
        training = raw.get("training")
        if isinstance(training, Mapping) and any(
            training.get(key) is not None for key in ("p_size", "k_size")
        ):
            has_second_view = bool(raw.get("data_augmentation_second_view"))
            raw["training"] = _with_batch_size(training, views=2 + has_second_view)
        return raw

    @property
    def services(self) -> tuple[str, ...]:
        """The services that this run executes, in order.

        `training`, `distillation` and `adaptation` end with a test where there is a test set.
        """
        services = services_of(self.operation_mode)
        makes_model = services in (("training",), ("distillation",), ("adaptation",))
        ends_with_test = makes_model and self.of_target.dataset.has_test_set
        return (*services, "evaluation") if ends_with_test else services

    @property
    def of_target(self) -> "Config":
        """The configuration as adaptation and the services after it see it: `dataset` is the target."""
        adapts = "adaptation" in services_of(self.operation_mode)
        target = self.adaptation.target if adapts and self.adaptation is not None else None
        return self if target is None else self.model_copy(update={"dataset": target})

    @model_validator(mode="after")
    def _mode_has_what_it_needs(self) -> "Config":
        services = self.services
        mistakes = [
            f"operation_mode '{self.operation_mode}' needs the section '{service}'"
            for service in ("training", "distillation", "adaptation", "quantization")
            if service in services and getattr(self, service) is None
        ]
        if self.training is not None and self.training.resume_training and self.model.model_path is None:
            mistakes.append("training.resume_training needs model.model_path, a last_augmented_model.keras")
        batches = self.quantization.batch_sizes if self.quantization and "quantization" in services else [1]
        if {"benchmarking", "deployment"} & set(services) and batches[0] != 1:
            mistakes.append(
                f"operation_mode '{self.operation_mode}' goes on with single images: the first of "
                f"quantization.batch_sizes must be 1, received {batches}"
            )
        if services[0] not in ("training", "distillation", "adaptation") and self.model.model_path is None:
            mistakes.append(
                f"operation_mode '{self.operation_mode}' needs model.model_path: it does not train a model"
            )
        mistakes += self._wrong_device(services) + self._other_chip(services) + self._wrong_teacher(services)
        mistakes += self._missing_branch() + self._wrong_model_file(services[0])
        before, after = self.split_services
        mistakes += self._missing_paths(before, "dataset")
        if after:
            is_own = self.adaptation is not None and self.adaptation.target is not None
            mistakes += self.of_target._missing_paths(after, "adaptation.target" if is_own else "dataset")
            mistakes += self._mistakes_of_adaptation(services)
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def _wrong_device(self, services: tuple[str, ...]) -> list[str]:
        """What is wrong with what a real device is to run."""
        device = self.benchmarking.device
        if device == "none" or "benchmarking" not in services:
            return []
        makes_tflite = (
            self.quantization is not None and self.quantization.quantizer == "TFlite_converter"
            if "quantization" in services
            else self.model.model_path is not None and self.model.model_path.suffix == ".tflite"
        )  # fmt: skip
        if makes_tflite:
            return [f"benchmarking.device: {device} runs ONNX and Keras models, but the model is a .tflite"]
        return []

    def _other_chip(self, services: tuple[str, ...]) -> list[str]:
        """A chip that is emulated or measured, and is not that of the package which would tell of it."""
        section, packed = self.benchmarking, self.deployment.board
        is_emulated = "evaluation" in services and self.evaluation.target == "qnn_htp_emulator"
        if "deployment" not in services or not (is_emulated or "benchmarking" in services):
            return []
        if section.board != packed:
            return [
                f"deployment.board is {packed}, but benchmarking.board, which is emulated and measured, is "
                f"{section.board}: the card and the checklist of the package would tell of another chip. Give both the "
                "same one, or deploy in a run of its own"
            ]
        device, is_measured = section.ai_hub_device, section.device == "ai_hub" and "benchmarking" in services
        if is_measured and packed not in re.findall(r"[A-Z0-9]+", device.upper()):
            return [
                f"deployment.board is {packed}, but benchmarking.ai_hub_device, which is measured, is '{device}': the "
                "checklist would take its latency for that of the package. Give both the same chip, or measure in a "
                "run of its own and state the values in deployment.gate.measurements"
            ]
        return []

    def _missing_branch(self) -> list[str]:
        terms: list[Loss] = []
        if self.training is not None and not self.training.resume_training:
            terms += self.training.terms if self.model.model_name != "idkl" else []
        section = self.distillation
        if section is not None and not section.resume_training:
            student = section.student or self.model
            stages = section.stages_of(by_modality=True) if student.model_name != "idkl" else []
            terms += [loss for stage in stages for loss in stage.losses]
        return [
            f"loss '{term.name}' sees {', '.join(term.of_training_branch)}, which only model_name: idkl has"
            for term in terms
            if term.of_training_branch
        ]

    @property
    def made_network(self) -> tuple[ModelSection, bool]:
        """The network that the run makes, the last of several, and whether it is given a BNNeck."""
        if "distillation" in self.services and self.distillation is not None:
            return self.distillation.student or self.model, self.distillation.bnneck
        return self.model, self.training is not None and self.training.bnneck

    def _wrong_teacher(self, services: tuple[str, ...]) -> list[str]:
        """What is wrong with who teaches whom."""
        if self.training is not None:
            strangers = [loss.name for loss in self.training.terms if loss.needs_teacher]
            if strangers and "training" in services:
                return [
                    f"training.losses has {', '.join(strangers)}, which compares with a teacher: that is for "
                    "distillation.stages"
                ]
        section = self.distillation
        if "distillation" not in services or section is None:
            return []
        mode, has_teacher = f"operation_mode '{self.operation_mode}'", bool(section.teacher)
        mistakes = [
            f"distillation.teacher takes .keras files, such as a best_model.keras, received {path}"
            for path in section.teacher
            if path.suffix != ".keras"
        ]
        if "training" not in services:
            if not has_teacher and section.teacher_momentum is None:
                mistakes.append(f"{mode} needs distillation.teacher: it does not train one")
            if section.student is not None:
                mistakes.append(
                    f"{mode} has its student in the section model; distillation.student is for chains whose training "
                    "makes the teacher"
                )
        elif has_teacher or section.teacher_momentum is not None:
            if section.student is not None:
                mistakes.append(
                    f"{mode}: with a teacher of its own and distillation.student, what is trained is neither teacher "
                    "nor student: leave one of them out"
                )
        elif section.student is None:
            mistakes.append(
                f"{mode} needs distillation.student, the trained model being the teacher; or distillation.teacher, the "
                "trained model being the student"
            )
        if section.resume_training and (services[0] != "distillation" or self.model.model_path is None):
            mistakes.append(
                "distillation.resume_training needs model.model_path, a last_augmented_model.keras, and an "
                "operation_mode that begins with distillation"
            )
        return mistakes

    def _wrong_model_file(self, first: str) -> list[str]:
        path = self.model.model_path
        needed = MODEL_SUFFIXES["quantization" if "quantization" in self.services else first]
        if path is None or path.suffix in needed:
            return []
        return [
            f"operation_mode '{self.operation_mode}' takes a {' or '.join(needed)} file, model.model_path is {path}"
        ]

    @property
    def split_services(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The services before adaptation, and it with those that come after."""
        services = self.services
        first = services.index("adaptation") if "adaptation" in services else len(services)
        return services[:first], services[first:]

    @property
    def scores_source(self) -> bool:
        """Whether the last evaluation after an adaptation is of the source, too: other people, with test images."""
        before, after = self.split_services
        has_target = self.adaptation is not None and self.adaptation.target is not None
        return bool(before) and has_target and "evaluation" in after and self.dataset.has_test_set

    def _mistakes_of_adaptation(self, services: tuple[str, ...]) -> list[str]:
        mistakes = []
        if services[0] == "adaptation" and self.model.model_name and self.model.model_path:
            mistakes.append(
                "adaptation goes on with the network of model.model_path as it is: leave model.model_name out, or "
                "train it first"
            )
        if "quantization" in services and self.quantization and self.quantization.qat.task_weight > 0:
            mistakes.append(
                "quantization.qat.task_weight needs labels, which the images that a model was adapted to do not have: "
                "expected 0"
            )
        return mistakes

    def _missing_paths(self, services: tuple[str, ...], section: str) -> list[str]:
        dataset = self.dataset
        if not services or dataset.is_rendered:
            return []
        if dataset.root_path is not None:
            shows_own = dataset.prediction_query_path is not None
            testing = {"evaluation", "benchmarking", *(() if shows_own else ("prediction",))}
            tests = [service for service in services if service in testing]
            if dataset.has_test_set or not tests:
                return []
            return [
                f"operation_mode '{self.operation_mode}' needs test images, but {section}.root_path "
                f"{dataset.root_path} has no folders query and gallery: add them, or leave out {', '.join(tests)}"
            ]
        if dataset.has_lists:
            return (
                [f"operation_mode '{self.operation_mode}' needs {section}.root_path"]
                if services != ("deployment",)
                else []
            )
        missing = []
        if {"training", "distillation", "adaptation"} & set(services) and dataset.training_path is None:
            missing.append(f"{section}.training_path")
        if "quantization" in services and dataset.quantization_path is None and dataset.training_path is None:
            missing.append(f"{section}.quantization_path")
        if {"evaluation", "benchmarking"} & set(services) and dataset.test_query_path is None:
            missing.append(f"{section}.test_query_path and {section}.test_gallery_path")
        if "prediction" in services and {dataset.prediction_query_path, dataset.test_query_path} == {None}:
            missing.append(f"{section}.prediction_query_path and {section}.prediction_gallery_path")
        return [f"operation_mode '{self.operation_mode}' needs {key}" for key in missing]
