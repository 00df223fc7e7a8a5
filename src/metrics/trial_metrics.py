"""Scores of a protocol that is repeated: on drawn galleries, or on several splits with a model each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.metrics._score import RetrievalMetrics


@dataclass(frozen=True)
class TrialMetrics:
    """Mean over trials of the scores of `RetrievalMetrics`, which it can stand in for where scores are shown.

    Attributes:
        trials: Scores of each trial, at least one.
        sentence: The protocol in one sentence.
    """

    trials: tuple[RetrievalMetrics, ...]
    sentence: str

    @property
    def cmc(self) -> np.ndarray:
        """Mean CMC curve, float64 (max_rank,)."""
        mean: np.ndarray = np.mean([trial.cmc for trial in self.trials], axis=0)
        return mean

    @property
    def mAP(self) -> float:  # noqa: N802
        """Mean over the trials of mAP."""
        return float(np.mean([trial.mAP for trial in self.trials]))

    @property
    def mINP(self) -> float:  # noqa: N802
        """Mean over the trials of mINP."""
        return float(np.mean([trial.mINP for trial in self.trials]))

    @property
    def rank1(self) -> float:
        """Share of queries whose first answer is right."""
        return self.rank(1)

    def rank(self, r: int) -> float:
        """Share of queries with a right answer among the first r, 1 <= r <= max_rank."""
        return float(np.mean([trial.rank(r) for trial in self.trials]))

    @property
    def spread(self) -> dict[str, float]:
        """Standard deviation over the trials (n - 1; 0 for one trial) of rank1, mAP and mINP."""
        values = {name: [getattr(trial, name) for trial in self.trials] for name in ("rank1", "mAP", "mINP")}
        several = len(self.trials) > 1
        return {name: float(np.std(v, ddof=1)) if several else 0.0 for name, v in values.items()}

    @classmethod
    def of(cls, trials: Sequence[RetrievalMetrics], repeated: str) -> "TrialMetrics":
        """Gather trials; `repeated` says what was repeated: "10 galleries, drawn with seeds 0 to 9".

        RegDB has ten splits with a model each: score each with `regdb_metrics` and gather the results here.

        Raises:
            ValueError: there is no trial, or their protocols, distances or max_rank differ.
        """
        kinds = {(trial.protocol, trial.distance, len(trial.cmc)) for trial in trials}
        if len(kinds) != 1:
            raise ValueError(f"trials must be of one protocol, distance and max_rank, got {sorted(kinds)}")
        return cls(
            tuple(trials), f"Mean of {len(trials)} trials ({repeated}); in the first, {trials[0].sentence}"
        )
