"""The result of each query, of the model that a run has made."""

import csv
from collections.abc import Mapping
from pathlib import Path

KERAS = "_keras_queries.csv"
"""How the file of a float model ends."""
_MADE = ("adapted_model", "distillation_best_model", "best_model")


def queries_of(files: Mapping[str, Path], ending: str = KERAS) -> list[dict[str, str]] | None:
    """The rows of a model's file, a query each; beside the model that it was made from, a result is told by its name.

    Args:
        files: What an evaluation has written, by name.
        ending: Of the file, which says where it was measured.

    Returns:
        None where there is no such file, or where it cannot be told which one is meant.
    """
    found = {name.removesuffix(ending): path for name, path in files.items() if name.endswith(ending)}
    names = [name for name in _MADE if name in found] or list(found)
    if not found or (names[0] not in _MADE and len(names) > 1):
        return None
    with found[names[0]].open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
