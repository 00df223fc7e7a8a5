import keras
import numpy as np
import tensorflow as tf

from common.layers.gradient_reversal import GradientReversal


def test_values_pass_and_gradients_turn(tmp_path):
    x = keras.Input((3,))
    model = keras.Model(x, GradientReversal(name="reversal")(x))
    model.save(tmp_path / "model.keras")
    values = tf.constant(
        np.random.default_rng(0).normal(size=(5, 3)) * 10.0 ** np.arange(-20, 21, 20), tf.float32
    )
    for reversal in (model, keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)):
        with tf.GradientTape() as tape:
            tape.watch(values)
            passed = reversal(values)
            loss = tf.reduce_sum(passed * tf.range(3.0))
        np.testing.assert_array_equal(passed, values)
        np.testing.assert_array_equal(tape.gradient(loss, values), np.tile([-0.0, -1.0, -2.0], (5, 1)))
