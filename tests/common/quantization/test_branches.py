"""One set of weights, one graph per modality."""

import keras
import numpy as np
import pytest

from common.quantization.branches import branches
from common.quantization.bridge import to_tf_keras
from common.quantization.complete import export_qat_onnx
from common.quantization.fold import fold_batch_norm
from common.quantization.onnx_export import export_onnx
from common.quantization.qat import fine_tune, prepare_qat

CHANNELS = {"thermal": 1, "visible": 3}


def test_one_input_is_one_branch(toy):
    assert branches(toy) == {"": toy}


def test_branches_share_their_weights(two_stems, two_images):
    found = branches(two_stems)
    assert {name: branch.input_shape[-1] for name, branch in found.items()} == CHANNELS
    trunks = [branch.get_layer("trunk") for branch in found.values()]
    assert trunks[0] is trunks[1]
    expected = two_stems(two_images, training=False)
    for name, branch in found.items():
        np.testing.assert_allclose(branch(two_images[name], training=False), expected[name], atol=1e-6)


def test_a_trunk_behind_two_stems_folds_its_batch_norms(two_stems, two_images):
    folded = fold_batch_norm(to_tf_keras(two_stems))
    assert "trunk_norm" not in {layer.name for layer in folded.layers}
    expected, received = two_stems(two_images, training=False), folded(two_images, training=False)
    for name in CHANNELS:
        np.testing.assert_allclose(received[name], expected[name], atol=1e-5)


@pytest.mark.parametrize("name", CHANNELS)
def test_each_modality_is_a_float_graph(two_stems, two_images, run_onnx, name):
    graph = export_onnx(branches(two_stems)[name])
    expected = np.asarray(two_stems(two_images, training=False)[name])
    np.testing.assert_allclose(run_onnx(graph, two_images[name]), expected, atol=1e-5)


def test_one_quantized_model_gives_a_graph_per_modality(two_stems, two_images, run_onnx, cosine):
    model = prepare_qat(two_stems, lambda: [two_images])
    seen = []
    fine_tune(
        model, two_stems, iter([two_images] * 3), 3, 1e-5, on_step=lambda *s: seen.append(s[1]["cosine"])
    )
    assert min(seen) > 0.99
    expected = model(two_images, training=False)
    teacher = two_stems(two_images, training=False)
    kernels = {}
    for name, branch in branches(model).items():
        graph = export_qat_onnx(branch)
        received = run_onnx(graph, two_images[name])
        assert cosine(received, expected[name]) > 0.9995
        assert cosine(received, teacher[name], center=np.asarray(teacher[name]).mean(0)) > 0.98
        kernels[name] = {
            value.raw_data
            for value in graph.graph.initializer
            if value.data_type == 3 and value.dims[2:] == [3, 3]
        }
    assert len(kernels["visible"] & kernels["thermal"]) == 1  # the trunk's kernel is in both, bit for bit
    assert len(kernels["visible"] | kernels["thermal"]) == 3


def test_names_must_agree_and_branches_must_not_mix():
    one, two = keras.Input((4,), name="one"), keras.Input((4,), name="two")
    both = keras.layers.Add()([one, two])
    with pytest.raises(
        ValueError, match=r"inputs \['one', 'two'\]: expected a dict of outputs .* received \['a', 'b'\]"
    ):
        branches(keras.Model({"one": one, "two": two}, {"a": one, "b": two}))
    with pytest.raises(ValueError, match="depends on the input of another"):
        branches(keras.Model({"one": one, "two": two}, {"one": both, "two": two}))
