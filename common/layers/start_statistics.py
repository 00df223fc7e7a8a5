"""Moving statistics of a fresh network."""

from typing import Any

import keras


def start_statistics(model: keras.Model, images: Any) -> None:
    """Set the moving statistics of every batch norm to those of one batch.

    They start at mean 0 and variance 1 and follow by a moving average, so while the true variance of a layer is
    0.01, hundreds of steps pass before inference resembles training: in a deep network the errors multiply, and every
    image gets the same embedding. Starting from real statistics makes validation right from the first epoch on.

    Args:
        model: A network with random weights; changed in place.
        images: A batch of inputs as in training.
    """
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    model(images, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
