import keras
import numpy as np
from keras import layers

from common.layers.batch_part import BatchPart
from common.layers.replay import replay


def called(layer, args, kwargs):
    return layer(*args, **kwargs)


def network():
    """Two inputs, a layer that is called on both, a sum, and a branch that leads nowhere else."""
    one, two = keras.Input((4,), name="one"), keras.Input((4,), name="two")
    shared = layers.Dense(3, name="shared")
    first, second = shared(one), shared(two)
    return keras.Model([one, two], [layers.Add(name="sum")([first, second]), layers.ReLU(name="side")(first)])


def numbers(shape=(2, 4), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_a_replayed_model_shares_its_layers_and_computes_the_same():
    model = network()
    inputs = [keras.Input((4,)), keras.Input((4,))]
    found = replay(model, dict(zip(model.inputs, inputs, strict=True)), called)
    again = keras.Model(inputs, [found(output) for output in model.outputs])
    values = [numbers(seed=0), numbers(seed=1)]
    for expected, received in zip(model(values), again(values), strict=True):
        np.testing.assert_array_equal(received, expected)
    assert again.get_layer("shared") is model.get_layer("shared")


def test_calls_see_none_for_what_is_not_given():
    model, seen = network(), {}

    def call(layer, args, kwargs):
        seen[layer.name] = args
        if layer.name == "sum":
            assert args[0][1] is None
            return args[0][0]
        return layer(*args, **kwargs)

    one = keras.Input((4,))
    found = replay(model, {model.inputs[0]: one}, call)
    assert list(seen) == ["shared", "side", "sum"] or list(seen) == ["shared", "sum", "side"]
    alone = keras.Model(one, found(model.outputs[0]))
    np.testing.assert_array_equal(alone(numbers()), model.get_layer("shared")(numbers()))


def test_what_is_left_out_is_unknown_behind_it():
    model = network()
    one = keras.Input((4,))
    found = replay(model, {model.inputs[0]: one}, lambda layer, args, kwargs: None)
    assert found(model.outputs[0]) is None and found(model.inputs[1]) is None
    assert found(model.inputs[0]) is one


def test_a_part_of_a_batch_is_what_was_put_into_it(tmp_path):
    one, two = keras.Input((4,), name="one"), keras.Input((4,), name="two")
    whole = layers.Concatenate(axis=0)([one, two])
    doubled = layers.Rescaling(2.0)(whole)
    parts = [BatchPart(index, name=f"part_{index}")([doubled, one, two]) for index in (0, 1)]
    model = keras.Model([one, two], parts)
    model.save(tmp_path / "model.keras")
    values = [numbers((2, 4)), numbers((5, 4))]
    for loaded in (model, keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)):
        for value, part in zip(values, loaded(values), strict=True):
            np.testing.assert_array_equal(part, 2 * value)
    assert model.output_shape == [(None, 4), (None, 4)]
