from typing import Any

import keras
from keras import layers

from common.layers.gem import GeM
from common.layers.gradient_reversal import GradientReversal
from common.layers.replay import replay
from src.models._convolution import batch_norm
from src.models._places import Places, places_of
from src.models._purifier import Purified, purifier
from src.models._spatial_attention import spatial_attention
from src.models._two_stems import bnneck, copies, start_from_single
from src.registries import MODELS

_HIDDEN = 100  # of the modality classifiers, as published
_MODALITIES = 2


def idkl(
    input_shape: tuple[int, int, int] = (288, 144, 3),
    backbone: str = "resnet50",
    attention_heads: int = 0,
    pretrained: bool = False,
) -> keras.Model:
    """IDKL: rescaled images (N, H, W, C) of either modality to the embedding (N, D), and what only training needs.

    Ren and Zhang, Implicit Discriminative Knowledge Learning for Visible-Infrared Person Re-Identification, CVPR 2024.
    One stem serves both modalities, as published. Behind the early stages there are two branches: the shared one, which
    learns what the modalities have in common and is what is saved, and the specific one, a copy of the late stages with
    a purifier, which learns each modality's detail and hands it to the shared one by losses. Last stride 1,
    generalized-mean pooling (p = 3), BNNecks. docs/README_IDKL.md says what is kept of the published code.

    The output is a dict: `embedding` (N, D); of the specific branch `specific_features` and `specific_embedding`
    (N, D), `map_embedding` and `normed_features` (N, 2, C) of the purifier, `modality_logits` (N, 2); and
    `confusion_logits` (N, 2) of the shared branch behind a gradient reversal.

    Args:
        input_shape: Height, width and channels.
        backbone: As of `agw`.
        attention_heads: Of the multi-head attention over the positions of the specific branch's last map; 0 for none.
        pretrained: Whether both branches start from the backbone's ImageNet weights.

    Raises:
        ValueError: an argument has none of these values.
    """
    places = places_of(backbone)
    if attention_heads < 0:
        raise ValueError(f"attention_heads: expected 0 or more, received {attention_heads}")
    given = {"pretrained": True} if pretrained else {}
    MODELS.check(backbone, given)
    single = MODELS.get(backbone)(input_shape, **given)
    images = keras.Input(input_shape, name=single.input.name)
    shared = replay(single, {single.input: images}, _with_gem(places))
    features = shared(single.output)
    split = single.get_layer(places.split).output
    purified: list[Purified] = []
    specific = replay(single, {split: shared(split)}, _specific(places, attention_heads, purified))
    specific_features = specific(single.output)
    [parts] = purified
    outputs = {
        "embedding": bnneck()(features),
        "specific_features": specific_features,
        "specific_embedding": bnneck("specific_bnneck")(specific_features),
        "map_embedding": parts.parts,
        "normed_features": parts.normed_parts,
        "modality_logits": _modality_classifier(specific_features, "modality"),
        "confusion_logits": _modality_classifier(
            GradientReversal(name="confusion_reversal")(features), "confusion"
        ),
    }
    network = keras.Model(images, outputs, name="idkl")
    if pretrained:
        start_from_single(network, single)
    return network


def _with_gem(places: Places) -> Any:
    """Return the calls of the backbone with another pooling."""
    copy = copies(changes=places.changes)

    def call(layer: keras.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return GeM(name=layer.name)(*args) if layer.name == places.pool else copy(layer, args, kwargs)

    return call


def _specific(places: Places, attention_heads: int, purified: list[Purified]) -> Any:
    """Return the calls of the specific branch; what its purifier makes is put into `purified`."""
    copy = copies(prefix="specific_", changes=places.changes)

    def call(layer: keras.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if layer.name != places.pool:
            return copy(layer, args, kwargs)
        [last_map] = args
        if attention_heads:
            last_map = spatial_attention(last_map, attention_heads, "specific_attention")
        purified.append(purifier(last_map, "purifier"))
        return GeM(name=f"specific_{layer.name}")(purified[-1].map)

    return call


def _modality_classifier(features: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Two hidden layers; (N, D) to (N, 2)."""
    x = features
    for number in (1, 2):
        x = layers.Dense(_HIDDEN, use_bias=False, name=f"{name}_fc{number}")(x)
        x = layers.ReLU(name=f"{name}_fc{number}_relu")(batch_norm(x, f"{name}_fc{number}"))
    return layers.Dense(_MODALITIES, name=f"{name}_logits")(x)
