"""What an interrupted adaptation goes on from: one file, written after each round."""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from common.artifacts import whole_file
from common.config import ConfigError
from src.adaptation.pseudo_labels import PseudoLabels
from src.data.sample import Sample
from src.schema import Config
from src.services._adaptation.learner import Learner
from src.training.batches import OF_MODALITIES

_MAY_CHANGE = {"rounds", "resume_from", "target"}
"""Keys of the section that say how far to go and where things are, not what a round does."""


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


def save_round(
    path: Path,
    learner: Learner,
    done: Done,
    kept: tuple[Done, Sequence[np.ndarray]],
    samples: Sequence[Sample],
    settings: Mapping[str, Any],
) -> None:
    """Write weights, optimizer and counts under a temporary name, then rename.

    Args:
        path: An `.npz` file.
        learner: Network, its trained copy and the optimizer.
        done: How far it is.
        kept: The round before and its weights, which a guard goes back to.
        samples: Images of the target.
        settings: As `settings_of` gives them.
    """
    assert done.labels is not None and kept[0].rounds == done.rounds - 1
    facts = {
        "rounds": done.rounds,
        "history": done.history,
        "images": _digest(samples),
        "settings": settings,
    }
    arrays: dict[str, Any] = {
        f"{name}_{number:05d}": keras.ops.convert_to_numpy(variable)
        for name, variables in {**_variables(learner), "kept": kept[1]}.items()
        for number, variable in enumerate(variables)
    }
    arrays |= {"own": done.labels.own, "across": done.labels.across, "facts": np.array(json.dumps(facts))}
    if kept[0].labels is not None:
        arrays |= {"own_before": kept[0].labels.own, "across_before": kept[0].labels.across}
    with whole_file(path) as temporary:
        np.savez(temporary, **arrays)


def read_round(path: Path, samples: Sequence[Sample], settings: Mapping[str, Any]) -> tuple[Done, Done]:
    """Return how far a file is, and the round before, which a guard goes back to.

    Raises:
        ConfigError: it is missing or no such file, the target has other images now, or the settings are others.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            facts, labels = json.loads(str(file["facts"])), PseudoLabels(file["own"], file["across"])
            rounds, history, before = facts["rounds"], tuple(facts["history"]), facts["settings"]
            earlier = None
            if rounds > 1:
                earlier = PseudoLabels(file["own_before"], file["across_before"])
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ConfigError(
            f"adaptation.resume_from: {path} is not the adaptation/last_round.npz of an adaptation: {error}"
        ) from error
    if facts["images"] != _digest(samples):
        raise ConfigError(
            f"adaptation.resume_from: {path} is of {len(labels.own)} images, and the target has {len(samples)} or "
            "other ones: go on with the same target and dataset.seed"
        )
    now = json.loads(json.dumps(settings))
    others = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if others:
        told = "; ".join(f"{key}: {before.get(key)}, received {now.get(key)}" for key in others)
        raise ConfigError(
            f"adaptation.resume_from: {path} is of other settings, expected {told}: go on with the same ones, of which "
            "only adaptation.rounds may differ, or start anew"
        )
    kept = Done(rounds - 1, earlier, tuple(row for row in history if row["round"] < rounds))
    return Done(rounds, labels, history), kept


def restore_round(path: Path, learner: Learner) -> list[np.ndarray]:
    """Give a learner the weights and the state of the optimizer of a file, and return the kept weights.

    Raises:
        ConfigError: they are of another network or optimizer.
    """
    with np.load(path, allow_pickle=False) as file:
        for name, variables in _variables(learner).items():
            values = _numbered(file, name)
            if [v.shape for v in values] != [tuple(v.shape) for v in variables]:
                raise ConfigError(
                    f"adaptation.resume_from: the {name} of {path} does not fit: go on with the same model, optimizer "
                    "and precision"
                )
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        return _numbered(file, "kept")


def _numbered(file: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    return [file[key] for key in sorted(file) if key.startswith(f"{name}_")]


def settings_of(config: Config) -> dict[str, Any]:
    """What decides about a round: the section, the seed, pixels and augmentation, by key of the configuration."""
    assert config.adaptation is not None
    own = config.adaptation.model_dump(mode="json", exclude=_MAY_CHANGE)
    return {
        **{f"adaptation.{key}": value for key, value in own.items()},
        **config.model_dump(mode="json", include={"preprocessing", "data_augmentation", *OF_MODALITIES}),
        "general.global_seed": config.general.global_seed,
    }


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
