from typing import Any, Literal

import keras

from common.layers.gem import GeM
from src.models._non_local import NonLocal
from src.models._non_local import non_local as non_local_block
from src.models._places import Places, places_of
from src.models._two_stems import MODALITIES, bnneck, copies, start_from_single, with_necks, with_two_stems
from src.registries import MODELS

_SMALLEST = 1e-4  # the published code adds 1e-12 to the mean of cubes


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
    places = places_of(backbone)
    if thermal_channels not in (1, 3):
        raise ValueError(f"thermal_channels: expected 1 or 3, received {thermal_channels}")
    if neck not in ("shared", "per_modality"):
        raise ValueError(f"neck: expected shared or per_modality, received {neck!r}")
    given = {"pretrained": True} if pretrained else {}
    MODELS.check(backbone, given)
    single = MODELS.get(backbone)(input_shape, **given)
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


def _changed(places: Places, kind: NonLocal, learned_gem: bool) -> Any:
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
