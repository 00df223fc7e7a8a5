"""Every command that the README shows is run, at reduced size; the two `make` targets run in CI and in the demo."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [shlex.split(line) for block in BLOCKS for line in block.replace("\\\n", " ").strip().splitlines()]
SMALL = [
    "dataset.synthetic_preset=tiny", "model.input_shape=[64,32,3]", "training.epochs=1", "training.batch_size=16",
    "quantization.qat.max_steps=2", "quantization.max_images=16",
    "quantization.gate={float_gap: 0.5, dead_dimensions: 1}",  # two steps round badly
    "benchmarking.parity_images=2", "benchmarking.latency_runs=3",
]  # fmt: skip


@pytest.fixture
def workplace(tmp_path):
    """A working directory with some images of the user's own, below the names that the README uses."""
    random = np.random.default_rng(0)
    for part, identities in (
        ("reid_train", range(6)),
        ("reid_test/query", range(6, 8)),
        ("reid_test/gallery", range(6, 8)),
    ):
        folder = tmp_path / "my_images" / part
        folder.mkdir(parents=True)
        for identity in identities:
            for number in range(4):
                image = random.integers(0, 255, (64, 32, 3), np.uint8)
                cv2.imwrite(str(folder / f"person{identity}_c{number + 1}_{part[-5:]}.jpg"), image)
    return tmp_path


def test_the_first_commands_are_the_two_make_targets():
    assert COMMANDS[:2] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c[:2] == ["python", "stm32ai_main.py"]], ids=" ".join
)
def test_a_command_of_the_program_runs(command, program, workplace):
    result = program(*command[2:], *SMALL, cwd=workplace)
    assert result.returncode == 0, result.stderr[-4000:]
    assert list((workplace / "experiments_outputs").glob("*/benchmarking/*.dlc"))
    assert (workplace / "experiments_outputs/mlruns/mlflow.db").exists()


def test_the_mlflow_command_is_one_that_mlflow_knows(tmp_path):
    [command] = [c for c in COMMANDS if c[0] == "mlflow"]
    mlflow = Path(sys.executable).with_name("mlflow")
    options = subprocess.run([str(mlflow), "ui", "--help"], capture_output=True, text=True, check=True).stdout
    assert command[1] == "ui" and command[2] in options


def test_no_other_command_is_left_untested():
    assert all(c[0] == "make" or c[:2] == ["python", "stm32ai_main.py"] or c[0] == "mlflow" for c in COMMANDS)
    assert shutil.which("make")
