from collections.abc import Iterable
from pathlib import Path

from common.artifacts import write_json
from common.quantization.encodings import Version, encodings

_VERSIONS: tuple[Version, ...] = ("legacy", "1.0.0", "2.0.0")


def encodings_files(
    onnx_path: Path, folder: Path, versions: Iterable[Version] = _VERSIONS, prefix: str = ""
) -> list[Path]:
    """Write the scales of a QDQ graph as `<prefix>encodings_<version>.json` in Qualcomm's forms.

    Raises:
        ValueError: the graph has no Q/DQ.
    """
    import onnx

    graph = onnx.load(str(onnx_path))
    return [
        write_json(folder / f"{prefix}encodings_{version}.json", encodings(graph, version))
        for version in versions
    ]
