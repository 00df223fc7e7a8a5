"""What a run gives to the processes that it starts."""

import subprocess
import sys

from common.run import python_environment


def test_another_python_finds_this_project_and_what_pythonpath_holds(tmp_path, monkeypatch):
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "only_here.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "packages")
    command = [sys.executable, "-c", "import common, only_here"]
    subprocess.run(command, cwd="/", env=python_environment(), check=True)
