"""Names to callables, read without importing."""

import sys

import pytest

from common.config import ConfigError
from common.registry import Registry


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "zoo_of_tests"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "first.py").write_text(
        'import does_not_exist_anywhere\ndef small(size, width=0.25, *, deep=False):\n    """A small one."""\n'
    )
    (folder / "second.py").write_text(
        "class Big:\n    def __init__(self, depth, name='big'):\n        self.depth = depth\n"
        "def _hidden(): ...\nCONSTANT = 1\n"
    )
    (folder / "_machinery.py").write_text("def helper(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.startswith("zoo_of_tests")]:
        del sys.modules[name]


def test_public_functions_and_classes_are_found_without_importing_them(package):
    registry = Registry("animal", "zoo_of_tests")
    assert list(registry) == ["Big", "small"]
    assert registry.find("small").parameters == {"size": None, "width": "0.25", "deep": "False"}
    assert registry.find("small").summary == "A small one."
    assert "zoo_of_tests.first" not in sys.modules


def test_build_imports_and_calls(package):
    assert Registry("animal", "zoo_of_tests").build("Big", {"name": "x"}, depth=3).depth == 3


@pytest.mark.parametrize(
    ("name", "arguments", "given", "message"),
    [
        ("smal", {}, (), "unknown animal 'smal', did you mean 'small'?"),
        (
            "small",
            {"size": 1, "widht": 2},
            (),
            "animal 'small' has no argument 'widht', did you mean 'width'?",
        ),
        ("small", {}, (), "animal 'small' needs the argument\\(s\\) size"),
        ("small", {"size": 1}, ("size",), "animal 'small' has no argument 'size'"),
    ],
)
def test_mistakes_are_named(package, name, arguments, given, message):
    with pytest.raises(ConfigError, match=message):
        Registry("animal", "zoo_of_tests").check(name, arguments, given)


def test_a_name_defined_twice_is_an_error(package):
    (package / "third.py").write_text("def small(): ...\n")
    with pytest.raises(ValueError, match="'small' is defined in zoo_of_tests.first and zoo_of_tests.third"):
        list(Registry("animal", "zoo_of_tests"))
