"""Keras's own image layers, driven by a seed that is given."""

from typing import Any

import keras
import tensorflow as tf

from src.augmentation._augment import Augment


class _Seeds(keras.random.SeedGenerator):
    """The seeds that follow from a tensor.

    A Keras layer takes its seed from an integer or from a generator that counts calls in a variable. Neither can
    depend on the step, and a counter gives other images after a restart.
    """

    def __init__(self, seed: Any) -> None:
        self._seed, self._draws = seed, 0

    def next(self, ordered: bool = True) -> Any:
        self._draws += 1
        return tf.random.fold_in(self._seed, self._draws)


def of_keras(layer: keras.layers.Layer) -> Augment:
    """Return what a Keras image layer does in training, as a function of images and seed."""

    def change(images: Any, seed: Any) -> Any:
        drawn = layer.get_random_transformation(images, training=True, seed=_Seeds(seed))
        return layer.transform_images(images, drawn, training=True)

    return change
