"""ImageNet weights that Keras publishes."""

import keras

from common.config import ConfigError

_PUBLISHER = "https://storage.googleapis.com/tensorflow/keras-applications"


def load_imagenet(network: keras.Model, file: str) -> None:
    """Load published weights, from `<KERAS_HOME>/models` or, where they are not there yet, from the network.

    They were trained on images in [-1, 1]. The weights of the MobileNets are published for several square
    image sizes; those of 224 serve any size, as the networks are convolutional.

    Args:
        network: A network of `keras.applications` without its top.
        file: Path of the weights below the publisher's folder.

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
    folder = f"{keras.config.keras_home()}/models"
    advice = (
        f"Download {url} on a machine that can, put it into {folder} (KERAS_HOME moves this folder), and run "
        "again; or set `pretrained: False` to train from scratch"
    )
    try:
        path = keras.utils.get_file(name, url, cache_subdir="models")
    except Exception as error:  # get_file raises a bare Exception where the network fails
        raise ConfigError(f"pretrained: cannot download the weights '{name}' ({error}). {advice}") from error
    try:
        network.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"pretrained: {path} is not the expected weights file ({error}). Delete it. {advice}"
        ) from error
