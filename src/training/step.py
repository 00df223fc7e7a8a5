"""One optimization step and one validation step of a re-identification network."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from src.training.distribution import mean_over_replicas, whole_batch

Losses = Mapping[str, tuple[float, Callable[[Mapping[str, Any], Any], Any]]]
"""Name to (weight, function of the network's outputs and the labels)."""


def losses_of(training: Any) -> Losses:
    """The losses that `training` asks for: cross-entropy on logits, metric losses on features.

    Args:
        training: The configuration's section (`src.schema.Training`).
    """
    from src.registries import LOSSES

    cross_entropy = LOSSES.get("cross_entropy")
    smoothing = training.label_smoothing
    losses: dict[str, Any] = {
        "cross_entropy": (1.0, lambda outputs, labels: cross_entropy(outputs["logits"], labels, smoothing))
    }
    if training.triplet_loss is not None:
        triplet = LOSSES.get("triplet")
        arguments = training.triplet_loss.model_dump(exclude={"weight"})
        losses["triplet"] = (
            training.triplet_loss.weight,
            lambda outputs, labels: triplet(outputs["features"], labels, **arguments),
        )
    return losses


def forward(network: keras.Model, losses: Losses, images: Any, labels: Any, training: bool) -> dict[str, Any]:
    """Run the network and its losses.

    Args:
        network: Images (N, H, W, C) to a dict with `features`, `embedding`, `logits`.
        losses: What to add up.
        images: Rescaled images (N, H, W, C); under a strategy, this replica's part of the batch.
        labels: Integers (N,).
        training: Batch statistics and dropout, or not.

    Returns:
        Scalars of the whole batch: `loss`, one `<name>_loss` each, and `accuracy` of the classifier.
    """
    outputs = {name: ops.cast(value, "float32") for name, value in network(images, training=training).items()}
    outputs, labels = whole_batch(outputs, labels)
    values = {f"{name}_loss": function(outputs, labels) for name, (_, function) in losses.items()}
    total = sum(losses[name][0] * values[f"{name}_loss"] for name in losses)
    correct = ops.equal(ops.argmax(outputs["logits"], axis=-1), ops.cast(labels, "int64"))
    return {"loss": total, **values, "accuracy": ops.mean(ops.cast(correct, "float32"))}


def make_training_step(
    network: keras.Model, optimizer: keras.optimizers.Optimizer, losses: Losses, compiled: bool = True
) -> Callable[[Any, Any], dict[str, Any]]:
    """Return `step(images, labels)`, which updates the network once and returns the scalars of `forward`.

    One device runs it as it is, each replica of a strategy on its part of the batch.

    Args:
        network: Trained in place.
        optimizer: Applied to the trainable variables; a loss-scaling one is honoured.
        losses: What to add up.
        compiled: False runs eagerly, for a strategy that traces it itself, and for tests: tracing a deep network
            takes tens of seconds.
    """
    import tensorflow as tf

    variables = network.trainable_variables
    optimizer.build(variables)

    def step(images: Any, labels: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            scalars = forward(network, losses, images, labels, training=True)
            total = scalars["loss"] + sum(network.losses, ops.zeros(()))
            scaled = optimizer.scale_loss(total)
        gradients = tape.gradient(scaled, [v.value for v in variables])
        optimizer.apply(mean_over_replicas(gradients), variables)
        scalars["loss"] = total
        return dict(zip(scalars, mean_over_replicas(list(scalars.values())), strict=True))

    return _compile(step, network) if compiled else step


def make_validation_step(
    network: keras.Model, losses: Losses, compiled: bool = True
) -> Callable[[Any, Any], dict[str, Any]]:
    """Return `step(images, labels)`, which returns the scalars of `forward` in inference mode."""

    def step(images: Any, labels: Any) -> dict[str, Any]:
        return forward(network, losses, images, labels, training=False)

    return _compile(step, network) if compiled else step


def _compile(
    step: Callable[[Any, Any], dict[str, Any]], network: keras.Model
) -> Callable[[Any, Any], dict[str, Any]]:
    """Trace once for any batch size (a trace takes up to 40 s), without XLA (several times slower on a CPU)."""
    import tensorflow as tf

    signature = [
        tf.TensorSpec((None, *network.input_shape[1:]), tf.float32),
        tf.TensorSpec((None,), tf.int32),
    ]
    return tf.function(step, jit_compile=False, input_signature=signature)
