"""Counts of the small network for experiments."""

import keras
import numpy as np
import pytest

from src.models.plain_cnn import plain_cnn


def test_parameters_multiply_accumulates_and_maps():
    model = plain_cnn((128, 64, 3))
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert (trainable, model.count_params()) == (426_840, 427_944)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    macs = [int(np.prod(c.kernel.shape)) * int(np.prod(c.output.shape[1:3])) for c in convolutions]
    assert sum(macs) == 49_102_848
    assert [c.output.shape[1:] for c in convolutions] == [
        *((64, 32, 24), (32, 16, 48), (32, 16, 64), (16, 8, 96), (16, 8, 128), (8, 4, 192))
    ]


def test_half_the_width_is_a_quarter_of_the_weights():
    model = plain_cnn((128, 64, 3), width=0.5)
    kernels = [layer.kernel.shape[-1] for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert kernels == [12, 24, 32, 48, 64, 96] and model.output_shape == (None, 96)
    assert 0.25 < model.count_params() / plain_cnn((128, 64, 3)).count_params() < 0.26
    with pytest.raises(ValueError, match="width: expected at least 0.042, received 0.01"):
        plain_cnn((128, 64, 3), width=0.01)
