from typing import Any, Literal, NamedTuple

import keras

from common.config import suggest
from common.layers.gem import GeM
from src.models._non_local import NonLocal
from src.models._non_local import non_local as non_local_block
from src.models._two_stems import MODALITIES, bnneck, copies, start_from_single, with_necks, with_two_stems
from src.registries import MODELS


class _Places(NamedTuple):
    """Where AGW changes a backbone, as names of layers."""

    stem_end: str
    pool: str
    non_local: tuple[str, ...] = ()
    """Layers that a non-local block follows: the last ones at strides 8 and 16."""
    changes: dict[str, dict[str, Any]] = {}
    """Arguments of layers that differ, such as a last stride of 1."""


_SMALLEST = 1e-4  # the published code adds 1e-12 to the mean of cubes


def _of_resnet(depth: int) -> _Places:
    blocks = ("layer2_3", "layer2_4", *(f"layer3_{number}" for number in range(depth - 2, depth + 1)))
    return _Places("maxpool", "features", tuple(f"{block}_out" for block in blocks))


_OSNET = _Places("maxpool", "pool", ("conv3_1_out", "conv3_2_out", "conv4_1_out", "conv4_2_out"))
_MOBILENETV2 = _Places(
    "Conv1_relu",
    "features",
    ("block_4_add", "block_5_add", "block_10_project_BN", "block_11_add", "block_12_add"),
    {"block_13_pad": {"padding": ((1, 1), (1, 1))}, "block_13_depthwise": {"strides": (1, 1)}},
)
_BACKBONES = {
    "resnet50": _of_resnet(6),
    "resnet101": _of_resnet(23),
    "resnet50_ibn_a": _of_resnet(6),
    **dict.fromkeys(("osnet_a025", "osnet_a050", "osnet_a075", "osnet_a100"), _OSNET),
    **dict.fromkeys(
        (f"mobilenetv2_a{width}" for width in ("035", "050", "075", "100", "130", "140")), _MOBILENETV2
    ),
    "plain_cnn": _Places("conv1_relu", "features", ("conv5_relu",)),
    "custom_model": _Places("conv1_relu", "features", ("conv3_relu",)),
}


def agw(
    input_shape: tuple[int, int, int] = (288, 144, 3),
    backbone: str = "resnet50",
    non_local: NonLocal = "agw",
    thermal_channels: Literal[1, 3] = 3,
    neck: Literal["shared", "per_modality"] = "shared",
    learned_gem: bool = False,
    pretrained: bool = False,
) -> keras.Model:
    """AGW for visible and thermal images: a dict of rescaled images (N, H, W, C) to embeddings (N + M, D).

    Ye et al., Deep Learning for Person Re-identification: A Survey and Outlook, 2021, section 4, as in the code that
    its authors publish for two modalities: each has a stem, from the backbone's second stage on everything is shared;
    last stride 1, non-local blocks, generalized-mean pooling (p = 3), BNNeck. The inputs are `visible` and `thermal`,
    the output holds visible images first.

    Args:
        input_shape: Height, width and channels of visible images.
        backbone: A ResNet of `src/models/resnet.py`, an OSNet, a MobileNet V2, `plain_cnn`, or the packaged
            `custom_model`.
        non_local: `agw` blocks, `embedded` Gaussian ones, or `none`; see `src/models/_non_local.py`.
        thermal_channels: 3 repeats the thermal value, as the published protocols do.
        neck: BNNeck `shared` by the modalities as published, or one `per_modality`.
        learned_gem: Whether training moves the exponent of the pooling.
        pretrained: Whether both stems and the trunk start from the backbone's ImageNet weights.

    Raises:
        ValueError: an argument has none of these values.
    """
    if backbone not in _BACKBONES:
        raise ValueError(f"backbone: unknown value '{backbone}', {suggest(backbone, _BACKBONES)}")
    if thermal_channels not in (1, 3):
        raise ValueError(f"thermal_channels: expected 1 or 3, received {thermal_channels}")
    if neck not in ("shared", "per_modality"):
        raise ValueError(f"neck: expected shared or per_modality, received {neck!r}")
    given = {"pretrained": True} if pretrained else {}
    MODELS.check(backbone, given)
    single, places = MODELS.get(backbone)(input_shape, **given), _BACKBONES[backbone]
    network = with_two_stems(
        single, places.stem_end, thermal_channels, _changed(places, non_local, learned_gem)
    )
    if pretrained:
        start_from_single(network, single)
    if neck == "per_modality":
        network = with_necks(network, [bnneck(f"bnneck_{modality}") for modality in MODALITIES])
    else:
        network = keras.Model(network.input, bnneck()(network.output))
    return keras.Model(network.input, network.output, name="agw")


def _changed(places: _Places, kind: NonLocal, learned_gem: bool) -> Any:
    """Return the calls of the trunk: the backbone's, with non-local blocks and another pooling."""
    copy = copies(changes=places.changes)

    def call(layer: keras.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if layer.name == places.pool:
            return GeM(learned=learned_gem, smallest=_SMALLEST, name=layer.name)(*args)
        output = copy(layer, args, kwargs)
        if layer.name not in places.non_local:
            return output
        return non_local_block(output, kind, f"{layer.name.removesuffix('_out')}_non_local")

    return call
