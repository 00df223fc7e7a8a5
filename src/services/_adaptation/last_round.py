"""What an interrupted adaptation goes on from: one file, written after each round."""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from common.artifacts import whole_file
from common.config import ConfigError
from src.adaptation.pseudo_labels import PseudoLabels
from src.data.sample import Sample
from src.services._adaptation.learner import Learner


@dataclass(frozen=True)
class Done:
    """How far an adaptation has come.

    Attributes:
        rounds: Finished ones.
        labels: Of the images in the last of them; None before the first.
        history: What was counted, a row for each modality and round.
    """

    rounds: int = 0
    labels: PseudoLabels | None = None
    history: tuple[dict[str, Any], ...] = field(default=())


def save_round(path: Path, learner: Learner, done: Done, samples: Sequence[Sample]) -> None:
    """Write weights, optimizer and counts under a temporary name, then rename.

    Args:
        path: An `.npz` file.
        learner: Network, its trained copy and the optimizer.
        done: How far it is.
        samples: Images of the target.
    """
    assert done.labels is not None
    facts = {"rounds": done.rounds, "history": done.history, "images": _digest(samples)}
    arrays: dict[str, Any] = {
        f"{name}_{number:05d}": keras.ops.convert_to_numpy(variable)
        for name, variables in _variables(learner).items()
        for number, variable in enumerate(variables)
    }
    arrays |= {"own": done.labels.own, "across": done.labels.across, "facts": np.array(json.dumps(facts))}
    with whole_file(path) as temporary:
        np.savez(temporary, **arrays)


def read_round(path: Path, samples: Sequence[Sample]) -> Done:
    """Return how far a file is.

    Raises:
        ConfigError: it is missing or no such file, or the target has other images now.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            facts, labels = json.loads(str(file["facts"])), PseudoLabels(file["own"], file["across"])
            done = Done(facts["rounds"], labels, tuple(facts["history"]))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ConfigError(
            f"adaptation.resume_from: {path} is not the adaptation/last_round.npz of an adaptation: {error}"
        ) from error
    if facts["images"] != _digest(samples):
        raise ConfigError(
            f"adaptation.resume_from: {path} is of {len(labels.own)} images, and the target has {len(samples)} or "
            "other ones: go on with the same target and dataset.seed"
        )
    return done


def restore_round(path: Path, learner: Learner) -> None:
    """Give a learner the weights and the state of the optimizer of a file.

    Raises:
        ConfigError: they are of another network or optimizer.
    """
    with np.load(path, allow_pickle=False) as file:
        for name, variables in _variables(learner).items():
            values = [file[key] for key in sorted(file.files) if key.startswith(f"{name}_")]
            if [v.shape for v in values] != [tuple(v.shape) for v in variables]:
                raise ConfigError(
                    f"adaptation.resume_from: the {name} of {path} does not fit: go on with the same model, optimizer "
                    "and precision"
                )
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)


def _variables(learner: Learner) -> dict[str, Sequence[Any]]:
    return {
        "network": learner.joined.weights,
        "trained": learner.trained.weights,
        "optimizer": learner.optimizer.variables,
    }


def _digest(samples: Sequence[Sample]) -> str:
    """Of the names of the images in their order, which their folder may change without."""
    names = "\n".join(f"{sample.modality}/{sample.path.parent.name}/{sample.path.name}" for sample in samples)
    return hashlib.sha256(names.encode()).hexdigest()[:16]
