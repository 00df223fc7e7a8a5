import keras
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from common.quantization.complete import complete_qdq, export_qat_onnx, incomplete_nodes
from common.quantization.onnx_export import tf_keras_to_onnx
from common.quantization.qat import prepare_qat


def test_the_integer_graph_computes_what_the_qat_model_does(qat_model, qat_onnx, images, run_onnx, cosine):
    expected = np.asarray(qat_model(images, training=False))
    assert cosine(run_onnx(qat_onnx, images), expected, center=expected.mean(0)) > 0.9995


@pytest.mark.parametrize("batch_size, nchw", [(4, False), (1, True)])
def test_layouts_and_batches_agree(qat_model, qat_onnx, images, run_onnx, batch_size, nchw):
    other = export_qat_onnx(qat_model, batch_size, nchw)
    dims = [dim.dim_value for dim in other.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ([batch_size, 3, 32, 16] if nchw else [batch_size, 32, 16, 3])
    np.testing.assert_allclose(run_onnx(other, images), run_onnx(qat_onnx, images), atol=1e-5)


def test_everything_is_integer(qat_model, qat_onnx):
    assert incomplete_nodes(tf_keras_to_onnx(qat_model))  # what tf2onnx leaves
    assert incomplete_nodes(qat_onnx) == []
    constants = {i.name: i for i in qat_onnx.graph.initializer}
    producers = {name: node for node in qat_onnx.graph.node for name in node.output}
    weighted = [node for node in qat_onnx.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(weighted) == 11  # 2 stem, 2 streams, 2 x 2 gates, pre-activation, fc, neck
    for node in weighted:
        _, weight, bias = (producers[name] for name in node.input)
        assert constants[weight.input[0]].data_type == onnx.TensorProto.INT8
        assert constants[bias.input[0]].data_type == onnx.TensorProto.INT32
        scales = numpy_helper.to_array(constants[weight.input[1]])
        integers = numpy_helper.to_array(constants[weight.input[0]])
        axis = weight.attribute[0].i
        assert scales.shape == (integers.shape[axis],)
        others = tuple(i for i in range(integers.ndim) if i != axis)
        assert (
            np.abs(integers.astype(int)).max(others).min() > 127 * 15 / 17
        )  # raised to an odd R of 15 or more
    kinds = {node.op_type for node in qat_onnx.graph.node}
    assert not kinds & {"Relu", "Clip", "FakeQuantWithMinMaxVars"}
    floats = [i.name for i in qat_onnx.graph.initializer if i.data_type == 1 and np.prod(i.dims) > 64]
    assert floats == []


def test_bias_scale_is_input_times_weight(qat_onnx):
    constants = {i.name: numpy_helper.to_array(i) for i in qat_onnx.graph.initializer}
    producers = {name: node for node in qat_onnx.graph.node for name in node.output}
    for node in (n for n in qat_onnx.graph.node if n.op_type in ("Conv", "Gemm")):
        source, weight, bias = (constants[producers[name].input[1]] for name in node.input)
        np.testing.assert_allclose(bias, source * weight, rtol=1e-6)


def test_completion_changes_nothing_but_the_rounding_of_biases(qat_model, qat_onnx, images, run_onnx):
    constants = {i.name: numpy_helper.to_array(i) for i in qat_onnx.graph.initializer}
    # tf2onnx names a bias that two calls share after either of them, so biases are told apart by their layer.
    rounded = {
        node.output[0].partition("/BiasAdd")[0]: constants[node.input[0]].astype(np.float64)
        * constants[node.input[1]]
        for node in qat_onnx.graph.node
        if node.input[0] in constants and constants[node.input[0]].dtype == np.int32
    }
    partial = tf_keras_to_onnx(qat_model)
    changed = 0
    for constant in partial.graph.initializer:
        layer, is_bias, _ = constant.name.partition("/BiasAdd")
        if is_bias and layer in rounded:
            bias = rounded[layer].astype(np.float32).reshape(tuple(constant.dims))
            np.testing.assert_allclose(bias, numpy_helper.to_array(constant), atol=1e-3)
            constant.CopyFrom(numpy_helper.from_array(bias, constant.name))
            changed += 1
    assert changed == 9
    np.testing.assert_array_equal(
        run_onnx(partial, images, optimized=False), run_onnx(qat_onnx, images, optimized=False)
    )


def test_one_scale_per_kernel_is_recovered_too(toy, calibration, images, run_onnx, cosine):
    model = prepare_qat(toy, calibration, granularity="per_tensor")
    completed = export_qat_onnx(model)
    constants = {i.name: numpy_helper.to_array(i) for i in completed.graph.initializer}
    producers = {name: node for node in completed.graph.node for name in node.output}
    weights = [producers[node.input[1]] for node in completed.graph.node if node.op_type == "Conv"]
    wide = [w for w in weights if constants[w.input[0]].size > len(constants[w.input[0]])]
    assert len(wide) == 7  # the others have one weight per channel, exact on any grid
    assert all(len(np.unique(constants[w.input[1]])) == 1 for w in wide)
    expected = np.asarray(model(images, training=False))
    assert cosine(run_onnx(completed, images), expected, center=expected.mean(0)) > 0.99


@pytest.mark.parametrize("height", [1, 4])
def test_a_dense_layer_behind_a_flattened_map_becomes_gemm(images, run_onnx, height):
    keras.utils.set_random_seed(0)
    source = keras.Input((32, 16, 3))
    x = keras.layers.AveragePooling2D((32 // height, 16 // height))(source)
    x = keras.layers.Conv2D(8, 1, activation="relu")(x)
    x = keras.layers.Flatten()(x)
    model = prepare_qat(
        keras.Model(source, keras.layers.Dense(5, bias_initializer="ones")(x)), lambda: [images]
    )
    completed = export_qat_onnx(model)
    assert [node.op_type for node in completed.graph.node].count("Gemm") == 1
    assert incomplete_nodes(completed) == []
    received, expected = run_onnx(completed, images), np.asarray(model(images, training=False))
    np.testing.assert_allclose(received, expected, atol=np.ptp(expected) / 100)


def qdq_conv(weight, bias):
    """x -> Q, DQ -> Conv with float constants -> Relu -> Q, DQ."""
    scale, zero = np.float32(0.1), np.uint8(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("Conv", ["xd", "w", "b"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "s", "z"], ["y"]),
    ]
    constants = {"s": scale, "z": zero, "w": weight.astype(np.float32), "b": bias.astype(np.float32)}
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", 1, [1, weight.shape[1], 4, 4])],
        [helper.make_tensor_value_info("y", 1, [1, weight.shape[0], 4, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def on_grid(generator, shape):
    integers = generator.integers(-127, 128, shape)
    integers[:, 0] = 127
    return integers, integers * generator.uniform(0.001, 0.1, (shape[0], 1, 1, 1))


def test_weights_are_recovered_exactly():
    integers, weight = on_grid(np.random.default_rng(0), (5, 3, 1, 1))
    completed = complete_qdq(qdq_conv(weight, np.zeros(5)))
    constants = {i.name: numpy_helper.to_array(i) for i in completed.graph.initializer}
    np.testing.assert_array_equal(constants["w_quantized"], integers)


@pytest.mark.parametrize(
    ("bounds", "is_dropped"),
    [
        ((0.0, 25.5), True),
        ((0.0, 30.0), True),
        ((0.0, 25.46), True),  # as by a ReLU6 whose range is a little wider: 25.46 rounds to 25.5
        ((0.04, 25.5), True),
        ((0.0, 25.44), False),
        ((0.06, 25.5), False),
    ],
)
def test_bounds_are_dropped_where_the_grid_has_the_same(bounds, is_dropped):
    import onnxruntime

    _, weight = on_grid(np.random.default_rng(0), (5, 3, 1, 1))
    model = qdq_conv(weight, np.zeros(5))
    assert numpy_helper.to_array(model.graph.initializer[0]) == np.float32(0.1)
    model.graph.node[3].CopyFrom(helper.make_node("Clip", ["c", "low", "high"], ["r"]))
    for name, value in zip(("low", "high"), bounds, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    completed = complete_qdq(model)
    assert ("Clip" not in {node.op_type for node in completed.graph.node}) == is_dropped
    x = np.random.default_rng(1).uniform(0, 25, (1, 3, 4, 4)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = [
        onnxruntime.InferenceSession(m.SerializeToString(), options, ["CPUExecutionProvider"])
        for m in (model, completed)
    ]
    expected, received = (session.run(None, {"x": x})[0] for session in sessions)
    assert expected.max() > 25
    np.testing.assert_allclose(received, expected, atol=1e-5)


def test_weights_on_no_grid_are_refused():
    weight = np.random.default_rng(0).normal(size=(5, 3, 1, 1))
    with pytest.raises(ValueError, match="'conv' are on no int8 grid"):
        complete_qdq(qdq_conv(weight, np.zeros(5)))


def test_a_graph_that_stays_in_float_is_refused():
    model = qdq_conv(on_grid(np.random.default_rng(0), (5, 3, 1, 1))[1], np.zeros(5))
    model.graph.node[3].op_type = "Sigmoid"
    with pytest.raises(ValueError, match="not complete: Conv 'conv' has an output that is not quantized"):
        complete_qdq(model)


def test_the_bias_of_a_dead_channel_does_not_overflow(run_onnx):
    _, weight = on_grid(np.random.default_rng(0), (2, 3, 1, 1))
    weight[0] *= 1e-9  # a pruned batch norm: no weight, only a bias
    model = qdq_conv(weight, np.array([5.0, 0.0]))
    x = np.random.default_rng(1).uniform(0, 1, (1, 3, 4, 4)).astype(np.float32)
    import onnxruntime

    run = [
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"x": x}
        )[0]
        for m in (model, complete_qdq(model))
    ]
    np.testing.assert_allclose(run[1], run[0], atol=0.1 + 1e-6)  # one step, where a sum lies between two
    assert run[1][0, 0] == pytest.approx(5.0)


def test_a_range_without_zero_is_an_error_and_not_a_float_graph(toy, calibration):
    model = prepare_qat(toy, calibration)
    [low] = [v for v in model.weights if v.name == "quant_pool/output_min:0"]
    low.assign(0.1)
    with pytest.raises(ValueError, match="FakeQuantWithMinMaxVars.* left .*does not contain 0"):
        export_qat_onnx(model)


def test_a_fake_quantization_that_is_left_is_an_error():
    model = qdq_conv(on_grid(np.random.default_rng(0), (5, 3, 1, 1))[1], np.zeros(5))
    model.graph.node[3].op_type = "FakeQuantWithMinMaxVars"
    with pytest.raises(ValueError, match="does not contain 0"):
        complete_qdq(model)


@pytest.mark.parametrize("convolution", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("behind, is_complete", [("QuantizeLinear", True), ("Identity", False)])
def test_a_convolution_is_complete_where_a_grid_stands_behind_its_relu(convolution, behind, is_complete):
    grid = ["scale", "zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["images", *grid], ["q"]),
        helper.make_node("DequantizeLinear", ["q", *grid], ["x"]),
        helper.make_node("DequantizeLinear", ["kernel", "scale"], ["weights"]),
        helper.make_node(convolution, ["x", "weights"], ["y"], name="conv"),
        helper.make_node("Relu", ["y"], ["clipped"]),
        helper.make_node(behind, ["clipped", *grid] if is_complete else ["clipped"], ["z"]),
    ]
    constants = {"scale": np.float32(0.1), "zero": np.uint8(0), "kernel": np.ones((2, 2, 1, 1), np.int8)}
    kind = onnx.TensorProto.UINT8 if is_complete else onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "one", [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("z", kind, [1, 2, 4, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    told = [] if is_complete else [f"{convolution} 'conv' has an output that is not quantized"]
    assert incomplete_nodes(helper.make_model(graph)) == told
