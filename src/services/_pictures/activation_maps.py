from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from common import plotting
from common.artifacts import write_csv
from src.data.pipeline import load_pixels
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.training.validation import by_modality

_PAIRS_IN_A_ROW = 5
_HEAT = 0.55


def activation_maps(
    path: Path, network: keras.Model, samples: Sequence[Sample], preprocessing: Preprocessing
) -> tuple[Path, str] | None:
    """Draw where the last feature map of a network is strong: its length over the channels, laid over the image.

    No gradient and no identity enter: it shows what the pooling before the embedding sees, not what decided.

    Args:
        path: The PNG; the maps before enlarging are written to a CSV of the same name.
        network: A training network or an embedding model, of one input or one for each modality.
        samples: A few images.
        preprocessing: Of the network; of visible images where it has two inputs.

    Returns:
        (PNG, caption); None where nothing before the embedding is a map, as in a transformer.
    """
    images: list[np.ndarray] = []
    maps: list[tuple[Sample, np.ndarray]] = []
    for modality, part in by_modality(network).items():
        own = [sample for sample in samples if modality in ("", sample.modality)]
        feature_map = _last_feature_map(part)
        if feature_map is None:
            return None
        if not own:
            continue
        pixels = load_pixels(own, to := preprocessing.of_shape(part.input_shape[1:]))
        features = keras.Model(part.inputs[0], feature_map)(
            to.rescale(pixels.astype(np.float32)), training=False
        )
        strength = np.linalg.norm(
            keras.ops.convert_to_numpy(features).astype(np.float32), axis=-1
        )  # (n, h, w)
        for sample, picture, heat in zip(own, pixels, strength, strict=True):
            picture = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture[..., :3]
            images += [picture, _overlay(picture, heat)]
            maps.append((sample, heat))
    height, width = maps[0][1].shape
    write_csv(
        path.with_suffix(".csv"),
        ("file", "row", *(f"column_{column}" for column in range(width))),
        (
            (sample.path, row, *(f"{value:.5g}" for value in values))
            for sample, heat in maps
            for row, values in enumerate(heat)
        ),
    )
    titles = [title for sample, _ in maps for title in (str(sample.identity)[:14], "activation")]
    columns = 2 * min(len(maps), _PAIRS_IN_A_ROW)
    return plotting.image_grid(path, images, columns, titles, title=f"{network.name}, activation maps"), (
        f"Activation maps of queries: length over the channels of the last feature map ({height} x {width}) before the "
        "embedding, each image on its own scale from blue (least) to red (most). Without gradients: where the "
        "network responds, not what decided."
    )


def _last_feature_map(network: keras.Model) -> Any:
    """The nearest ancestor (N, h, w, C) of the embedding that has more than one place; not the image itself."""
    output = network.output["embedding"] if isinstance(network.output, dict) else network.output
    tensors, seen = [output], set()
    while tensors:
        tensor = tensors.pop(0)
        if len(tensor.shape) == 4 and tensor.shape[1] * tensor.shape[2] > 1:
            return tensor
        operation, node, _ = tensor._keras_history
        for parent in operation._inbound_nodes[node].input_tensors:
            if id(parent) not in seen and parent is not network.inputs[0]:
                seen.add(id(parent))
                tensors.append(parent)
    return None


def _overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """An image uint8 (H, W, 3) under a map (h, w), which is stretched to its own range."""
    scaled = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
    large = cv2.resize(scaled, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((255 * large).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return (_HEAT * colours + (1 - _HEAT) * image).astype(np.uint8)
