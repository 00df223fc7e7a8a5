"""Checkpoints become models: without PyTorch, against the published layers written in NumPy in PyTorch's layout."""

import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from common.artifacts import Model
from common.config import ConfigError
from src.data.preprocessing import Preprocessing
from src.models.osnet import osnet_a025
from src.registries import MODELS
from src.tools import import_checkpoint as tool
from src.tools.checkpoints.sources import SOURCES
from src.tools.checkpoints.transfer import _places, transfer

DATA = Path(__file__).parents[2] / "data"
OSNET = DATA / "osnet_x0_25_weights.npz"
DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}

# ------------------------------------------------------------------------------------------------------------
# State dicts, by the names and shapes of the projects


class State(dict):
    """Random tensors that keep activations near 1, by PyTorch's names."""

    def __init__(self, seed=0):
        super().__init__()
        self.random = np.random.default_rng(seed)

    def conv(self, name, out, channels, kernel, bias=False, gain=1.0):
        shape = (out, channels, kernel, kernel)
        spread = gain * np.sqrt(2 / (channels * kernel**2))
        self[f"{name}.weight"] = self.random.normal(0, spread, shape).astype("float32")
        if bias:
            self[f"{name}.bias"] = self.random.normal(0, 0.1, out).astype("float32")

    def norm(self, name, size, gain=(0.8, 1.2)):
        for part, low, high in (("weight", *gain), ("bias", -0.2, 0.2), ("running_mean", -0.2, 0.2)):
            self[f"{name}.{part}"] = self.random.uniform(low, high, size).astype("float32")
        self[f"{name}.running_var"] = self.random.uniform(0.7, 1.4, size).astype("float32")
        self[f"{name}.num_batches_tracked"] = np.array(7)

    def resnet(self, prefix="", depths=DEPTHS["resnet50"]):
        self.conv(f"{prefix}conv1", 64, 3, 7)
        self.norm(f"{prefix}bn1", 64)
        channels = 64
        for stage, depth in enumerate(depths, start=1):
            width = 64 * 2 ** (stage - 1)
            for block in range(depth):
                name = f"{prefix}layer{stage}.{block}"
                for number, (out, inner, kernel) in enumerate(
                    ((width, channels, 1), (width, width, 3), (4 * width, width, 1)), start=1
                ):
                    self.conv(f"{name}.conv{number}", out, inner, kernel)
                    self.norm(f"{name}.bn{number}", out, (0.8, 1.2) if number < 3 else (0.1, 0.3))
                if block == 0:
                    self.conv(f"{name}.downsample.0", 4 * width, channels, 1)
                    self.norm(f"{name}.downsample.1", 4 * width)
                channels = 4 * width
        return self

    def agw(self):
        for prefix in ("visible_module.visible.", "thermal_module.thermal.", "base_resnet.base."):
            self.resnet(prefix)
        for stage, channels, count in ((2, 512, 2), (3, 1024, 3)):
            for number in range(count):
                name = f"NL_{stage}.{number}"
                for part in ("g.0", "theta", "phi"):
                    self.conv(f"{name}.{part}", 1, channels, 1, bias=True, gain=0.3)  # a product of three
                self.conv(f"{name}.W.0", channels, 1, 1, bias=True)
                self.norm(f"{name}.W.1", channels, (0.1, 0.2))
        self.norm("bottleneck", 2048)
        self["bottleneck.bias"] = np.zeros(2048, "float32")
        self["classifier.weight"] = np.zeros((395, 2048), "float32")
        return self


@pytest.fixture(scope="module")
def agw_state():
    return State().agw()


# ------------------------------------------------------------------------------------------------------------
# The networks in NumPy: images (N, C, H, W)


def windows(x, kernel, stride, padding, fill=0.0):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), constant_values=fill)
    found = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(2, 3))
    return found[:, :, ::stride, ::stride]  # (N, C, h, w, k, k)


