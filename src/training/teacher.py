"""What a teacher tells a training step: its embedding of each image, and to whom it would assign it."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from common.vectors import unit
from src.models._two_stems import MODALITIES
from src.training.step import Teacher, network_input
from src.training.validation import by_modality

_PROTOTYPE_SCALE = 16.0  # of cosines before the softmax: with 1, no classifier could be sure


def prototypes_of(embeddings: np.ndarray, labels: np.ndarray, modalities: Sequence[str]) -> np.ndarray:
    """Return the mean direction of each person's embeddings, float32 (C, D) with rows of length 1.

    A saved embedding model has lost the classifier that it was trained with, and may have been trained on other people:
    the cosines to these prototypes stand in for logits (`prototype_logits`). The mean directions of a person's visible
    and thermal images count alike, however many there are of each.

    Args:
        embeddings: Of the training images, (N, D), rows of length 1.
        labels: In [0, C), each at least once, (N,).
        modalities: Of the images, N names.
    """
    means = np.zeros((labels.max() + 1, embeddings.shape[1]), np.float32)
    for name in sorted(set(modalities)):
        own = np.array(modalities) == name
        sums = np.zeros_like(means)
        np.add.at(sums, labels[own], embeddings[own])
        means += unit(sums)
    return unit(means)


def prototype_logits(embeddings: Any, prototypes: Any) -> Any:
    """Return 16 times the cosines (N, C) of embeddings (N, D) to prototypes (C, D), all rows of length 1."""
    return _PROTOTYPE_SCALE * ops.matmul(embeddings, ops.transpose(prototypes))


def margins_of(embeddings: np.ndarray, labels: np.ndarray, modalities: Sequence[str]) -> np.ndarray:
    """Return how much nearer each image is to its own person's prototype than to the nearest other one's, (N,).

    Args:
        embeddings: (N, D), rows of length 1.
        labels: In [0, C), with C of at least 2, (N,).
        modalities: Of the images, N names.
    """
    cosines = embeddings @ prototypes_of(embeddings, labels, modalities).T  # (N, C)
    images = np.arange(len(labels))
    own = cosines[images, labels]
    cosines[images, labels] = -np.inf
    return own - cosines.max(axis=1)


def cached_teacher(embeddings: np.ndarray, prototypes: np.ndarray) -> Teacher:
    """A teacher that has seen every training image once.

    Args:
        embeddings: Of the training images, float32 (images, D), rows of length 1.
        prototypes: (C, D).
    """
    table, centers = ops.convert_to_tensor(embeddings), ops.convert_to_tensor(prototypes)
    return Teacher(lambda images, index: _told(ops.take(table, index, axis=0), centers))


def seeing_teacher(networks: Sequence[keras.Model], prototypes: np.ndarray) -> Teacher:
    """A teacher that sees each batch as the student does, in inference mode.

    Args:
        networks: Embedding models of rescaled images, of one input or one for each modality; of several the cosines are
            averaged.
        prototypes: (C, D), with D the sum of their lengths.
    """
    parts = [by_modality(network) for network in networks]
    centers = ops.convert_to_tensor(prototypes)
    return Teacher(lambda images, index: _told(joined([_embedded(part, images) for part in parts]), centers))


def following_teacher(network: keras.Model, momentum: float) -> Teacher:
    """The moving average of a network's weights, as it is in inference (Tarvainen and Valpola, Mean teachers, 2017).

    Args:
        network: The student's training network. The average starts as a copy of it.
        momentum: The average keeps this share of itself at each step, and 1 - 1 / t at step t where that is less: it is
            the mean of all steps so far until there are enough, and not what the network began with.
    """
    average = keras.models.clone_model(network)
    average.set_weights(network.get_weights())
    average.trainable = False

    def gives(images: Any, index: Any) -> dict[str, Any]:
        outputs = average(network_input(average, images), training=False)
        embedding, logits = (ops.cast(outputs[name], "float32") for name in ("embedding", "logits"))
        return {"teacher_embedding": joined([embedding]), "teacher_logits": logits}

    steps = keras.Variable(0.0, trainable=False)

    def advance() -> None:
        steps.assign_add(1.0)
        follow(average, ops.minimum(momentum, 1.0 - 1.0 / steps), network)

    return Teacher(gives, advance)


def follow(average: keras.Model, momentum: Any, network: keras.Model) -> None:
    """Move an average of weights: weight <- momentum * weight + (1 - momentum) * the network's weight.

    Args:
        average: Changed in place.
        momentum: In [0, 1].
        network: Has weights of the same shapes in the same order, of any float type.
    """
    for kept, new in zip(average.weights, network.weights, strict=True):
        kept.assign(momentum * kept + (1.0 - momentum) * ops.cast(new, kept.dtype))


def joined(embeddings: Sequence[Any]) -> Any:
    """Make one embedding of several, (N, sum of D) with rows of length 1: its cosines are the means of theirs."""
    units = [ops.normalize(ops.cast(part, "float32"), axis=1, epsilon=1e-12) for part in embeddings]
    return ops.concatenate(units, axis=1) / len(units) ** 0.5


def _told(embedding: Any, prototypes: Any) -> dict[str, Any]:
    return {"teacher_embedding": embedding, "teacher_logits": prototype_logits(embedding, prototypes)}


def _embedded(parts: Mapping[str, keras.Model], images: Any) -> Any:
    """Embeddings (N, D) of a batch, visible images first where it has both."""
    if not isinstance(images, Mapping):
        return parts[""](images, training=False)
    return ops.concatenate(
        [parts.get(m, parts.get(""))(images[m], training=False) for m in MODALITIES], axis=0
    )
