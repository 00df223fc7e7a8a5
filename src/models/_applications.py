"""Backbones made of a network of `keras.applications`, with the ImageNet weights that Keras publishes."""

import os
from pathlib import Path

import keras

from common.config import ConfigError

_PUBLISHER = "https://storage.googleapis.com/tensorflow/keras-applications"
_MOMENTUM = 0.9


def as_backbone(network: keras.Model, name: str, weights: str | None) -> keras.Model:
    """Pool a network without its top to `features` (N, D), and load published weights.

    The networks come with batch-norm momenta of 0.99 and 0.999, whose averages need hundreds or thousands of steps
    to follow the weights: after a short training on few images inference would see random statistics, and every
    image the same embedding. All backbones use 0.9, as OSNet's authors do.

    Args:
        network: Images (N, H, W, C) to a map (N, h, w, D).
        name: Name of the backbone.
        weights: File of the weights, a path below the publisher's folder, or None for random weights.
    """
    if weights is not None:
        _load_imagenet(network, weights)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = _MOMENTUM
    features = keras.layers.GlobalAveragePooling2D(name="features")(network.output)
    return keras.Model(network.inputs[0], features, name=name)


def _load_imagenet(network: keras.Model, file: str) -> None:
    """Load weights from `<KERAS_HOME>/models` or, where they are not there yet, from the network.

    They were trained on RGB images in [-1, 1].

    Raises:
        ConfigError: the images do not have three channels, or the file cannot be had or read.
    """
    channels = network.input_shape[-1]
    if channels != 3:
        raise ConfigError(
            f"pretrained: ImageNet weights need images of 3 channels, but input_shape has {channels}; "
            "use color_mode rgb, or set `pretrained: False`"
        )
    url = f"{_PUBLISHER}/{file}"
    name = file.rpartition("/")[2]
    folder = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser().absolute() / "models"
    advice = (
        f"Download {url} on a machine that can, put it into {folder} (KERAS_HOME moves this folder), and run "
        "again; or set `pretrained: False` to train from scratch"
    )
    try:
        path = keras.utils.get_file(name, url, cache_subdir=str(folder))
    except Exception as error:  # get_file raises a bare Exception where the network fails
        raise ConfigError(f"pretrained: cannot download the weights '{name}' ({error}). {advice}") from error
    try:
        network.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"pretrained: {path} does not hold the expected weights ({error}). Delete it. {advice}"
        ) from error
