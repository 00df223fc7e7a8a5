"""The projects whose PyTorch checkpoints are imported, and where they keep what a layer of ours holds."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_COUNTERS = {r"(.+\.)?num_batches_tracked": "counters of batches"}


@dataclass(frozen=True)
class Source:
    """What a project calls its tensors.

    Attributes:
        models: Models of ours that it has.
        module_of: Name of a layer of ours to the name of the module with its weights.
        left_out: Regular expression of whole names of tensors without a place in our models, to what they are.
        zeros: Names of tensors that are left out too, for they are fixed at 0.
    """

    models: tuple[str, ...]
    module_of: Callable[[str], str]
    left_out: Mapping[str, str]
    zeros: tuple[str, ...] = ()

    def reason_to_leave_out(self, tensor: str) -> str | None:
        """What a tensor is that our models do not have; None where it is none of these."""
        if tensor in self.zeros:
            return "shifts that are fixed at 0"
        return next((what for name, what in self.left_out.items() if re.fullmatch(name, tensor)), None)


def _torchreid(layer: str) -> str:
    """OSNet of torchreid."""
    block = re.fullmatch(r"(conv\d)_(\d)_(.+)", layer)
    if block:
        stage, number, part = block.groups()
        return f"{stage}.{int(number) - 1}.{_in_osnet_block(part)}"
    if layer in ("fc", "fc_bn"):
        return "fc.0" if layer == "fc" else "fc.1"
    return _convolution_or_norm(layer.replace("_transition", ".2.0"))


def _in_osnet_block(part: str) -> str:
    stream = re.fullmatch(r"stream(\d)_(\d)_(\w+)", part)
    if stream is None:
        return part.replace("gate_", "gate.") if part.startswith("gate_") else _convolution_or_norm(part)
    number, depth, layer = stream.groups()
    # A stream of one light convolution is that convolution, the others are lists.
    place = "" if number == "1" else f".{int(depth) - 1}"
    inner = {"pointwise": "conv1", "depthwise": "conv2", "bn": "bn"}[layer]
    return f"conv2{'abcd'[int(number) - 1]}{place}.{inner}"


def _convolution_or_norm(layer: str) -> str:
    return f"{layer.removesuffix('_bn')}.{'bn' if layer.endswith('_bn') else 'conv'}"


def _torchvision(layer: str) -> str:
    """ResNet of torchvision."""
    if not layer.startswith("layer"):
        return layer.replace("conv1_bn", "bn1")
    block = re.fullmatch(r"(layer\d)_(\d+)_(conv|downsample)(\d?)(_bn)?", layer)
    assert block is not None, layer
    stage, number, kind, position, norm = block.groups()
    inner = {"conv": f"{'bn' if norm else 'conv'}{position}", "downsample": f"downsample.{1 if norm else 0}"}
    return f"{stage}.{int(number) - 1}.{inner[kind]}"


_FIRST_NON_LOCAL = {"2": 3, "3": 4}  # stage to the block, from 1, that its first non-local block follows


def _agw(layer: str) -> str:
    """AGW's network for two modalities: three ResNet-50s, of which two give their stem and one everything else."""
    if layer == "bnneck":
        return "bottleneck"
    for modality in ("visible", "thermal"):
        if layer.startswith(f"{modality}_"):
            return f"{modality}_module.{modality}.{_torchvision(layer.removeprefix(f'{modality}_'))}"
    block = re.fullmatch(r"layer(\d)_(\d)_non_local_(\w+)", layer)
    if block is None:
        return f"base_resnet.base.{_torchvision(layer)}"
    stage, number, part = block.groups()
    inner = {"g": "g.0", "w": "W.0", "w_bn": "W.1"}.get(part, part)
    return f"NL_{stage}.{int(number) - _FIRST_NON_LOCAL[stage]}.{inner}"


SOURCES = {
    "torchreid": Source(
        models=("osnet_a025", "osnet_a050", "osnet_a075", "osnet_a100"),
        module_of=_torchreid,
        left_out={**_COUNTERS, r"classifier\.(weight|bias)": "the classifier"},
    ),
    "torchvision": Source(
        models=("resnet50", "resnet101"),
        module_of=_torchvision,
        left_out={**_COUNTERS, r"fc\.(weight|bias)": "the classifier"},
    ),
    "agw": Source(
        models=("agw",),
        module_of=_agw,
        left_out={
            **_COUNTERS,
            r"classifier\.weight": "the classifier",
            r"(visible_module\.visible|thermal_module\.thermal)\.(layer\d|fc)\..+": "stages of the stems' networks",
            r"base_resnet\.base\.(conv1|bn1|fc)\..+": "stem of the trunk's network",
        },
        zeros=("bottleneck.bias",),
    ),
}
"""Value of `--from` to its names."""
