"""What the tests of several networks and losses ask of them."""

import numpy as np
import onnxruntime
import tensorflow as tf


def size_of(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


def run_onnx(graph, images):
    """Embeddings (N, D) by a graph of batch 1."""
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


def value_and_gradient(loss, features, *arguments, **keywords):
    features = tf.constant(features)
    with tf.GradientTape() as tape:
        tape.watch(features)
        value = loss(features, *arguments, **keywords)
    return float(value), tape.gradient(value, features).numpy()
