"""What several test folders need: a tiny synthetic data set, and the program as a user starts it."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_runtest_setup(item) -> None:
    if item.get_closest_marker("qnn") and importlib.util.find_spec("onnxruntime_qnn") is None:
        pytest.skip("onnxruntime-qnn is for Linux on x86-64")


@pytest.fixture(scope="session")
def tiny_in(tmp_path_factory) -> Callable[[str], Path]:
    """Root of the synthetic preset `tiny` in a layout, rendered once: who changes it takes a copy."""
    from datasets.synthetic import generate

    folder = tmp_path_factory.mktemp("synthetic_tiny")
    return cache(lambda layout: generate("tiny", folder / layout, layout, progress=False))


@pytest.fixture(scope="session")
def tiny(tiny_in) -> Path:
    """Root of the synthetic preset `tiny` in the Market-1501 layout."""
    return tiny_in("market1501")


@pytest.fixture(scope="session")
def program() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `stm32ai_main.py` with arguments and return what a user sees."""

    def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "stm32ai_main.py"), *arguments],
            cwd=cwd,
            env={**os.environ, "COLUMNS": "120", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run
