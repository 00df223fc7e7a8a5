"""Where networks for two modalities change a backbone."""

from typing import Any, NamedTuple

from common.config import suggest


class Places(NamedTuple):
    """Names of a backbone's layers."""

    stem_end: str
    """The last layer that AGW has for each modality."""
    split: str
    """The last layer that the two branches of IDKL share: that of stride 8 in published networks."""
    pool: str
    """What makes a vector of the last map."""
    non_local: tuple[str, ...] = ()
    """Layers that a non-local block of AGW follows: the last ones at strides 8 and 16."""
    changes: dict[str, dict[str, Any]] = {}
    """Arguments of layers that differ, such as a last stride of 1."""


def _of_resnet(depth: int) -> Places:
    blocks = ("layer2_3", "layer2_4", *(f"layer3_{number}" for number in range(depth - 2, depth + 1)))
    return Places("maxpool", "layer2_4_out", "features", tuple(f"{block}_out" for block in blocks))


_OSNET = Places(
    "maxpool",
    "conv2_transition_pool",
    "pool",
    ("conv3_1_out", "conv3_2_out", "conv4_1_out", "conv4_2_out"),
)
_MOBILENETV2 = Places(
    "Conv1_relu",
    "block_5_add",
    "features",
    ("block_4_add", "block_5_add", "block_10_project_BN", "block_11_add", "block_12_add"),
    {"block_13_pad": {"padding": ((1, 1), (1, 1))}, "block_13_depthwise": {"strides": (1, 1)}},
)
PLACES = {
    "resnet50": _of_resnet(6),
    "resnet101": _of_resnet(23),
    "resnet50_ibn_a": _of_resnet(6),
    **dict.fromkeys(("osnet_a025", "osnet_a050", "osnet_a075", "osnet_a100"), _OSNET),
    **dict.fromkeys(
        (f"mobilenetv2_a{width}" for width in ("035", "050", "075", "100", "130", "140")), _MOBILENETV2
    ),
    "plain_cnn": Places("conv1_relu", "conv3_relu", "features", ("conv5_relu",)),
    "custom_model": Places("conv1_relu", "conv2_relu", "features", ("conv3_relu",)),
}
"""Backbone to its places."""


def places_of(backbone: str) -> Places:
    """Return the places of a backbone.

    Raises:
        ValueError: there is none of that name.
    """
    if backbone not in PLACES:
        raise ValueError(f"backbone: unknown value '{backbone}', {suggest(backbone, PLACES)}")
    return PLACES[backbone]
