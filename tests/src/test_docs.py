"""What the pages show can be copied: commands, YAML, Python, links and pictures; and their tables leave nothing out."""

import argparse
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from common.config import compose, expand_environment, validate
from src.registries import CLUSTERING, DATASETS, LOSSES, MODELS, PROTOCOLS, RERANKING
from src.schema import Config

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "config_file_examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PROGRAMS = ("python", "make", "mlflow", "pip", "qai-hub")
BASE = """
operation_mode: training
model: {model_name: osnet_a025}
dataset: {training_path: a, test_query_path: b, test_gallery_path: c}
training: {batch_size: 64, epochs: 1, optimizer: Adam}
quantization: {quantizer: TFlite_converter}
"""


def _blocks(language: str) -> list:
    found = []
    for page in PAGES:
        texts = re.findall(
            rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        )
        name = str(page.relative_to(ROOT))
        found += [pytest.param(text, id=f"{name}-{number}") for number, text in enumerate(texts, 1)]
    return found


def _headers() -> list:
    """The commands in the comments of the examples."""
    found = []
    for path in sorted((ROOT / "config_file_examples").rglob("*.yaml")):
        comments = re.findall(r"^ *# ?(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        text = "\n".join(comments).replace("\\\n", " ")
        if commands := re.findall(r"^python .*$", text, re.MULTILINE):
            found.append(pytest.param("\n".join(commands), id=path.stem))
    return found


@pytest.fixture(autouse=True)
def models_folder(monkeypatch, tmp_path):
    (tmp_path / "my_model.py").write_text("def custom_model(input_shape, width: int = 48): ...\n")
    monkeypatch.setenv("MODELS_DIR", "/models")
    monkeypatch.chdir(tmp_path)


class _Understood(Exception):  # noqa: N818 (no error)
    """A tool has read its command line."""


def _then_end(function):
    def called(*arguments, **keywords):
        function(*arguments, **keywords)
        raise _Understood

    return called


def _give(name, arguments, monkeypatch):
    """Start a tool, which ends once its own parser, or the schema, has taken the arguments."""
    if importlib.util.find_spec(name).submodule_search_locations:
        name += ".__main__"
    module = importlib.import_module(name)
    takes_arguments = inspect.signature(module.main).parameters
    with monkeypatch.context() as patch, pytest.raises(_Understood):
        patch.setattr(argparse.ArgumentParser, "parse_args", _then_end(argparse.ArgumentParser.parse_args))
        patch.setattr(module, "validate", _then_end(validate), raising=False)
        patch.setattr(sys, "argv", [name, *arguments])
        module.main(arguments) if takes_arguments else module.main()


def _commands(text: str) -> list[list[str]]:
    """The programs that a shell would start, with their arguments; one that is not among `PROGRAMS` is a mistake."""
    told = "".join(f"""{name}() {{ printf '%s\\0' {name} "$@"; printf '\\n\\0'; }}\n""" for name in PROGRAMS)
    text = re.sub(
        rf"^\S*/(?=({'|'.join(PROGRAMS)}) )", "", text, flags=re.MULTILINE
    )  # of an environment's folder
    environment = {"PATH": "/nowhere", "MODELS_DIR": "/models"}
    shell = subprocess.run(
        ["/bin/bash", "-euc", told + text], env=environment, capture_output=True, text=True, check=False
    )
    assert shell.returncode == 0, shell.stderr
    return [found.split("\0")[:-1] for found in shell.stdout.split("\n\0")[:-1]]


def _first_of_sweep(override: str) -> str:
    [parsed] = OverridesParser.create().parse_overrides([override])
    if not parsed.is_sweep_override():
        return override
    return f"{parsed.get_key_element()}={next(parsed.sweep_string_iterator())}"


@pytest.mark.parametrize("text", _blocks("bash") + _headers())
def test_a_command_is_one_that_can_be_given(text, monkeypatch):
    for program, *arguments in _commands(text):
        if program == "python" and arguments[0] == "stm32ai_main.py":
            if "--multirun" in arguments:
                arguments.remove("--multirun")
                arguments = [_first_of_sweep(word) if "=" in word else word for word in arguments]
            validate(Config, compose(arguments[1:]))
        elif program == "python" and arguments[1].startswith(("src.", "datasets.")):
            _give(arguments[1], arguments[2:], monkeypatch)
        elif program == "python":
            assert arguments[0] == "-m" and importlib.util.find_spec(arguments[1]) is not None
        elif program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("text", _blocks("yaml"))
def test_a_block_of_yaml_is_valid_on_top_of_a_complete_configuration(text):
    raw = yaml.safe_load(BASE)
    for section, value in yaml.safe_load(expand_environment(text)).items():
        merge = isinstance(value, dict) and section != "model" and "root_path" not in value
        raw[section] = {**raw.get(section, {}), **value} if merge else value
    if raw["model"].get("model_name") and raw["operation_mode"] == "evaluation":
        raw["operation_mode"] = "chain_te"
    raw["training"].setdefault("optimizer", "Adam")
    validate(Config, raw)


@pytest.mark.parametrize("text", _blocks("python"))
def test_a_block_of_python_runs(text):
    exec(text, {})


@pytest.mark.parametrize(
    ("page", "registry", "given"),
    [
        ("README_EVALUATION.md", PROTOCOLS, ("query", "gallery", "distance", "max_rank")),
        ("README_EVALUATION.md", RERANKING, ("query", "gallery", "features")),
        ("README_ADAPTATION.md", CLUSTERING, ("distances",)),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_table_has_every_name_with_its_arguments_and_defaults(page, registry, given):
    rows = re.findall(r"^\| .*$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)
    for name in registry:
        [row] = [row for row in rows if f"`{name}`" in row.split("|")[1]]
        for argument, default in registry.find(name).parameters.items():
            if argument not in given:
                value = default.strip("'").removesuffix(".0")
                assert f"`{argument}={value}`" in row, (name, argument)


@pytest.mark.parametrize("registry", [MODELS, LOSSES, DATASETS], ids=lambda registry: registry.kind)
def test_a_table_names_everything_that_can_be_chosen(registry):
    pages = ("README_MODELS.md", "README_DISTILLATION.md", "README_DATASETS.md")
    cells = "".join(
        row.split("|")[1]
        for page in pages
        for row in (ROOT / "docs" / page).read_text().splitlines()
        if "|" in row
    )
    assert [name for name in registry if f"`{name}`" not in cells] == []


def test_messages_on_the_page_about_them_are_those_of_the_code():
    sources = [
        path.read_text(encoding="utf-8") for name in ("common", "src") for path in (ROOT / name).rglob("*.py")
    ]
    page = (ROOT / "docs/tutorials/when_it_stops.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `(.+?)` \|", page, re.MULTILINE)
    assert len(messages) > 10
    for message in messages:
        for part in message.split("..."):
            assert any(part in source for source in sources), part


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_are_there(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link and not link.startswith("#"):
            target, _, anchor = link.partition("#")
            assert (page.parent / target).exists(), link
            if anchor:
                headings = re.findall(
                    r"^#+ (.*)$", (page.parent / target).read_text(encoding="utf-8"), re.MULTILINE
                )
                assert anchor in [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings], (
                    link
                )
