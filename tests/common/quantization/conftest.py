import keras
import numpy as np
import pytest
from keras import layers

SHAPE = (32, 16, 3)


def fit_batch_norms(model, images, seed=0):
    """Give batch norms random scales and shifts, and the statistics of the data, as training does."""
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
            layer.gamma.assign(generator.uniform(0.5, 1.5, layer.gamma.shape))
            if layer.center:
                layer.beta.assign(generator.uniform(-0.3, 0.3, layer.beta.shape))
        elif getattr(layer, "use_bias", False):
            layer.bias.assign(generator.uniform(-0.1, 0.1, layer.bias.shape))
    model(images, training=True)
    return model


@pytest.fixture(scope="session")
def toy(images):
    """Everything that the model zoo's networks are made of, once, ending in a BNNeck: images -> (N, 16)."""
    keras.utils.set_random_seed(0)
    source = keras.Input(SHAPE, name="images")
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(source)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(16, 3, strides=2, use_bias=False)(x)))
    x = layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x)))
    x = layers.MaxPooling2D(2)(x)  # (N, 8, 4, 16)
    squeeze, excite = (
        layers.Conv2D(1, 1, activation="relu", name="squeeze"),
        layers.Conv2D(16, 1, name="excite"),
    )
    streams = []
    for stream in range(2):
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 1, name=f"stream{stream}")(x)))
        pooled = layers.GlobalAveragePooling2D(keepdims=True)(y)
        gate = layers.Activation("sigmoid", name=f"gate{stream}")(excite(squeeze(pooled)))
        streams.append(layers.Multiply()([y, gate]))
    x = layers.Add()([layers.Add()(streams), x])
    x = layers.Activation("relu")(layers.BatchNormalization(name="pre_activation")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="fc_bn")(layers.Dense(16, name="fc")(x)))
    neck = layers.BatchNormalization(center=False, name="bnneck")(x)
    return fit_batch_norms(keras.Model(source, neck, name="toy"), images)


@pytest.fixture(scope="session")
def two_stems(two_images):
    """A stem for each modality and one trunk: dicts of (N, 32, 16, 3) and (N, 32, 16, 1) -> dicts of (N, 16)."""
    keras.utils.set_random_seed(0)
    maps = keras.Input((16, 8, 16))
    y = layers.Conv2D(16, 3, padding="same", use_bias=False, name="trunk_conv")(maps)
    y = layers.ReLU(name="trunk_relu")(layers.BatchNormalization(name="trunk_norm")(y))
    y = layers.GlobalAveragePooling2D(name="pool")(y)
    neck = layers.BatchNormalization(center=False, name="bnneck")(y)
    trunk = keras.Model(maps, neck, name="trunk")
    inputs, outputs = {}, {}
    for name, channels in (("visible", 3), ("thermal", 1)):
        inputs[name] = keras.Input((*SHAPE[:2], channels), name=name)
        x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False, name=f"{name}_conv")(inputs[name])
        x = layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_norm")(x))
        outputs[name] = trunk(x)
    model = keras.Model(inputs, outputs, name="two_stems")
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    model(two_images, training=True)
    return model


@pytest.fixture(scope="session")
def two_images(images):
    """The images of both modalities."""
    return {"visible": images, "thermal": images[..., :1]}


@pytest.fixture(scope="session")
def images():
    """(24, 32, 16, 3) in [-1, 1]: smooth, and as different as photographs are."""
    generator = np.random.default_rng(1)
    coarse = generator.uniform(-1, 1, (24, 4, 2, 3)).astype(np.float32)
    return coarse.repeat(8, axis=1).repeat(8, axis=2) * generator.uniform(0.5, 1, (24, 1, 1, 1)).astype(
        np.float32
    )


@pytest.fixture(scope="session")
def calibration(images):
    return lambda: [images[:12], images[12:]]


@pytest.fixture(scope="session")
def qat_model(toy, calibration):
    from common.quantization.qat import prepare_qat

    return prepare_qat(toy, calibration)


@pytest.fixture(scope="session")
def qat_onnx(qat_model):
    from common.quantization.complete import export_qat_onnx

    return export_qat_onnx(qat_model)


@pytest.fixture(scope="session")
def run_onnx():
    import onnxruntime

    def run(model, images, optimized=True):
        options = onnxruntime.SessionOptions()
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        info = session.get_inputs()[0]
        if info.shape[1] == 3:
            images = images.transpose(0, 3, 1, 2)
        size = info.shape[0]
        batches = [images[i : i + size] for i in range(0, len(images), size)]
        return np.concatenate([session.run(None, {info.name: batch})[0] for batch in batches])

    return run


@pytest.fixture(scope="session")
def cosine():
    """Lowest cosine between paired rows, around `center`: embeddings behind a ReLU share a large mean."""

    def cosine(a, b, center=0.0):
        a, b = np.asarray(a, np.float64) - center, np.asarray(b, np.float64) - center
        return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).min())

    return cosine
