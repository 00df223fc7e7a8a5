"""One run: its output folder, its seed, its logger and its progress bars."""

import logging
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import ConfigError

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Where a run writes and how it is seeded.

    Attributes:
        folder: Output folder; it exists.
        seed: Seed of everything random.
    """

    folder: Path
    seed: int

    def make(self, *parts: str) -> Path:
        """Create a folder below the output folder and return it."""
        path = self.folder.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path


def require_free_space(folder: Path, needed: int, purpose: str) -> None:
    """Check that a file system has room before anything is written to it.

    Args:
        folder: Where the files will be; the folder itself need not exist yet.
        needed: Bytes.
        purpose: What needs them, for the message.

    Raises:
        ConfigError: there is less.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ConfigError(
            f"{purpose} need about {needed / 1e6:.0f} MB in {folder}, but only {free / 1e6:.0f} MB are free there: "
            "make room, or choose another folder (hydra.run.dir, dataset.cache)"
        )


def seed_everything(seed: int, deterministic_ops: bool) -> None:
    """Seed Python, NumPy and TensorFlow; optionally allow deterministic operations only.

    What an earlier run of the same process has left in Keras is dropped, so that the order of runs changes nothing.
    """
    import keras
    import tensorflow as tf

    keras.backend.clear_session()
    random.seed(seed)
    keras.utils.set_random_seed(seed)
    if deterministic_ops:
        tf.config.experimental.enable_op_determinism()


def usable_cores() -> int:
    """Number of cores that this process may use: containers and schedulers give fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def python_environment() -> dict[str, str]:
    """The environment of this process, in which Python finds this project from any working folder.

    What PYTHONPATH holds already stays behind it, for packages may come from there.
    """
    known = [
        str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path
    ]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[1]), *known])}


@contextmanager
def progress(description: str, total: int | None, unit: str = "") -> Iterator[Any]:
    """A progress bar with count, rate and remaining time.

    Yields:
        `advance(steps=1, text="")`, to be called as the work goes on; `text` is shown beside the bar.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, refresh_per_second=4) as bar:
        task = bar.add_task(description, total=total, text="")

        def advance(steps: int = 1, text: str = "") -> None:
            bar.update(task, advance=steps, text=text)

        yield advance


def load_tensorflow(before_devices: Callable[[], object] = lambda: None) -> None:
    """Import TensorFlow and find its devices without the dozen lines that it prints; failures are shown in full.

    Its C++ libraries write to the file descriptor of standard error before any log level applies.

    Args:
        before_devices: What must happen after the import and before the devices are fixed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile("w+") as captured:
        os.dup2(captured.fileno(), 2)
        try:
            import ai_edge_litert.interpreter  # noqa: F401
            import tensorflow as tf

            for logger in ("absl", "tensorflow", "tf2onnx", "faiss"):
                logging.getLogger(logger).setLevel(logging.ERROR)
            before_devices()
            devices = [device.name for device in tf.config.list_logical_devices()]
        except BaseException:
            captured.seek(0)
            os.write(terminal, captured.read().encode())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
    _LOGGER.info("TensorFlow %s on %s", tf.__version__, ", ".join(devices))
