"""One optimization step and one validation step of a re-identification network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from common.config import ConfigError
from src.losses._centers import moved_centers
from src.models._head import centers_of, log_variances_of
from src.models._two_stems import MODALITIES, has_two_stems, input_shapes
from src.registries import LOSSES, logged_loss
from src.schema import GIVEN_TO_LOSSES, Loss, Training
from src.training.distribution import mean_over_replicas, whole_batch
from src.training.uncertainty import weighted_by_uncertainty

_HEAD = ("bnneck", "logits")  # in the names of layers
Losses = Mapping[str, tuple[Any, Callable[[Mapping[str, Any], Any], Any]]]
"""Name to (weight, function of the network's outputs and the labels); a weight is a number or a scalar variable.

Beside the outputs the function finds `modalities`, integers (N,) that are 0 for visible images and 1 for thermal ones,
`centers`, and what the teacher of a distillation gives."""


class Teacher(NamedTuple):
    """A teacher, as a training step calls it: functions of tensors, which are traced with the step."""

    gives: Callable[[Any, Any], dict[str, Any]]
    """(images of a batch, their numbers (N,) among the training images) to what losses are given: `teacher_embedding`
    float32 (N, D) with rows of length 1, and `teacher_logits` float32 (N, C)."""
    follow: Callable[[], None] = lambda: None
    """Called after each step of the student."""


def losses_of(training: Training) -> Losses:
    """The losses that `training` asks for, by default cross-entropy on logits and a triplet loss on features.

    The weight of a loss with a schedule is a variable, 0 at first, which `callbacks.FollowLossSchedules` sets.

    Args:
        training: The configuration's section.
    """
    return {
        term.name: (
            term.weight if term.schedule is None else keras.Variable(0.0, trainable=False),
            _loss(term),
        )
        for term in training.terms
    }


def check_losses(training: Training) -> None:
    """Run every loss once on zeros.

    Raises:
        ConfigError: an argument has a value that the loss refuses.
    """
    rows, parts, numbers = ops.zeros((2, 2)), ops.zeros((2, 2, 2)), ops.zeros((2,), "int32")
    names = (*GIVEN_TO_LOSSES, *(output for term in training.terms for output in term.outputs))
    given = {
        **dict.fromkeys(names, rows),
        **dict.fromkeys(("map_logits", "normed_features"), parts),
        "modalities": numbers,
    }
    for term in training.terms:
        try:
            _loss(term)(given, numbers)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"training.losses: loss '{term.name}' cannot be computed: {error}") from error


def _loss(term: Loss) -> Callable[[Mapping[str, Any], Any], Any]:
    function, wanted = LOSSES.get(term.name), [name for name in GIVEN_TO_LOSSES if term.takes(name)]

    def loss(outputs: Mapping[str, Any], labels: Any) -> Any:
        known = {**outputs, "labels": labels}
        given = {name: known[name] for name in wanted}
        seen = [{term.argument: known[output]} for output in term.outputs] or [{}]
        return sum(function(**{**given, **one}, **term.arguments) for one in seen)

    return loss


def network_input(network: keras.Model, images: Any) -> Any:
    """Return images as a network takes them: those of two modalities behind one another where it has one input.

    Args:
        network: With one input, or one for each modality.
        images: (N, H, W, C), or {"visible": (N, H, W, C), "thermal": (M, H, W, C)}.
    """
    if not isinstance(images, Mapping) or has_two_stems(network):
        return images
    return ops.concatenate([images[name] for name in MODALITIES], axis=0)


def forward(
    network: keras.Model,
    losses: Losses,
    images: Any,
    labels: Any,
    training: bool,
    modality: int = 0,
    taught: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run the network and its losses; in training, centers then follow the features.

    Args:
        network: Images to a dict with `features`, `embedding`, `logits`.
        losses: What to add up.
        images: Rescaled images (N, H, W, C), or those of each modality; under a strategy, this replica's part of the
            batch.
        labels: Integers (N,), of visible images, then of thermal ones.
        training: Batch statistics and dropout, or not.
        modality: Number of the modality of images that are not a dict.
        taught: What a teacher gives to the losses.

    Returns:
        Scalars of the whole batch: `loss`, one for each loss (`logged_loss`), and `accuracy` of the classifier.
    """
    outputs = network(network_input(network, images), training=training)
    outputs = {name: ops.cast(value, "float32") for name, value in outputs.items()}
    outputs, labels = whole_batch(outputs, labels)
    given = {**outputs, "modalities": _modalities(images, labels, modality), **(taught or {})}
    centers = centers_of(network)
    if centers is not None:
        given["centers"] = centers.centers
    values = {logged_loss(name): function(given, labels) for name, (_, function) in losses.items()}
    terms, log_variances = list(values.values()), log_variances_of(network)
    if log_variances is not None:
        terms = weighted_by_uncertainty(terms, log_variances.values)
    total = sum(weight * term for (weight, _), term in zip(losses.values(), terms, strict=True))
    correct = ops.equal(ops.argmax(outputs["logits"], axis=-1), ops.cast(labels, "int64"))
    if centers is not None and training:
        features = ops.stop_gradient(outputs["features"])
        centers.centers.assign(moved_centers(centers.centers, features, labels))
    return {"loss": total, **values, "accuracy": ops.mean(ops.cast(correct, "float32"))}


def _modalities(images: Any, labels: Any, modality: int) -> Any:
    """Number of the modality of each image, (N,)."""
    if not isinstance(images, Mapping):
        return ops.full_like(labels, modality)
    counts = [ops.shape(images[name])[0] for name in MODALITIES]
    return ops.concatenate(
        [ops.full((count,), number, "int32") for number, count in enumerate(counts)], axis=0
    )


def make_training_step(
    network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    losses: Losses,
    compiled: bool = True,
    by_modality: bool = False,
    head_rate: float = 1.0,
    teacher: Teacher | None = None,
) -> Callable[..., dict[str, Any]]:
    """Return `step(images, labels)`, which updates the network once and returns the scalars of `forward`.

    One device runs it as it is, each replica of a strategy on its part of the batch.

    Args:
        network: Trained in place.
        optimizer: Applied to the trainable variables; a loss-scaling one is honoured.
        losses: What to add up.
        compiled: False runs eagerly, for a strategy that traces it itself, and for tests: tracing a deep network
            takes tens of seconds.
        by_modality: Whether images are a dict of modalities also where the network has one input.
        head_rate: Factor on the gradients of neck and classifier.
        teacher: Of a distillation; the step is then `step(images, labels, index)` with the images' numbers, (N,).
    """
    import tensorflow as tf

    variables = network.trainable_variables
    names = _layers_of(network, variables)
    rates = [head_rate if any(part in name for part in _HEAD) else 1.0 for name in names]
    optimizer.build(variables)

    def step(images: Any, labels: Any, *index: Any) -> dict[str, Any]:
        taught = None if teacher is None else teacher.gives(images, *index)
        with tf.GradientTape() as tape:
            scalars = forward(network, losses, images, labels, training=True, taught=taught)
            total = scalars["loss"] + sum(network.losses, ops.zeros(()))
            scaled = optimizer.scale_loss(total)
        gradients = mean_over_replicas(tape.gradient(scaled, [v.value for v in variables]))
        # No loss need see the classifier.
        moved = [
            (g if rate == 1 else g * rate, v)
            for g, rate, v in zip(gradients, rates, variables, strict=True)
            if g is not None
        ]
        optimizer.apply([gradient for gradient, _ in moved], [variable for _, variable in moved])
        scalars["loss"] = total
        if teacher is not None:
            teacher.follow()
        return dict(zip(scalars, mean_over_replicas(list(scalars.values())), strict=True))

    return _compile(step, network, by_modality, vectors=1 if teacher is None else 2) if compiled else step


def _layers_of(network: keras.Model, variables: Sequence[Any]) -> list[str]:
    """Name of the layer that holds each variable."""
    names = {id(v): layer.name for layer in network.layers for v in layer.trainable_variables}
    return [names[id(variable)] for variable in variables]


def make_validation_step(
    network: keras.Model, losses: Losses, compiled: bool = True, modality: int = 0
) -> Callable[[Any, Any], dict[str, Any]]:
    """Return `step(images, labels)`, which returns the scalars of `forward` in inference mode.

    Args:
        network: With one input.
        losses: What to add up.
        compiled: Whether the step is traced.
        modality: Number of the modality of the images.
    """

    def step(images: Any, labels: Any) -> dict[str, Any]:
        return forward(network, losses, images, labels, training=False, modality=modality)

    return _compile(step, network) if compiled else step


def _compile(
    step: Callable[..., dict[str, Any]], network: keras.Model, by_modality: bool = False, vectors: int = 1
) -> Callable[..., dict[str, Any]]:
    """Trace once for any batch size (a trace takes up to 40 s), without XLA (several times slower on a CPU).

    The step takes images and some vectors of integers, the labels first.
    """
    import tensorflow as tf

    shapes = input_shapes(network)
    specs = {name: tf.TensorSpec((None, *shape), tf.float32) for name, shape in shapes.items()}
    images = specs.get("", specs)
    if by_modality and "" in specs:
        images = dict.fromkeys(MODALITIES, specs[""])
    integers = [tf.TensorSpec((None,), tf.int32)] * vectors
    return tf.function(step, jit_compile=False, input_signature=[images, *integers])