def conv(state, name, x, stride=1):
    weight = state[f"{name}.weight"]
    kernel = weight.shape[-1]
    y = np.einsum("nchwij,dcij->ndhw", windows(x, kernel, stride, kernel // 2), weight, optimize=True)
    return y + state.get(f"{name}.bias", np.zeros(len(weight)))[:, None, None]


def norm(state, name, x):
    weight, bias, mean, variance = (
        state[f"{name}.{part}"].reshape(-1, *[1] * (x.ndim - 2))
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def relu(x):
    return np.maximum(x, 0)


def stem(state, prefix, x):
    x = relu(norm(state, f"{prefix}bn1", conv(state, f"{prefix}conv1", x, stride=2)))
    return windows(x, 3, 2, 1, fill=-np.inf).max(axis=(-2, -1))


def bottleneck(state, name, x, stride):
    y = relu(norm(state, f"{name}.bn1", conv(state, f"{name}.conv1", x)))
    y = relu(norm(state, f"{name}.bn2", conv(state, f"{name}.conv2", y, stride)))
    y = norm(state, f"{name}.bn3", conv(state, f"{name}.conv3", y))
    if f"{name}.downsample.0.weight" in state:
        x = norm(state, f"{name}.downsample.1", conv(state, f"{name}.downsample.0", x, stride))
    return relu(y + x)


def non_local(state, name, x):
    n, _, h, w = x.shape
    theta, phi, g = (
        conv(state, f"{name}.{part}", x).reshape(n, 1, h * w) for part in ("theta", "phi", "g.0")
    )
    affinity = theta.transpose(0, 2, 1) @ phi / (h * w)  # (N, HW, HW)
    drawn = (affinity @ g.transpose(0, 2, 1)).transpose(0, 2, 1).reshape(n, 1, h, w)
    return x + norm(state, f"{name}.W.1", conv(state, f"{name}.W.0", drawn))


def stages(state, prefix, x, depths, last_stride, first_non_local=None):
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            stride = (1, 2, 2, last_stride)[stage - 1] if block == 0 else 1
            x = bottleneck(state, f"{prefix}layer{stage}.{block}", x, stride)
            number = block - (first_non_local or {}).get(stage, depth)
            if number >= 0:
                x = non_local(state, f"NL_{stage}.{number}", x)
    return x


def agw_embedding(state, modality, x):
    x = stem(state, f"{modality}_module.{modality}.", x)
    x = stages(state, "base_resnet.base.", x, DEPTHS["resnet50"], 1, {2: 2, 3: 3})
    pooled = (np.mean(x**3, axis=(2, 3)) + 1e-12) ** (1 / 3)
    return norm(state, "bottleneck", pooled)


def images(height=32, width=32, seed=1):
    return np.random.default_rng(seed).normal(size=(2, height, width, 3)).astype("float32")


def assert_parity(found, expected):
    assert np.ptp(expected, axis=0).max() > 0.1  # images differ
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------
# Parity


@pytest.mark.parametrize(
    ("name", "last_stride"),
    [
        ("resnet50", 1),
        pytest.param("resnet50", 2, marks=pytest.mark.slow),
        pytest.param("resnet101", 1, marks=pytest.mark.slow),
    ],
)
def test_a_resnet_computes_what_torchvisions_does(name, last_stride):
    state = State().resnet(depths=DEPTHS[name])
    state["fc.weight"], state["fc.bias"] = np.ones((1000, 2048)), np.ones(1000)
    model = MODELS.get(name)((48, 32, 3), last_stride=last_stride)
    left_out = transfer(state, model, SOURCES["torchvision"])
    norms = sum(name.endswith("running_var") for name in state)
    assert left_out == {"counters of batches": norms, "the classifier": 2}

    x = images(48, 32)
    maps = stages(state, "", stem(state, "", x.transpose(0, 3, 1, 2)), DEPTHS[name], last_stride)
    assert maps.shape[2:] == ((3, 2) if last_stride == 1 else (2, 1))
    assert_parity(model(x, training=False), maps.mean(axis=(2, 3)))


@pytest.mark.slow
def test_agw_computes_what_the_published_one_does(agw_state, tmp_path):
    np.savez(tmp_path / "agw.npz", **agw_state)
    arguments = ["--from", "agw", "--input", str(tmp_path / "agw.npz"), "--model-name", "agw"]
    output = tmp_path / "agw.keras"
    assert tool.main([*arguments, "--input-shape", "48", "32", "3", "--output", str(output)]) == 0
    manifest = Model.load(output)
    assert (manifest.input_shape, manifest.embedding_dim) == ((48, 32, 3), 2048)
    model = keras.saving.load_model(output, safe_mode=True)
    batch = {"visible": images(48, 32, seed=1), "thermal": images(48, 32, seed=2)}
    found = model(batch, training=False)
    for modality, x in batch.items():
        assert_parity(found[modality], agw_embedding(agw_state, modality, x.transpose(0, 3, 1, 2)))


@pytest.mark.slow
def test_osnet_computes_what_torchreids_does(tmp_path, capsys):
    """Through the command; the other widths have the same names, see below."""
    output = tmp_path / "new" / "osnet.keras"
    arguments = ["--from", "torchreid", "--input", str(OSNET), "--model-name", "osnet_a025"]
    assert tool.main([*arguments, "--output", str(output)]) == 0
    assert "use it as model.model_path" in capsys.readouterr().out
    assert {path.name for path in output.parent.iterdir()} == {"osnet.keras", "osnet.json"}
    golden = np.load(DATA / "osnet_x0_25_forward.npz")
    features = keras.saving.load_model(output, safe_mode=True)(golden["image"][None], training=False)[0]
    assert np.ptp(golden["features"]) > 0.1
    np.testing.assert_allclose(features, golden["features"], atol=1e-4)

    manifest = Model.load(output)
    assert manifest.trained_on == {
        "model_name": "osnet_a025",
        "imported_from": "torchreid, osnet_x0_25_weights.npz",
    }
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype("float32")
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(Preprocessing(**manifest.preprocessing).rescale(pixels), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES["torchreid"].models)
def test_every_width_of_osnet_has_the_same_names(name):
    assert set(_places(MODELS.get(name)((64, 32, 3)), SOURCES["torchreid"])) == set(np.load(OSNET).files)


# ------------------------------------------------------------------------------------------------------------
# Every tensor is accounted for


@pytest.fixture
def osnet():
    return osnet_a025((64, 32, 3)), dict(np.load(OSNET))


def test_tensors_that_do_not_fit_are_listed_and_nothing_is_copied(osnet):
    model, state = osnet
    before = [weight.copy() for weight in model.get_weights()]
    del state["conv5.bn.bias"], state["fc.0.bias"]
    state["conv6.weight"] = np.zeros(3)
    state["conv1.conv.weight"] = state["conv1.conv.weight"][:, :1]
    with pytest.raises(ConfigError) as error:
        transfer(state, model, SOURCES["torchreid"])
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert lines[0] == "the checkpoint does not fit 'osnet_a025'"
    assert set(lines[1].removeprefix("2 tensor(s) missing: ").split(", ")) == {"conv5.bn.bias", "fc.0.bias"}
    assert lines[2:] == [
        "1 tensor(s) without a place in the model: conv6.weight",
        "1 tensor(s) of another shape: conv1.conv.weight is (16, 1, 7, 7), expected (16, 3, 7, 7)",
    ]
    for value, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_what_is_left_out_is_named(osnet):
    model, state = osnet
    state |= {"classifier.weight": np.ones((17, 512)), "conv1.bn.num_batches_tracked": np.array(3)}
    assert transfer(state, model, SOURCES["torchreid"]) == {"the classifier": 1, "counters of batches": 1}


@pytest.mark.slow
def test_agw_has_no_place_for_a_shift_of_the_neck(agw_state):
    model = MODELS.get("agw")((32, 32, 3))
    state = {**agw_state, "bottleneck.bias": np.full(2048, 0.1)}
    with pytest.raises(ConfigError, match=r"1 tensor\(s\) not 0, as the model needs: bottleneck.bias"):
        transfer(state, model, SOURCES["agw"])
    left_out = transfer(agw_state, model, SOURCES["agw"])
    layers = 53  # convolutions of a ResNet-50, each with a norm of four tensors and a counter
    assert left_out == {
        "stages of the stems' networks": 2 * 5 * (layers - 1),
        "stem of the trunk's network": 5,
        "counters of batches": 3 * layers + 5 + 1,
        "the classifier": 1,
        "shifts that are fixed at 0": 1,
    }


# ------------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--model-name": "osnet_x0_25"}, "torchreid has no 'osnet_x0_25', did you mean 'osnet_a025'"),
        ({"--model-name": "agw"}, "torchreid has no 'agw', expected one of: osnet_a025"),
        ({"--output": "model.h5"}, "--output: expected a file that ends in .keras, received model.h5"),
        ({"--input": "missing.pth"}, "--input: there is no file missing.pth"),
        ({"--input": str(DATA / "osnet.md")}, "PyTorch is needed to read .*pip install torch==2.13.0"),
    ],
)
def test_mistakes_are_explained(changes, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    monkeypatch.chdir(tmp_path)
    arguments = {
        "--from": "torchreid",
        "--input": str(OSNET),
        "--model-name": "osnet_a025",
        "--output": "m.keras",
    }
    assert tool.main([part for pair in (arguments | changes).items() for part in pair]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and re.search(message, error), error
    assert not list(tmp_path.iterdir())


def test_arrays_that_are_no_plain_ones_are_refused(tmp_path, capsys):
    path = tmp_path / "objects.npz"
    np.savez(path, weight=np.array([{"a": 1}], dtype=object))
    arguments = ["--from", "torchreid", "--input", str(path), "--model-name", "osnet_a025"]
    assert tool.main([*arguments, "--output", str(tmp_path / "m.keras")]) == 2
    assert "is no .npz of plain arrays" in capsys.readouterr().err


def test_a_checkpoint_that_does_not_fit_leaves_no_file(tmp_path, capsys):
    arguments = ["--from", "torchreid", "--input", str(OSNET), "--model-name", "osnet_a050"]
    assert tool.main([*arguments, "--output", str(tmp_path / "m.keras")]) == 2
    assert "does not fit 'osnet_a050'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
