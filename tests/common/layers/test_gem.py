import keras
import numpy as np
import pytest
import tensorflow as tf

from common.layers.gem import GeM
from common.layers.rewrite import with_fused_batch_norm
from common.quantization.bridge import to_tf_keras
from common.quantization.fold import fold_batch_norm


def maps(scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).gamma(0.5, 1.0, (3, 6, 4, 5))).astype("float32")


def reference(values, p, smallest=1e-6):
    """The definition, in float64."""
    return np.mean(np.maximum(values.astype("float64"), smallest) ** p, axis=(1, 2)) ** (1 / p)


@pytest.mark.parametrize("p", [1.0, 3.0, 6.5, 10.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6, 1e15])
def test_reference_at_any_scale(p, scale):
    np.testing.assert_allclose(GeM(p)(maps(scale)), reference(maps(scale), p), rtol=1e-5)


def test_a_channel_that_is_dead_pools_to_the_smallest_value():
    """For p = 3, 1e-4 is AGW's pool, which adds 1e-12 to the mean of cubes."""
    values = maps() * [1.0, 1e-2, 1e-3, 1e-5, 0.0]
    expected = ((values**3).mean((1, 2)) + 1e-12) ** (1 / 3)
    np.testing.assert_allclose(GeM(smallest=1e-4)(values), expected, atol=2e-5)
    assert np.allclose(GeM()(values)[:, 4], 1e-6) and np.allclose(GeM(smallest=1e-4)(values)[:, 4], 1e-4)


def test_it_lies_between_the_mean_and_the_maximum():
    values = maps()
    pooled = [np.asarray(GeM(p)(values)) for p in (1.0, 3.0, 10.0)]
    np.testing.assert_allclose(pooled[0], np.maximum(values, 1e-6).mean((1, 2)), rtol=1e-5)
    assert np.all(pooled[0] < pooled[1]) and np.all(pooled[1] < pooled[2])
    assert np.all(pooled[2] < values.max((1, 2)))


def test_gradient_is_that_of_the_definition():
    values = tf.constant(maps().astype("float64").clip(1e-3))
    with tf.GradientTape() as tape:
        tape.watch(values)
        expected = tf.reduce_sum(tf.reduce_mean(values**3, axis=(1, 2)) ** (1 / 3))
    expected = tape.gradient(expected, values)
    values = tf.cast(values, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(values)
        pooled = tf.reduce_sum(GeM()(values))
    np.testing.assert_allclose(tape.gradient(pooled, values), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_dead_channel_is_small_and_has_a_finite_gradient(value):
    layer, values = GeM(learned=True), tf.fill((2, 3, 3, 1), value)
    with tf.GradientTape() as tape:
        tape.watch(values)
        pooled = layer(values)
    np.testing.assert_allclose(pooled, 1e-6, rtol=1e-5)
    for gradient in tape.gradient(pooled, [values, layer.p.value]):
        assert np.all(np.isfinite(gradient))


def test_a_learned_exponent_is_trained_and_stays_in_its_range():
    layer = GeM(learned=True)
    with tf.GradientTape() as tape:
        pooled = tf.reduce_sum(layer(maps()))
    step = 1e-3
    difference = (reference(maps(), 3 + step).sum() - reference(maps(), 3 - step).sum()) / (2 * step)
    assert float(tape.gradient(pooled, layer.p.value)) == pytest.approx(difference, rel=1e-3)
    layer.p.assign(40.0)
    np.testing.assert_allclose(layer(maps()), reference(maps(), 10.0), rtol=1e-5)
    assert GeM().weights == [] and len(layer.weights) == 1


def test_half_precision_is_computed_in_float32():
    values = maps(60.0).astype("float16")  # the third power of 60 does not fit
    pooled = GeM(dtype="float16")(values)
    assert pooled.dtype == tf.float16
    np.testing.assert_allclose(pooled, reference(values, 3.0), rtol=1e-3)


@pytest.mark.parametrize("p", [0.5, 11])
def test_an_exponent_out_of_range_is_refused(p):
    with pytest.raises(ValueError, match=f"GeM: p must be from 1 to 10, received {p}"):
        GeM(p)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("keepdims", [True, False])
def test_copies_files_and_twins_compute_the_same(learned, keepdims, tmp_path):
    images = keras.Input((6, 4, 5))
    x = GeM(4.0, learned=learned, keepdims=keepdims, smallest=0.5, name="gem")(images)
    model = keras.Model(images, keras.layers.BatchNormalization(name="bnneck")(x))
    if learned:
        model.get_layer("gem").p.assign(2.5)
    expected = np.asarray(model(maps()))
    assert expected.shape == ((3, 1, 1, 5) if keepdims else (3, 5))
    np.testing.assert_allclose(
        expected,
        np.reshape(reference(maps(), 2.5 if learned else 4, 0.5), expected.shape) / np.sqrt(1.001),
        rtol=1e-5,
    )
    model.save(tmp_path / "model.keras")
    twin = to_tf_keras(model)
    for copy in (
        with_fused_batch_norm(model),
        keras.saving.load_model(tmp_path / "model.keras", safe_mode=True),
        twin,
        fold_batch_norm(twin),
    ):
        np.testing.assert_allclose(copy(maps()), expected, rtol=1e-5)
