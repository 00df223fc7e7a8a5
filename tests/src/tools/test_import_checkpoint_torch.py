"""Files of `torch.save` become models that compute what PyTorch does. PyTorch is no dependency of the product."""

import importlib
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from src.tools.import_checkpoint import main

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")
nn, networks = torch.nn, importlib.import_module("tests.torch_networks")

DATA = Path(__file__).parents[2] / "data"
SHAPE = (64, 32, 3)


def lively(network):
    """Norms far from 0 and 1, with the statistics of some images."""
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            gain = (0.1, 0.3) if name.endswith(("bn3", "W.1")) else (0.7, 1.3)
            nn.init.uniform_(module.weight, *gain)
            nn.init.uniform_(module.running_var, 0.7, 1.4)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            if name != "bottleneck":
                nn.init.uniform_(module.bias, -0.2, 0.2)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if "NL_" in name and "W.0" not in name:  # the block is a product of three of these
                module.weight.data.mul_(0.3)
    return network.eval()


def images(seed):
    return np.random.default_rng(seed).normal(size=(2, *SHAPE)).astype("float32")


def as_torch(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def imported(source, checkpoint, model_name, shape=SHAPE):
    output = checkpoint.with_name("imported.keras")
    arguments = ["--from", source, "--input", str(checkpoint), "--model-name", model_name]
    assert main([*arguments, "--input-shape", *map(str, shape), "--output", str(output)]) == 0
    return keras.saving.load_model(output, safe_mode=True)


def assert_parity(found, expected):
    expected = expected.numpy()
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------
# Parity


@pytest.mark.slow
@pytest.mark.parametrize(("name", "depths"), [("resnet50", (3, 4, 6, 3)), ("resnet101", (3, 4, 23, 3))])
def test_a_resnet(name, depths, tmp_path):
    torch.manual_seed(0)
    network = lively(networks.ResNet(depths, classes=10))
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    x = images(1)
    with torch.no_grad():
        expected = network(as_torch(x))
    assert_parity(imported("torchvision", tmp_path / "resnet.pth", name)(x, training=False), expected)


@pytest.mark.slow
def test_agw_as_its_authors_save_it(tmp_path):
    torch.manual_seed(0)
    network = lively(networks.Agw(395))
    scores = {"acc": np.linspace(0, 1, 20), "mAP": np.float64(0.48), "mINP": np.float32(0.35), "epoch": 42}
    torch.save({"net": network.state_dict(), **scores}, tmp_path / "agw.t")
    batch = {"visible": images(1), "thermal": images(2)}
    with torch.no_grad():
        expected = network(*map(as_torch, batch.values()))
    found = imported("agw", tmp_path / "agw.t", "agw")(batch, training=False)
    assert_parity(found["visible"], expected[:2])
    assert_parity(found["thermal"], expected[2:])


def test_osnet_as_torchreid_saves_it(tmp_path):
    """In the checkpoint of a training on several devices, in half precision."""
    weights, golden = np.load(DATA / "osnet_x0_25_weights.npz"), np.load(DATA / "osnet_x0_25_forward.npz")
    state = {f"module.{name}": torch.from_numpy(weights[name]) for name in weights.files}
    state["module.conv1.conv.weight"] = state["module.conv1.conv.weight"].half()
    state |= {
        "module.conv1.bn.num_batches_tracked": torch.tensor(5),
        "module.classifier.weight": torch.ones(17, 512),
    }
    checkpoint = {"state_dict": state, "epoch": 3, "rank1": np.float64(0.5), "optimizer": {"lr": 0.1}}
    torch.save(checkpoint, tmp_path / "model.pth.tar-3")
    model = imported("torchreid", tmp_path / "model.pth.tar-3", "osnet_a025", (256, 128, 3))
    features = model(golden["image"][None], training=False)[0]
    np.testing.assert_allclose(features, golden["features"], atol=5e-3)  # one kernel was rounded to 11 bits


# ------------------------------------------------------------------------------------------------------------
# Files that are not read


class Harmful:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"state_dict": {}, "args": Harmful()},
            "cannot be read as tensors and numbers, and nothing else is read",
        ),
        ({"state_dict": {}, "names": np.array([Harmful()])}, "cannot be read as tensors and numbers"),
        (
            {"model": {"weight": torch.ones(2)}},
            "holds no state dict.*state_dict, net, received the keys model",
        ),
        (torch.ones(2), "holds no state dict.*received a Tensor"),
        ({"state_dict": {}}, "485 tensor.s. missing"),
        (b"no checkpoint", "cannot be read as tensors and numbers"),
    ],
)
def test_what_is_no_state_dict_is_refused(content, message, tmp_path, capsys):
    path = tmp_path / "model.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    arguments = ["--from", "torchreid", "--input", str(path), "--model-name", "osnet_a025"]
    assert main([*arguments, "--output", str(tmp_path / "m.keras")]) == 2
    output = capsys.readouterr()
    assert re.search(message, output.err), output.err
    assert "this ran" not in output.out and list(tmp_path.iterdir()) == [path]
