from dataclasses import dataclass

from src.metrics.verification import Verification

_RATES = (1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold chosen on validation data, and what it does on test data.

    Attributes:
        threshold: Distance up to which two images are taken for the same person.
        rule: How it was chosen, for the report.
        false_match_rate: On test data.
        false_non_match_rate: On test data.
    """

    threshold: float
    rule: str
    false_match_rate: float
    false_non_match_rate: float

    @classmethod
    def chosen(
        cls, validation: Verification, test: Verification, fmr: float | None = None
    ) -> "OperatingPoint":
        """Choose the threshold of a false match rate on validation data, and measure it on test data.

        Args:
            validation: Pairs of identities that are not in the test data.
            test: Pairs of the test data.
            fmr: The rate; None takes the lowest of 1e-4, 1e-3 and 1e-2 that the validation pairs support, else the
                equal error rate.

        Raises:
            ValueError: the validation pairs do not support the rate that was asked for.
        """
        if fmr is None:
            fmr = next((rate for rate in _RATES if validation.supports(rate)), None)
        if fmr is None:
            threshold, rule = validation.equal_error_threshold, "equal error rate"
        else:
            threshold, rule = validation.threshold_at(fmr), f"false match rate {fmr:g}"
        return cls(
            threshold,
            f"{rule} on {len(validation.impostor):,} impostor pairs of the validation data",
            test.false_match_rate(threshold),
            test.false_non_match_rate(threshold),
        )
