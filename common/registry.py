"""Names in YAML to callables: the public functions and classes of a folder, read without importing them.

A folder's source is parsed with `ast`, so that a wrong name or argument is answered in milliseconds; the module
is imported only when something is built. Adding an entry is adding a file with a public function in it.
"""

import ast
import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from common.config import ConfigError, suggest


@dataclass(frozen=True)
class Entry:
    """One public name: where it is defined and which arguments it takes.

    `parameters` maps each argument to the text of its default, or to None where it is required.
    """

    name: str
    module: str
    parameters: Mapping[str, str | None]
    summary: str


class Registry:
    """Entries of one kind, found in the modules of one folder.

    Args:
        kind: What an entry is, for messages: `model`, `loss`.
        package: Dotted name of the folder, or of one module. What starts with an underscore is machinery.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """All entries by name.

        Raises:
            ValueError: one name is defined twice.
        """
        specification = importlib.util.find_spec(self.package)
        assert specification is not None and specification.origin is not None, self.package
        origin = Path(specification.origin)
        modules = {self.package: origin}
        if specification.submodule_search_locations:
            modules = {f"{self.package}.{path.stem}": path for path in sorted(origin.parent.glob("[!_]*.py"))}
        found: dict[str, Entry] = {}
        for module, path in modules.items():
            for entry in entries_of(path, module):
                if entry.name in found:
                    raise ValueError(
                        f"{self.kind} '{entry.name}' is defined in {found[entry.name].module} and {entry.module}"
                    )
                found[entry.name] = entry
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.entries))

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def find(self, name: str) -> Entry:
        """Return the entry.

        Raises:
            ConfigError: there is none of that name; the message holds the nearest one.
        """
        if name not in self.entries:
            raise ConfigError(f"unknown {self.kind} '{name}', {suggest(name, self.entries)}")
        return self.entries[name]

    def check(self, name: str, arguments: Mapping[str, Any], given: tuple[str, ...] = ()) -> None:
        """Check a name and its arguments without importing anything.

        Args:
            name: Name of the entry.
            arguments: What the user wrote.
            given: Arguments that the program adds itself and a user may not set.

        Raises:
            ConfigError: unknown name, unknown argument, or a required argument is missing.
        """
        check_arguments(f"{self.kind} '{name}'", self.find(name).parameters, arguments, given)

    def get(self, name: str) -> Any:
        """Import and return the callable."""
        return getattr(importlib.import_module(self.find(name).module), name)

    def build(self, name: str, arguments: Mapping[str, Any] | None = None, **given: Any) -> Any:
        """Check, import and call: `given` are the arguments that only the program knows."""
        arguments = arguments or {}
        self.check(name, arguments, tuple(given))
        return self.get(name)(**arguments, **given)


def check_arguments(
    what: str, parameters: Mapping[str, str | None], arguments: Mapping[str, Any], given: tuple[str, ...] = ()
) -> None:
    """Compare arguments with a signature.

    Raises:
        ConfigError: an argument is unknown, set by the program, or missing.
    """
    free = [name for name in parameters if name not in given]
    for argument in arguments:
        if argument not in free:
            raise ConfigError(f"{what} has no argument '{argument}', {suggest(argument, free)}")
    missing = [name for name in free if parameters[name] is None and name not in arguments]
    if missing:
        raise ConfigError(f"{what} needs the argument(s) {', '.join(missing)}")


def entries_of(path: Path, module: str) -> Iterator[Entry]:
    """The public functions and classes of a Python file, read without running it.

    Args:
        path: A file of Python source.
        module: Name that the entries give as theirs.

    Raises:
        SyntaxError: the file is not Python.
    """
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            function: ast.AST | None = node
            if isinstance(node, ast.ClassDef):
                function = next(
                    (
                        item
                        for item in node.body
                        if isinstance(item, ast.FunctionDef) and item.name == "__init__"
                    ),
                    None,
                )
            parameters = _parameters(function.args) if isinstance(function, ast.FunctionDef) else {}
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            yield Entry(node.name, module, parameters, summary)


def _parameters(arguments: ast.arguments) -> dict[str, str | None]:
    positional = [
        argument.arg for argument in [*arguments.posonlyargs, *arguments.args] if argument.arg != "self"
    ]
    defaults = [ast.unparse(default) for default in arguments.defaults]
    result: dict[str, str | None] = dict(
        zip(positional, [*[None] * (len(positional) - len(defaults)), *defaults], strict=True)
    )
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        result[argument.arg] = None if default is None else ast.unparse(default)
    return result
