"""The model card of a package, in Markdown: what is known is stated with its source, the rest is called unknown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

from common.artifacts import Model, Report, Table
from common.deployment.qnn_htp import HtpCompilation
from src.schema import Card
from src.services._int8.comparison import COMPARISON

_UNKNOWN = "unknown"
_USE = """\
To find images of the same person (or vehicle, where it was trained on vehicles) among images of one installation: each
image shows one person, cut out by a detector, and similar embeddings are candidates for a person to judge.

Limits:

- An embedding describes looks, mostly clothes: it does not name anybody, and says little once clothes have changed.
- Scores hold for images like those of the test set. Other cameras, distances, light or sensors need their own test.
- Differences between groups of people were not measured.
- Decisions about people must not rest on a match alone. Recording and comparing people needs a legal basis."""

_QUALCOMM = """\
onnxruntime-qnn holds Qualcomm's libraries under Qualcomm's own licence. They made the context binary and the DLC, and
are not in this package."""


@dataclass(frozen=True)
class Facts:
    """What a card is made of.

    Attributes:
        model: The packaged model.
        compilation: What the NPU's compiler made of it.
        reports: Reports of this run by service.
        checklist: The verdicts, as they are shown.
        stated: What only the owners of weights and images can say.
    """

    model: Model
    compilation: HtpCompilation
    reports: Mapping[str, Report]
    checklist: Table
    stated: Card


def model_card(facts: Facts) -> str:
    """The card, Markdown with one table a subject."""
    sections = {
        "Model": _rows(_model(facts)),
        "Training data": _rows(_data(facts)),
        "Scores": _scores(facts.reports),
        **_measured(facts.reports),
        "On the NPU": _rows(_npu(facts.compilation)),
        "Checklist": _markdown(facts.checklist.columns, facts.checklist.rows),
        "Intended use and limits": _USE,
        "Tools": _tools(facts.model.tool_versions),
    }
    body = [f"## {title}\n\n{text}\n" for title, text in sections.items()]
    return "\n".join([f"# Model card: {facts.model.name}\n", *body])


def _model(facts: Facts) -> dict[str, Any]:
    model = facts.model
    return {
        "task": "embedding for re-identification",
        "network": model.trained_on.get("model_name"),
        **({"takes": f"{model.input_name} images"} if model.input_name else {}),
        "precision": model.precision,
        "input": "{} x {} pixels, {} channels (height x width)".format(*model.input_shape),
        "embedding": f"{model.embedding_dim} numbers",
        "made from": None if model.source is None else model.source.path.name,
        "licence of the weights": facts.stated.licence,
    }


def _data(facts: Facts) -> dict[str, Any]:
    seen = facts.model.trained_on
    return {
        "data set": seen.get("dataset_name"),
        "identities": seen.get("identities"),
        "images": seen.get("images"),
        **({"adapted without labels to": seen["adapted_to"]} if "adapted_to" in seen else {}),
        "licence and consent": facts.stated.consent,
    }


def _npu(compilation: HtpCompilation) -> dict[str, Any]:
    counts = compilation.counts
    return {
        "chip": f"{compilation.soc} (SoC {compilation.soc_model}, Hexagon {compilation.hexagon})",
        "compiler": f"QNN {compilation.qnn_version}, CPU fallback disabled",
        "operators": f"{counts.operators}: {counts.integer} integer, {counts.floating} float, "
        f"{counts.conversions} conversions, {counts.refused} refused",
        "convolutions in integer": f"{counts.integer_convolutions} of {counts.convolutions}",
        "context binary": f"{(compilation.context_bytes or 0) / 1e6:.2f} MB",
        "DLC": f"{(compilation.dlc_bytes or 0) / 1e6:.2f} MB",
    }


def _scores(reports: Mapping[str, Report]) -> str:
    """What the evaluation says, else the comparison that quantization makes where it is asked for."""
    if "evaluation" in reports:
        return _tables(reports["evaluation"].tables, reports["evaluation"].notes)
    quantization = reports.get("quantization", Report("quantization", {}))
    compared = [table for table in quantization.tables if table.title.startswith(COMPARISON)]
    if not compared:
        return "Unknown: the run that made this package did not evaluate the model."
    return _tables(compared, [note for note in quantization.notes if note.startswith("Comparison")])


def _measured(reports: Mapping[str, Report]) -> dict[str, str]:
    """A section of each report beside the scores; the placement of every operator is left to the benchmark's own."""
    titles = {"quantization": "Quantization", "benchmarking": "Benchmark"}
    sections = {}
    for service, title in titles.items():
        if service in reports:
            tables = [
                table
                for table in reports[service].tables
                if not table.title.startswith(COMPARISON) and "Operator placement" not in table.title
            ]
            sections[title] = _tables(tables, reports[service].notes)
    return sections


def _tables(tables: Sequence[Table], notes: Sequence[str]) -> str:
    texts = [f"{table.title}:\n\n{_markdown(table.columns, table.rows)}" for table in tables]
    return "\n\n".join([*texts, *notes])


def _tools(versions: Mapping[str, str]) -> str:
    rows = [(name, version, _licence(name)) for name, version in versions.items()]
    if not rows:
        return "Unknown."
    return f"{_markdown(('tool', 'version', 'licence as the tool states it'), rows)}\n\n{_QUALCOMM}"


def _licence(package: str) -> str:
    """What the installed package says of itself."""
    try:
        fields = metadata(package)
    except PackageNotFoundError:
        return _UNKNOWN
    stated = next((fields[key] for key in ("License-Expression", "License") if key in fields), _UNKNOWN)
    return stated.strip().splitlines()[0]


def _rows(values: Mapping[str, Any]) -> str:
    return _markdown(("", ""), [(key, value or _UNKNOWN) for key, value in values.items()])


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *[[_cell(value) for value in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
