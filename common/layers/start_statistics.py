"""Moving statistics of a fresh network."""

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
        name: What the names of the batch norms to set have in them, such as `bnneck` of a new neck; the others compute
            as in inference, with the statistics that they have.
    """
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [(layer.momentum, layer.trainable) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
        layer.trainable = layer.trainable and name in layer.name
    model(images, training=True)
    for layer, (momentum, trainable) in zip(layers, before, strict=True):
        layer.momentum, layer.trainable = momentum, trainable
