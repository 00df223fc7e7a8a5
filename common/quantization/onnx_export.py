"""Keras 3 to ONNX with a static batch, through tf_keras and tf2onnx."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import onnx
import tensorflow as tf
import tf2onnx
import tf_keras

from common.quantization._onnx_graph import OnnxGraph
from common.quantization.bridge import to_tf_keras
from common.quantization.fold import fold_batch_norm
from common.runtime.onnx_file import LAYOUT_KEY

OPSET = 17
"""What tf2onnx 1.17 and the QNN execution provider both support fully."""

INPUT, OUTPUT = "images", "embedding"


def export_onnx(
    model: keras.Model, batch_size: int = 1, nchw: bool = False, opset: int = OPSET
) -> onnx.ModelProto:
    """Export a functional Keras 3 model to float ONNX: `images` -> `embedding`, static batch.

    Batch norms are folded first (`fold_batch_norm`), so the graph has one operator per integer operator of the
    HTP. The outputs equal the source to 1e-4.

    Args:
        model: rescaled float32 images (N, H, W, C) -> embeddings (N, D).
        batch_size: images per run; QNN compiles static shapes only.
        nchw: input layout. The HTP computes in NHWC: with NHWC images, the transposition that ONNX needs and the
            one that the QNN compiler adds cancel; with NCHW images, one remains at run time. The file says which
            (metadata `input_layout`), since shapes such as (1, 32, 4, 4) cannot tell.
        opset: ONNX operator set.
    """
    return tf_keras_to_onnx(fold_batch_norm(to_tf_keras(model)), batch_size, nchw, opset)


def tf_keras_to_onnx(
    model: tf_keras.Model, batch_size: int = 1, nchw: bool = False, opset: int = OPSET
) -> onnx.ModelProto:
    """Export a tf_keras model with one input and one output in inference mode; see `export_onnx`."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            f"model '{model.name}': expected one input and one output, received {len(model.inputs)} and "
            f"{len(model.outputs)}: give the embedding model, not the training network"
        )
    logging.getLogger("tf2onnx").setLevel(logging.WARNING)
    inference = tf.function(lambda images: {OUTPUT: model(images, training=False)}, autograph=False)
    signature = [tf.TensorSpec((batch_size, *model.inputs[0].shape[1:]), tf.float32, name=INPUT)]

    def convert() -> onnx.ModelProto:
        return tf2onnx.convert.from_function(
            inference, input_signature=signature, opset=opset, inputs_as_nchw=[INPUT] if nchw else None
        )[0]

    try:
        with _optimized_in_place():
            proto = convert()
    except Exception:  # noqa: BLE001 - of any pass of tf2onnx, which goes on without it where it has copies
        proto = convert()
    check_converted(proto)
    graph = OnnxGraph(proto)
    _drop_identity_reshapes(graph)
    _keep_pads_of_max_pools(graph)
    exported = graph.finish()
    onnx.helper.set_model_props(exported, {LAYOUT_KEY: "NCHW" if nchw else "NHWC"})
    return exported


@contextmanager
def _optimized_in_place() -> Iterator[None]:
    """Keep tf2onnx from copying the graph, with all weights, before each pass in order to go on without one that fails.

    The copies are garbage that Python collects late: 16 GB for a network of 170 MB, 8 without them.
    """
    name = tf2onnx.constants.ENV_TF2ONNX_CATCH_ERRORS
    before = os.environ.get(name)
    os.environ[name] = "FALSE"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def check_converted(model: onnx.ModelProto) -> None:
    """Raise ValueError where tf2onnx left fake quantization in the graph, which no runtime knows."""
    left = sorted({node.op_type for node in model.graph.node if "FakeQuant" in node.op_type})
    if left:
        raise ValueError(f"{left} left in the ONNX graph: a range that does not contain 0 is not converted")


def _drop_identity_reshapes(graph: OnnxGraph) -> None:
    """tf2onnx turns the layout change of a pooled map (N, C, 1, 1) into a Reshape to the same shape."""
    inferred = onnx.shape_inference.infer_shapes(graph.model).graph
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in inferred.value_info
    }
    for node in [n for n in graph.nodes if n.op_type == "Reshape" and n.output[0] not in graph.outputs]:
        if shapes.get(node.input[0], ()) == shapes.get(node.output[0]):
            graph.redirect(node.output[0], node.input[0])
            graph.nodes.remove(node)


def _keep_pads_of_max_pools(graph: OnnxGraph) -> None:
    """Say that a MaxPool behind a Pad pads nothing itself.

    ONNX Runtime 1.31 moves the zeros into a MaxPool that leaves it open, for the HTP too, and there they are -inf.
    """
    producers = graph.producers()
    for node in [n for n in graph.nodes if n.op_type == "MaxPool" and n.input[0] in producers]:
        is_open = {"pads", "auto_pad"}.isdisjoint(attribute.name for attribute in node.attribute)
        if producers[node.input[0]].op_type == "Pad" and is_open:
            node.attribute.append(onnx.helper.make_attribute("auto_pad", "VALID"))
