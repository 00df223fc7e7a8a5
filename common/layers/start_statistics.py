"""Moving statistics of a network, taken from images at once."""

from collections.abc import Iterable
from typing import Any

import keras


def start_statistics(model: keras.Model, images: Any, name: str = "") -> None:
    """Set the moving statistics of every batch norm to those of one batch.

    They start at mean 0 and variance 1 and follow by a moving average, so while the true variance of a layer is
    0.01, hundreds of steps pass before inference resembles training: in a deep network the errors multiply, and every
    image gets the same embedding. Starting from real statistics makes validation right from the first epoch on.

    Args:
        model: A network with random weights; changed in place.
        images: A batch of inputs as in training.
        name: As of `average_statistics`.
    """
    average_statistics(model, [images], name)


def average_statistics(model: keras.Model, batches: Iterable[Any], name: str = "") -> None:
    """Set the moving statistics of every batch norm to the means of those of some batches, which images weigh.

    With batches of another domain, this fits a trained network to it without a gradient (AdaBN; Li et al., "Revisiting
    Batch Normalization for Practical Domain Adaptation", 2016).

    Args:
        model: Changed in place.
        batches: Of inputs as in training, one or more.
        name: What the names of the batch norms to set have in them, such as `bnneck` of a new neck; the others compute
            as in inference, with the statistics that they have.
    """
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [(layer.momentum, layer.trainable) for layer in layers]
    for layer in layers:
        layer.trainable = layer.trainable and name in layer.name
    seen = 0
    for images in batches:
        number = sum(len(part) for part in keras.tree.flatten(images))
        for layer in layers:
            layer.momentum = seen / (seen + number)
        model(images, training=True)
        seen += number
    for layer, (momentum, trainable) in zip(layers, before, strict=True):
        layer.momentum, layer.trainable = momentum, trainable
