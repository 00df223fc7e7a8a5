from dataclasses import dataclass

import numpy as np

from src.metrics._error_rates import supports, threshold_at


@dataclass(frozen=True)
class Verification:
    """How well a distance tells whether two images show the same person: accepted up to a threshold.

    Rates as in ISO/IEC 19795-1. The pairs of one person depend on one another, so rates are less certain than the
    number of pairs suggests; `bootstrap_interval` resamples people.

    Attributes:
        genuine: Distances of pairs of the same person, ascending, float (pairs,).
        impostor: Distances of pairs of different people, ascending, float (pairs,).
    """

    genuine: np.ndarray
    impostor: np.ndarray

    def __post_init__(self) -> None:
        for name in ("genuine", "impostor"):
            values = np.asarray(getattr(self, name))
            if values.ndim != 1 or not len(values) or values.dtype.kind != "f":
                raise ValueError(
                    f"{name} must be float distances (pairs,), got {values.dtype} {values.shape}"
                )
            if not np.isfinite(values).all():
                raise ValueError(f"{name} distances hold NaN or infinity")
            object.__setattr__(self, name, np.sort(values))

    def false_match_rate(self, threshold: float) -> float:
        """Share of impostor pairs that are accepted (FMR; also called false acceptance rate)."""
        return float(np.searchsorted(self.impostor, threshold, side="right") / len(self.impostor))

    def false_non_match_rate(self, threshold: float) -> float:
        """Share of genuine pairs that are not accepted (FNMR)."""
        return 1 - float(np.searchsorted(self.genuine, threshold, side="right") / len(self.genuine))

    def supports(self, fmr: float) -> bool:
        """Whether there are enough impostor pairs for a false match rate: ten expected errors."""
        return supports(fmr, len(self.impostor))

    def threshold_at(self, fmr: float) -> float:
        """Return the largest threshold with at most that false match rate.

        Raises:
            ValueError: fmr is not in 0..1, or there are too few impostor pairs to know.
        """
        return threshold_at(self.impostor, fmr, "impostor pairs")

    def tar(self, fmr: float) -> float:
        """Return the true acceptance rate (TAR, 1 - FNMR) at a false match rate; raises as `threshold_at`."""
        return 1 - self.false_non_match_rate(self.threshold_at(fmr))

    @property
    def equal_error_threshold(self) -> float:
        """The distance at which FMR and FNMR differ least."""
        distances = np.sort(np.concatenate([self.genuine, self.impostor]))
        low, high = 0, len(distances) - 1  # FMR - FNMR ascends with the threshold
        while low < high:
            middle = (low + high) // 2
            if self._excess(distances[middle]) >= 0:
                high = middle
            else:
                low = middle + 1
        nearby = distances[max(low - 1, 0) : low + 1]
        return float(min(nearby, key=lambda threshold: abs(self._excess(threshold))))

    @property
    def equal_error_rate(self) -> float:
        """Mean of FMR and FNMR where they differ least (EER)."""
        threshold = self.equal_error_threshold
        return (self.false_match_rate(threshold) + self.false_non_match_rate(threshold)) / 2

    def roc(self, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
        """Return FMR and TAR, float64 (points,) each, from the lowest FMR that is supported to 1.

        The false match rates are equally spaced on a logarithmic axis.

        Raises:
            ValueError: there are fewer than ten impostor pairs.
        """
        lowest = min(10 / len(self.impostor), 1.0)
        rates = np.geomspace(lowest, 1, points)
        return rates, np.array([self.tar(float(rate)) for rate in rates])

    def _excess(self, threshold: float) -> float:
        return self.false_match_rate(threshold) - self.false_non_match_rate(threshold)
