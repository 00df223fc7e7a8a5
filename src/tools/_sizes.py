"""What a network needs on a device: counted on its graphs, with the latency that is estimated for them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.artifacts import whole_file
from common.deployment.latency_model import UnlikePublishedError, estimate_latency
from common.deployment.macs import count_macs
from src.schema import ModelSection


class Size(NamedTuple):
    """A network as it is deployed: parameters, MACs and latency are those of an image of one modality."""

    parameters: int
    macs: int
    float_megabytes: float
    int8_megabytes: float
    """Of all its graphs."""
    graphs: int
    """One, or one for each modality."""
    latency: str
    """Estimated latency on the NPU, or why there is none."""


def size_of(trained: Path, graphs: Sequence[Path]) -> Size:
    """The size of a network.

    Args:
        trained: The float model.
        graphs: Its INT8 graphs; the first one is counted.
    """
    first, macs = graphs[0], count_macs(graphs[0])
    whole, small = (sum(path.stat().st_size for path in paths) / 1e6 for paths in ([trained], graphs))
    return Size(macs["parameters"], macs["macs"], whole, small, len(graphs), _latency(first))


def published_size(section: ModelSection, path: Path) -> Size:
    """The size of a network of the zoo with random weights; a weight takes four bytes in float and one in INT8.

    Args:
        section: Which network.
        path: Of its float graph for images of one modality, which is written unless it is there.
    """
    if not path.is_file():
        _export(section, path)
    macs = count_macs(path)
    weights = macs["parameters"] / 1e6
    return Size(macs["parameters"], macs["macs"], 4 * weights, weights, 1, _latency(path))


def _export(section: ModelSection, path: Path) -> None:
    from common.quantization.branches import branches
    from common.quantization.onnx_export import export_onnx
    from src.models._build import build_backbone
    from src.models._head import embedding_model, reid_network

    network = embedding_model(reid_network(build_backbone(section), num_identities=1, bnneck=True))
    graph = export_onnx(next(iter(branches(network).values())))
    with whole_file(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())


def _latency(graph: Path) -> str:
    try:
        return f"{estimate_latency(graph).milliseconds:.2f}"
    except UnlikePublishedError as error:
        return f"none: {error.reasons[0]}"


def published_sizes(networks: Mapping[str, ModelSection], folder: Path) -> dict[str, Size]:
    """Sizes of networks by name; their graphs are kept in `folder`."""
    files = {name: folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')}.onnx" for name in networks}
    return {name: published_size(section, files[name]) for name, section in networks.items()}
