"""The bridge and the folding over the whole zoo."""

import keras
import numpy as np
import pytest
import tf_keras

from common.quantization.branches import branches
from common.quantization.bridge import to_tf_keras
from common.quantization.fold import fold_batch_norm
from src.models._head import embedding_model, reid_network
from src.registries import MODELS
from src.tools.quantization_parity import _images, _randomize

SHAPE = (32, 32, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_every_network_keeps_its_outputs(name):
    keras.utils.set_random_seed(0)
    network = reid_network(MODELS.build(name, input_shape=SHAPE), num_identities=2, bnneck=True)
    images = _images(network, 8)
    _randomize(network, images)
    for modality, branch in branches(embedding_model(network)).items():
        pixels = images[modality] if modality else images
        expected = np.asarray(branch(pixels, training=False))
        scale = np.abs(expected).max()
        assert np.ptp(expected, axis=0).max() > 0.1 * scale  # images differ
        bridged = to_tf_keras(branch)
        np.testing.assert_allclose(bridged(pixels, training=False) / scale, expected / scale, atol=1e-4)
        assert len(bridged.weights) == len(branch.weights)
        folded = fold_batch_norm(bridged)
        np.testing.assert_allclose(folded(pixels, training=False) / scale, expected / scale, atol=1e-4)
        norms = (tf_keras.layers.BatchNormalization, tf_keras.layers.Dense)
        assert not [layer for layer in folded.layers if isinstance(layer, norms)]
