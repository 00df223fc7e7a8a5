"""A network of your own. Change this one, or copy the file and name the copy in `model.custom_model_file`."""

import keras
from keras import layers

from src.models._inputs import image_input


def custom_model(
    input_shape: tuple[int, int, int] = (256, 128, 3), width: int = 32, depth: int = 4
) -> keras.Model:
    """Build a plain network of 3x3 convolutions: rescaled images (N, H, W, C) to features (N, width * 2**(depth-1)).

    Every argument but `input_shape` is set in the YAML, under `model.arguments`. Training adds the neck, the dropout
    (`training.dropout`) and the classifier.

    Args:
        input_shape: Height, width and channels, as `model.input_shape` says.
        width: Channels of the first stage; each stage doubles them.
        depth: Stages; each halves height and width.
    """
    images = image_input(input_shape)
    x = images
    for stage in range(1, depth + 1):
        channels = width * 2 ** (stage - 1)
        x = layers.Conv2D(channels, 3, strides=2, padding="same", use_bias=False, name=f"conv{stage}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"conv{stage}_bn")(x)
        x = layers.ReLU(name=f"conv{stage}_relu")(x)
    features = layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(images, features, name="custom_model")
