"""Tensors of a checkpoint as arrays."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.config import ConfigError

_TORCH = "torch==2.13.0"
_CONTAINERS = ("state_dict", "net")
"""Keys under which torchreid and AGW keep the state dict, beside scores and the optimizer."""
_PARALLEL = "module."
"""What `DataParallel` puts before every name."""


def read_state(path: Path) -> dict[str, np.ndarray]:
    """Read a checkpoint without running anything that it holds.

    Args:
        path: A file of `torch.save`, which needs PyTorch, or an `.npz` with the arrays by name.

    Returns:
        Name to array in PyTorch's layout; floats are float32.

    Raises:
        ConfigError: the file cannot be read, PyTorch is missing, or there is no state dict in it.
    """
    if not path.is_file():
        raise ConfigError(f"--input: there is no file {path}")
    return _read_npz(path) if path.suffix == ".npz" else _read_torch(path)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"--input: {path} is no .npz of plain arrays: {error}") from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            f"--input: PyTorch is needed to read {path}: pip install {_TORCH}. Or, where PyTorch is installed: "
            "numpy.savez('weights.npz', **{name: tensor.cpu().numpy() for name, tensor in state_dict.items()}), "
            "and give that file"
        ) from error
    try:
        with torch.serialization.safe_globals(_numbers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ConfigError(
            f"--input: {path} cannot be read as tensors and numbers, and nothing else is read: save the state dict "
            f"alone, torch.save(model.state_dict(), FILE), where you trust it. PyTorch says: {_first_line(error)}"
        ) from error
    content = next((content[key] for key in _CONTAINERS if _is_mapping_at(content, key)), content)
    if not isinstance(content, Mapping) or not all(isinstance(t, torch.Tensor) for t in content.values()):
        raise ConfigError(
            f"--input: {path} holds no state dict: expected tensors by name, by themselves or under one of "
            f"{', '.join(_CONTAINERS)}, received {_kind(content)}"
        )
    names = list(content)
    prefix = len(_PARALLEL) if names and all(name.startswith(_PARALLEL) for name in names) else 0
    return {name[prefix:]: _array(tensor) for name, tensor in content.items()}


def _array(tensor: Any) -> np.ndarray:
    plain = tensor.detach()
    array: np.ndarray = (plain.float() if plain.is_floating_point() else plain).numpy()
    return array


def _numbers() -> list[Any]:
    """What the pickled form of NumPy's numbers and arrays calls: checkpoints hold scores beside the weights."""
    import _codecs

    core = np._core.multiarray  # type: ignore[attr-defined]
    named = [
        (function, f"numpy.{folder}.multiarray.{function.__name__}")
        for function in (core._reconstruct, core.scalar)
        for folder in ("core", "_core")  # of NumPy 1 and 2
    ]
    types = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    return [*named, np.ndarray, np.dtype, *types, _codecs.encode]


def _is_mapping_at(content: Any, key: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(key), Mapping)


def _kind(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    return f"the keys {', '.join(map(str, list(content)[:10]))}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
