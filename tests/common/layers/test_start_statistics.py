import keras
import numpy as np
import pytest

from common.layers.rewrite import with_fused_batch_norm
from common.layers.start_statistics import start_statistics


@pytest.mark.parametrize("rewrite", [lambda model: model, with_fused_batch_norm])
def test_inference_resembles_training_from_the_start(rewrite):
    keras.utils.set_random_seed(0)
    images = x = keras.Input((16, 16, 3))
    for _ in range(6):
        x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    model = rewrite(keras.Model(images, keras.layers.GlobalAveragePooling2D()(x)))
    batch = np.random.default_rng(0).normal(0, 0.1, (8, 16, 16, 3)).astype(np.float32)
    in_training = keras.ops.convert_to_numpy(model(batch, training=True))
    before = keras.ops.convert_to_numpy(model(batch, training=False))
    start_statistics(model, batch)
    after = keras.ops.convert_to_numpy(model(batch, training=False))
    assert np.abs(before - in_training).mean() > 0.1
    np.testing.assert_allclose(after, in_training, atol=1e-3)
    assert {layer.momentum for layer in model.layers if hasattr(layer, "momentum")} == {0.9}
