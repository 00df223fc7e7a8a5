import keras
import numpy as np
import pytest

from src.models import resnet
from tests.networks import size_of

# Trainable parameters, batch-norm statistics, and multiply-accumulates of the convolutions at 256x128. Those of
# ResNet-50 were counted by torchreid on torchvision's network without its classifier; with last stride 1 on its
# resnet50_fc512 without the layer of 512 (2048 x 512 weights and 512 biases).
PUBLISHED = {
    ("resnet50", 2): (23_508_032, 53_120, 2_669_150_208),
    ("resnet50", 1): (23_508_032, 53_120, 4_054_319_616 - 2048 * 512 - 512),
    ("resnet50_ibn_a", 2): (23_508_032, 50_880, 2_669_150_208),
    ("resnet101", 1): (44_549_160 - 2049 * 1000, 105_344, None),
}


def multiply_accumulates(model):
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    return sum(size_of(c.weights) * int(np.prod(c.output.shape[1:-1])) for c in convolutions)


@pytest.mark.parametrize(
    ("name", "last_stride"),
    [pytest.param(*key, marks=pytest.mark.slow) if key[0] == "resnet101" else key for key in PUBLISHED],
)
def test_counts_are_the_published_ones(name, last_stride):
    model = getattr(resnet, name)((256, 128, 3), last_stride=last_stride)
    weights, statistics, macs = PUBLISHED[name, last_stride]
    assert (size_of(model.trainable_weights), size_of(model.non_trainable_weights)) == (weights, statistics)
    assert macs is None or multiply_accumulates(model) == macs
    assert model.output_shape == (None, 2048)
    assert model.get_layer("layer4_3_out").output.shape[1:3] == ((16, 8) if last_stride == 1 else (8, 4))


def convolved(x, kernel, strides, padding):
    """PyTorch's convolution, position by position: x (H, W, C), kernel (k, k, C, D)."""
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    size = kernel.shape[0]
    rows, columns = ((length - size) // strides + 1 for length in x.shape[:2])
    out = np.empty((rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            window = x[i * strides : i * strides + size, j * strides : j * strides + size]
            out[i, j] = np.tensordot(window, kernel, 3)
    return out


def test_a_block_is_the_published_one():
    """The stride is in the 3x3 convolution, and its padding is the same on both sides."""
    generator = np.random.default_rng(0)
    x = keras.Input((6, 4, 8))
    model = keras.Model(x, resnet._bottleneck(x, 4, 2, False, "layer2_1"))
    values = generator.normal(size=(6, 4, 8))
    kernels = {
        n: model.get_layer(f"layer2_1_{n}").kernel.numpy() for n in ("conv1", "conv2", "conv3", "downsample")
    }
    scale = 1 / np.sqrt(1 + 1e-5)  # of a new batch norm
    y = np.maximum(scale * convolved(values, kernels["conv1"], 1, 0), 0)
    y = np.maximum(scale * convolved(y, kernels["conv2"], 2, 1), 0)
    expected = scale * (convolved(y, kernels["conv3"], 1, 0) + convolved(values, kernels["downsample"], 2, 0))
    found = model(values[None].astype("float32"), training=False)[0]
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-4)


def test_ibn_normalizes_half_of_the_channels_image_by_image():
    x = keras.Input((6, 4, 8))
    model = keras.Model(x, resnet._instance_batch(x, 10, "block_conv1"))
    values = np.random.default_rng(0).normal(size=(2, 6, 4, 8)).astype("float32")
    found = np.asarray(model(values, training=False))
    halves = [
        np.tensordot(values, model.get_layer(f"block_conv1_{n}_half").kernel[0, 0], 1) for n in ("in", "bn")
    ]
    mean, variance = (f(halves[0], axis=(1, 2), keepdims=True) for f in (np.mean, np.var))
    expected = [(halves[0] - mean) / np.sqrt(variance + 1e-5), halves[1] / np.sqrt(1 + 1e-5)]
    np.testing.assert_allclose(found, np.maximum(np.concatenate(expected, axis=-1), 0), atol=1e-4)


def test_stages_one_to_three_have_ibn():
    names = [layer.name for layer in resnet.resnet50_ibn_a((64, 32, 3)).layers]
    blocks = {name.partition("_conv1_in")[0] for name in names if name.endswith("_conv1_in")}
    assert {block[:6] for block in blocks} == {"layer1", "layer2", "layer3"} and len(blocks) == 13


def test_another_stride_is_refused():
    with pytest.raises(ValueError, match="last_stride: expected 1 or 2, received 3"):
        resnet.resnet50((64, 32, 3), last_stride=3)
