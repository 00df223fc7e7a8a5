import keras
import numpy as np
import pytest

from common.layers.rewrite import with_fused_batch_norm
from common.layers.start_statistics import average_statistics, start_statistics


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


def test_statistics_of_several_batches_are_their_means_weighed_by_images():
    """As AdaBN takes them from another domain; layers of other names keep theirs and pass on what they gave before."""
    images = x = keras.Input((4, 4, 2))
    for name in ("first", "other", "last"):
        x = keras.layers.BatchNormalization(momentum=0.9, name=name)(x)
    model = keras.Model(images, x)
    random = np.random.default_rng(0)
    batches = [random.normal(3, 2, (n, 4, 4, 2)).astype(np.float32) for n in (6, 6, 2)]
    average_statistics(model, iter(batches), name="first")
    first, other = (model.get_layer(name) for name in ("first", "other"))
    for values, statistic in (("mean", first.moving_mean), ("var", first.moving_variance)):
        expected = np.average(
            [getattr(b, values)(axis=(0, 1, 2)) for b in batches], axis=0, weights=[6, 6, 2]
        )
        np.testing.assert_allclose(keras.ops.convert_to_numpy(statistic), expected, rtol=1e-5)
    assert (keras.ops.convert_to_numpy(other.moving_mean) == 0).all()
    assert all(layer.momentum == 0.9 and layer.trainable for layer in model.layers[1:])


def test_images_of_two_inputs_count_together():
    inputs = {name: keras.Input((2, 2, 1), name=name) for name in ("visible", "thermal")}
    outputs = {name: keras.layers.BatchNormalization(name=f"{name}_norm")(x) for name, x in inputs.items()}
    model = keras.Model(inputs, outputs)
    batches = [{name: np.full((3, 2, 2, 1), value, "float32") for name in inputs} for value in (1, 5)]
    average_statistics(model, batches)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model.get_layer("thermal_norm").moving_mean), [3])
