"""Every network of the zoo: saved, loaded, rebuilt, folded and exported, it computes the same."""

import keras
import numpy as np
import pytest
import tf_keras

from common.quantization.branches import branches
from common.quantization.bridge import to_tf_keras
from common.quantization.fold import fold_batch_norm
from common.quantization.onnx_export import export_onnx
from common.runtime.keras_file import load_network
from src.models._head import embedding_model, reid_network
from src.registries import MODELS
from src.tools.quantization_parity import _images, _randomize

SHAPE = (32, 32, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_every_network_keeps_its_outputs(name, tmp_path, run_onnx):
    keras.utils.set_random_seed(0)
    network = reid_network(MODELS.build(name, input_shape=SHAPE), num_identities=2, bnneck=True)
    images = _images(network, 8)
    _randomize(network, images)
    model = embedding_model(network)
    model.save(tmp_path / "model.keras")
    loaded = branches(load_network(tmp_path / "model.keras"))
    for modality, branch in branches(model).items():
        pixels = images[modality] if modality else images
        expected = np.asarray(branch(pixels, training=False))
        scale = np.abs(expected).max()
        assert np.ptp(expected, axis=0).max() > 0.1 * scale  # images differ
        bridged = to_tf_keras(branch)
        folded = fold_batch_norm(bridged)
        for found in (
            loaded[modality](pixels, training=False),
            bridged(pixels, training=False),
            folded(pixels, training=False),
            run_onnx(export_onnx(branch, batch_size=len(pixels)), pixels),
        ):
            np.testing.assert_allclose(found / scale, expected / scale, atol=1e-4)
        assert len(bridged.weights) == len(branch.weights)
        norms = (tf_keras.layers.BatchNormalization, tf_keras.layers.Dense)
        assert not [layer for layer in folded.layers if isinstance(layer, norms)]
