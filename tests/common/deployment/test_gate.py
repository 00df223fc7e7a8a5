import pytest

from common.deployment import gate
from common.deployment.gate import Measured, Requirement


def _requirement(name="speed", rule="at most", limit=5.0):
    return Requirement(name, f"{name}, ms", rule, limit, "no device")


@pytest.mark.parametrize(
    ("rule", "limit", "value", "verdict"),
    [
        ("at most", 5.0, 5.0, "pass"),
        ("at most", 5.0, 5.01, "fail"),
        ("at least", 0.68, 0.68, "pass"),
        ("at least", 0.68, 0.6799, "fail"),
        ("below", 0.05, 0.05, "fail"),
        ("below", 0.05, 0.0499, "pass"),
        ("is", True, True, "pass"),
        ("is", True, False, "fail"),
    ],
)
def test_a_value_is_held_against_its_limit(rule, limit, value, verdict):
    [finding] = gate.judge([_requirement(rule=rule, limit=limit)], {"speed": Measured(value, "bench")})
    assert (finding.verdict, finding.value, finding.reason) == (verdict, value, "bench")


def test_what_was_not_measured_neither_passes_nor_fails():
    findings = gate.judge([_requirement()], {"other": Measured(1.0, "bench")})
    assert [(f.verdict, f.value, f.reason) for f in findings] == [("not measurable here", None, "no device")]
    assert gate.failure(findings) is None
    assert gate.metrics(findings) == {"gate/passed": 0, "gate/failed": 0, "gate/not_measurable": 1}


def test_the_checklist_as_table_data_metrics_and_sentence():
    asked = [_requirement("speed"), _requirement("size"), _requirement("seen", "is", True)]
    measured = {"speed": Measured(7.25, "bench"), "seen": Measured(True, "field test")}
    findings = gate.judge(asked, measured)
    assert gate.table(findings).rows == (
        ("speed, ms", "at most 5", "7.25", "fail", "bench"),
        ("size, ms", "at most 5", "-", "not measurable here", "no device"),
        ("seen, ms", "is yes", "yes", "pass", "field test"),
    )
    assert gate.plain(findings)["size"] == {
        "meaning": "size, ms", "required": {"rule": "at most", "limit": 5.0}, "measured": None,
        "verdict": "not measurable here", "reason": "no device",
    }  # fmt: skip
    assert gate.metrics(findings) == {
        "gate/passed": 1, "gate/failed": 1, "gate/not_measurable": 1, "gate/speed/passed": 0, "gate/speed/value": 7.25,
        "gate/seen/passed": 1, "gate/seen/value": 1,
    }  # fmt: skip
    assert gate.failure(findings) == "1 of 3 requirements failed: speed at most 5, measured 7.25"


def test_nan_is_no_measurement():
    with pytest.raises(ValueError, match=r"speed: the measured value is NaN \(bench\)"):
        gate.judge([_requirement()], {"speed": Measured(float("nan"), "bench")})
