"""Whether every network of the zoo becomes INT8 that computes what the network does: `make quantization-parity`.

Each is built with random weights at 64x32, rebuilt for quantization, calibrated, exported to ONNX, and run on ONNX
Runtime and on Qualcomm's emulator of the NPU; `agw` on each of its backbones, as a graph for each modality. This
proves the way from Keras to the chip and says nothing of people: for those, `make experiments-quantization`. The
tables go into docs/README_QUANTIZATION.md. What is finished is not repeated, and what was measured with other versions
or settings is refused: remove the folder to measure anew.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.artifacts import tool_versions, write_json
from common.config import OUTPUTS, ConfigError, suggest
from common.deployment.placement_table import placement_table
from common.deployment.qnn_htp import compile_htp
from common.run import load_tensorflow, progress
from common.runtime.open_model import open_model
from src.registries import MODELS
from src.tools._markdown import markdown
from src.tools._planned import differences, put_between_markers, verdict

if TYPE_CHECKING:
    import keras

_PAGE = Path(__file__).parents[2] / "docs/README_QUANTIZATION.md"
_PARITY = "<!-- parity of make quantization-parity -->"
_PLACEMENT = "<!-- placement of make quantization-parity -->"
_SHAPE = (64, 32, 3)
_CALIBRATION, _COMPARED = 32, 16
_SHOWN = "osnet_a025"
"""The network whose operators the page lists."""

Images = Any
"""Rescaled images (N, H, W, C), or a dict of them by modality."""


@dataclass(frozen=True)
class Graph:
    """What became of one network, or of one modality of it.

    Attributes:
        network: Name in the zoo.
        modality: Empty where the network has one input.
        rebuilt: Greatest difference of the rebuilt and folded network to the network, relative to its greatest value.
        to_float: Mean cosine of fake-quantized to float embeddings.
        to_quantized: Mean cosine of the ONNX file on ONNX Runtime to the fake-quantized network.
        to_onnx: Mean cosine of the file on the HTP emulator to ONNX Runtime.
        convolutions: On the HTP.
        integer_convolutions: Those in integer.
        operators: Columns and rows of `placement_table`.
        compiler: Chip and version.
        megabytes: Size of the ONNX file.
    """

    network: str
    modality: str
    rebuilt: float
    to_float: float
    to_quantized: float
    to_onnx: float
    convolutions: int
    integer_convolutions: int
    operators: Sequence[Sequence[Any]]
    compiler: str
    megabytes: float

    @property
    def floating(self) -> str:
        """The operators that stay float, by type."""
        columns, *rows = self.operators
        types: Counter[str] = Counter()
        for row in rows:
            one = dict(zip(columns, row, strict=True))
            types[one["operator"]] += one["count"] if one["kind"] == "float" else 0
        return ", ".join(f"{count} {name}" for name, count in sorted(types.items()) if count)


def names() -> list[str]:
    """Every network: those of the registry, and `agw` on each backbone as `agw <backbone>`."""
    from src.models._places import PLACES

    return [*(name for name in MODELS if name != "agw"), *(f"agw {backbone}" for backbone in PLACES)]


def parity(name: str, folder: Path) -> list[Graph]:
    """Take one network all the way.

    Args:
        name: Of `names()`.
        folder: Receives the files.

    Raises:
        ConfigError, RuntimeError, ValueError: a step failed.
    """
    import keras

    from common.quantization.branches import branches
    from common.quantization.complete import export_qat_onnx
    from common.quantization.qat import prepare_qat
    from src.models._head import embedding_model, reid_network

    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    kind, _, backbone = name.partition(" ")
    arguments = {"backbone": backbone, "thermal_channels": 1} if backbone else {}
    network = reid_network(MODELS.build(kind, arguments, input_shape=_SHAPE), num_identities=2, bnneck=True)
    images = _images(network, _CALIBRATION + _COMPARED)
    known, unknown = (_cut(images, part) for part in (slice(_CALIBRATION), slice(_CALIBRATION, None)))
    _randomize(network, known)
    model = embedding_model(network)
    quantized = branches(prepare_qat(model, lambda: [known]))
    graphs = []
    for modality, part in branches(model).items():
        path = folder / f"{'_'.join(filter(None, (kind, backbone, modality)))}.onnx"
        path.write_bytes(export_qat_onnx(quantized[modality]).SerializeToString())
        pixels = unknown[modality] if modality else unknown
        graphs.append(_measure(name, modality, part, quantized[modality], path, pixels))
    return graphs


def _measure(
    name: str, modality: str, network: "keras.Model", quantized: Any, path: Path, images: np.ndarray
) -> Graph:
    from common.quantization.bridge import to_tf_keras
    from common.quantization.fold import fold_batch_norm
    from src.services._int8.numeric_gate import gaps

    expected = np.asarray(network(images, training=False))
    rebuilt = np.asarray(fold_batch_norm(to_tf_keras(network))(images, training=False))
    fake_quantized = np.asarray(quantized(images, training=False))
    with open_model(path) as runtime:
        on_host = runtime.embed(images)
    compilation = compile_htp(path, path.parent).require_complete()
    operators = placement_table(compilation.placement)
    assert compilation.context is not None
    with open_model(compilation.context) as emulator:
        on_npu = emulator.embed(images)

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(1 - gaps(one, other).mean())

    return Graph(
        network=name,
        modality=modality,
        rebuilt=float(np.abs(rebuilt - expected).max() / np.abs(expected).max()),
        to_float=cosine(fake_quantized, expected),
        to_quantized=cosine(on_host, fake_quantized),
        to_onnx=cosine(on_npu, on_host),
        convolutions=compilation.counts.convolutions,
        integer_convolutions=compilation.counts.integer_convolutions,
        operators=[operators.columns, *operators.rows],
        compiler=f"{compilation.soc}, Hexagon {compilation.hexagon}, QNN {compilation.qnn_version}",
        megabytes=path.stat().st_size / 1e6,
    )


def _images(network: "keras.Model", count: int) -> Images:
    """Coarse random colours with finer ones on them, as different from one another as photographs are."""
    generator = np.random.default_rng(0)

    def draw(shape: Sequence[int]) -> np.ndarray:
        height, width, channels = shape
        values = np.zeros((count, *shape), np.float32)
        for size, strength in ((16, 0.6), (4, 0.3), (1, 0.1)):
            grid = generator.uniform(-strength, strength, (count, height // size, width // size, channels))
            values += grid.repeat(size, axis=1).repeat(size, axis=2).astype(np.float32)
        return values

    if isinstance(network.input, dict):
        return {modality: draw(tensor.shape[1:]) for modality, tensor in network.input.items()}
    return draw(network.input_shape[1:])


def _cut(images: Images, part: slice) -> Images:
    return (
        {name: values[part] for name, values in images.items()} if isinstance(images, dict) else images[part]
    )


def _randomize(network: "keras.Model", images: Images) -> None:
    """Give norms the statistics of the images, random scales, and shifts that leave most units active.

    With shifts around 0 each ReLU behind a batch norm makes a small difference 1.47 times larger in power, half of the
    units over the variance of what is left: after fifty layers of random weights any rounding is as large as the image,
    and a noise of half a grey step leaves a cosine of 0.8 between float embeddings of `resnet50`.
    With shifts of 1 to 2 standard deviations it is 1.02 to 1.12 times, more like a trained network.
    """
    import keras

    from common.layers.start_statistics import start_statistics

    generator = np.random.default_rng(0)
    norms = (keras.layers.BatchNormalization, keras.layers.GroupNormalization)
    for layer in network.layers:
        if isinstance(layer, norms):
            scale = generator.uniform(0.5, 1.5, layer.gamma.shape)
            # A non-local block is of the third power of its input: it adds a little only
            layer.gamma.assign(0.1 * scale if "non_local" in layer.name else scale)
            if layer.center:
                layer.beta.assign(scale * generator.uniform(1, 2, scale.shape))
    start_statistics(network, images)


def table(graphs: Iterable[Graph]) -> str:
    """Write the graphs as Markdown, one a row."""
    columns = (
        "network", "modality", "rebuilt, off by", "cosine QAT to float", "ONNX to QAT", "HTP to ONNX",
        "integer convolutions", "float on the NPU", "MB",
    )  # fmt: skip
    rows = (
        (
            f"`{graph.network}`", graph.modality, f"{graph.rebuilt:.0e}",
            *(f"{cosine:.5f}" for cosine in (graph.to_float, graph.to_quantized, graph.to_onnx)),
            f"{graph.integer_convolutions} of {graph.convolutions}", graph.floating, f"{graph.megabytes:.2f}",
        )
        for graph in graphs
    )  # fmt: skip
    return "\n".join(markdown(columns, rows, text_columns=(0, 1, columns.index("float on the NPU"))))


def verdicts(graphs: Sequence[Graph]) -> list[str]:
    """Say of each requirement whether it is met, with the worst that was measured and where."""
    rebuilt = max(graphs, key=lambda graph: graph.rebuilt)
    to_quantized, to_onnx = (
        min(graphs, key=lambda graph: getattr(graph, key)) for key in ("to_quantized", "to_onnx")
    )
    integer = [graph for graph in graphs if graph.integer_convolutions == graph.convolutions]
    rows = (
        (rebuilt.rebuilt <= 1e-4, f"rebuilt networks differ by at most 1e-4: {rebuilt.rebuilt:.0e}", rebuilt),
        (
            to_quantized.to_quantized >= 0.9995,
            f"cosine of ONNX Runtime to the QAT model >= 0.9995: {to_quantized.to_quantized:.5f}",
            to_quantized,
        ),
        (
            to_onnx.to_onnx >= 0.999,
            f"cosine of the emulator to ONNX Runtime >= 0.999: {to_onnx.to_onnx:.5f}",
            to_onnx,
        ),
    )
    return [
        *(
            verdict(passed, f"{text} (`{f'{graph.network} {graph.modality}'.strip()}`)")
            for passed, text, graph in rows
        ),
        verdict(
            len(integer) == len(graphs),
            f"all convolutions integer on the HTP: in {len(integer)} of {len(graphs)} graphs",
        ),
    ]


def placement(graphs: Iterable[Graph]) -> str:
    """Write the operators of the network that the page shows as Markdown."""
    [graph] = [graph for graph in graphs if graph.network == _SHOWN]
    columns, *rows = graph.operators
    kept = [index for index, name in enumerate(columns) if name != "reason"]
    header, *cells = ([row[index] for index in kept] for row in (columns, *rows))
    lines = markdown(header, cells, text_columns=range(len(kept)))
    return "\n".join([f"`{_SHOWN}` on {graph.compiler}:", "", *lines])


def measured(name: str, folder: Path) -> list[Graph]:
    """What `parity` finds, from `folder` where it has been found.

    Raises:
        ConfigError: it was found with other versions or settings than those of now, or a step failed.
    """
    kept = folder / f"{name.replace(' ', '_')}.json"
    images = {"shape": str(_SHAPE), "calibration": str(_CALIBRATION), "compared": str(_COMPARED)}
    now = {**images, **tool_versions()}
    if not kept.is_file():
        with tempfile.TemporaryDirectory() as scratch:
            graphs = parity(name, Path(scratch))
        write_json(kept, {"measured_with": now, "graphs": [asdict(graph) for graph in graphs]})
    found = json.loads(kept.read_text(encoding="utf-8"))
    if changed := differences(found.get("measured_with", {}), now):
        raise ConfigError(
            f"{kept} was measured with other versions or settings: {changed}. Remove it to measure anew"
        )
    return [Graph(**graph) for graph in found["graphs"]]


def main(arguments: list[str]) -> int:
    """Measure and write the page; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", help="only these, and leave the page as it is (default: all)")
    parser.add_argument(
        "--folder", type=Path, default=Path(OUTPUTS) / "quantization_parity", help="of the results"
    )
    options = parser.parse_args(arguments)
    load_tensorflow()
    unknown = [name for name in options.networks if name not in names()]
    if unknown:
        print(f"error: unknown network '{unknown[0]}', {suggest(unknown[0], names())}", file=sys.stderr)
        return 2
    graphs: list[Graph] = []
    failed = []
    work = options.networks or names()
    with progress("networks", len(work), "networks") as advance:
        for name in work:
            try:
                graphs += measured(name, options.folder)
            except (ConfigError, RuntimeError, ValueError) as error:
                failed.append(f"{name}: {error}")
            advance(1, name)
    lines = [table(graphs), "", *(verdicts(graphs) if graphs else ())]
    print("\n".join(lines))
    for message in failed:
        print(f"error: {message}", file=sys.stderr)
    if failed:
        return 1
    if not options.networks:
        put_between_markers(_PAGE, "\n".join(lines), _PARITY)
        put_between_markers(_PAGE, placement(graphs), _PLACEMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
