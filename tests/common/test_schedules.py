"""Learning-rate schedules: values by hand and from Keras, seams, limits, warm-up, and arguments that make no sense."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.schedules._phases import warmed_up
from src.registries import SCHEDULES

HALF = math.sqrt(0.5)


def _rates(name: str, arguments: dict, epochs: int) -> list[float]:
    schedule = SCHEDULES.build(name, arguments)
    return [schedule(epoch) for epoch in range(epochs)]


BY_HAND = [
    (
        "LRLinearDecay",
        {"initial_lr": 1.0, "hold_steps": 2, "decay_steps": 4, "end_lr": 0.2},
        [1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2],
    ),
    (
        "LRPolynomialDecay",
        {"initial_lr": 1.0, "hold_steps": 1, "decay_steps": 4, "end_lr": 0.0},
        [1.0, 1.0, math.sqrt(0.75), HALF, 0.5, 0.0, 0.0],
    ),
    (
        "LRPolynomialDecay",
        {"initial_lr": 1.0, "hold_steps": 0, "decay_steps": 4, "end_lr": 0.2, "power": 2},
        [1.0, 0.65, 0.4, 0.25, 0.2, 0.2],
    ),
    (
        "LRPolynomialDecayRestarts",
        {"initial_lr": 1.0, "hold_steps": 2, "decay_steps": 2, "end_lr": 0.5, "power": 1.0},
        [1.0, 1.0, 1.0, 0.75, 1.0, 0.75, 1.0],
    ),
    (
        "LRPolynomialDecayRestarts",
        {"initial_lr": 1.0, "hold_steps": 0, "decay_steps": 4, "end_lr": 0.0},
        [1.0, 0.75**0.7, 0.5**0.7, 0.25**0.7, 1.0],
    ),
    (
        "LRExponentialDecay",
        {"initial_lr": 1.0, "hold_steps": 1, "decay_rate": math.log(2), "min_lr": 0.2},
        [1.0, 1.0, 0.5, 0.25, 0.2, 0.2],
    ),
    (
        "LRStepDecay",
        {"initial_lr": 1.0, "step_size": 2, "decay_rate": 0.5, "min_lr": 0.2},
        [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.2],
    ),
    (
        "LRCosineDecay",
        {"initial_lr": 1.0, "hold_steps": 2, "decay_steps": 4, "end_lr": 0.0},
        [1.0, 1.0, 1.0, (1 + HALF) / 2, 0.5, (1 - HALF) / 2, 0.0, 0.0],
    ),
    (
        "LRCosineDecay",
        {"initial_learning_rate": 2.0, "decay_steps": 2, "alpha": 0.5},
        [2.0, 1.5, 1.0, 1.0],
    ),
    (
        "LRWarmupCosineDecay",
        {
            "initial_lr": 0.2,
            "warmup_steps": 2,
            "max_lr": 1.0,
            "hold_steps": 1,
            "decay_steps": 2,
            "end_lr": 0.1,
        },
        [0.2, 0.6, 1.0, 1.0, 0.55, 0.1, 0.1],
    ),
    (
        "LRCosineDecayRestarts",
        {"initial_lr": 1.0, "first_decay_steps": 2, "end_lr": 0.2, "m_mul": 0.5},
        [1.0, 0.6, 0.5, 0.2 + 0.3 * (1 + HALF) / 2, 0.35, 0.2 + 0.3 * (1 - HALF) / 2, 0.25],
    ),
    (
        "LRCosineDecayRestarts",
        {"initial_lr": 1.0, "first_decay_steps": 2, "end_lr": 0.8, "t_mul": 1, "m_mul": 0.5},
        [1.0, 0.9, 0.8, 0.8, 0.8],
    ),
    (
        "LRPiecewiseConstantDecay",
        {"boundaries": [1, 3], "values": [1.0, 0.1, 0.5]},
        [1.0, 0.1, 0.1, 0.5, 0.5],
    ),
    ("LRPiecewiseConstantDecay", {"boundaries": [], "values": [0.1]}, [0.1, 0.1]),
]


@pytest.mark.parametrize(("name", "arguments", "values"), BY_HAND)
def test_a_schedule_gives_the_rate_of_each_epoch(name, arguments, values):
    assert _rates(name, arguments, len(values)) == pytest.approx(values, rel=1e-12, abs=1e-15)


def test_every_schedule_is_computed_by_hand():
    assert {name for name, *_ in BY_HAND} == set(SCHEDULES)


@pytest.mark.parametrize(
    ("name", "arguments", "values"),
    [
        (
            "LRCosineDecay",
            {"initial_learning_rate": 0.01, "decay_steps": 170, "alpha": 0.001},
            {
                0: 0.01,
                1: 0.009999147,
                60: 0.007231462,
                85: 0.005005,
                169: 1.085298e-05,
                170: 1e-05,
                399: 1e-05,
            },
        ),
        (
            "LRCosineDecayRestarts",
            {"initial_lr": 0.01, "first_decay_steps": 5, "end_lr": 0.001},
            {
                0: 0.01,
                3: 0.004109423,
                4: 0.001859423,
                5: 0.01,
                10: 0.0055,
                14: 0.001220246,
                15: 0.01,
                20: 0.008681981,
            },
        ),
        (
            "LRPolynomialDecay",
            {"initial_lr": 0.01, "hold_steps": 0, "decay_steps": 20, "end_lr": 0.001},
            {0: 0.01, 7: 0.008256031, 15: 0.0055, 19: 0.003012462, 20: 0.001, 30: 0.001},
        ),
    ],
)
def test_schedules_that_keras_has_too_agree_with_it(name, arguments, values):
    """The values are those of CosineDecay, CosineDecayRestarts and PolynomialDecay of Keras 3.15, float32."""
    schedule = SCHEDULES.build(name, arguments)
    assert [schedule(epoch) for epoch in values] == pytest.approx(list(values.values()), rel=1e-5)


HIGH = st.floats(1e-4, 1.0)
LOW = st.floats(0.0, 5e-5)
STEPS = st.integers(1, 30)
HOLD = st.integers(0, 10)
PHASES = {"initial_lr": HIGH, "hold_steps": HOLD, "decay_steps": STEPS, "end_lr": LOW}
FALLING = {
    "LRLinearDecay": PHASES,
    "LRCosineDecay": PHASES,
    "LRPolynomialDecay": {**PHASES, "power": st.floats(0.1, 5)},
    "LRExponentialDecay": {
        "initial_lr": HIGH,
        "hold_steps": HOLD,
        "decay_rate": st.floats(0.01, 2),
        "min_lr": LOW,
    },
    "LRStepDecay": {"initial_lr": HIGH, "step_size": STEPS, "decay_rate": st.floats(0.01, 1), "min_lr": LOW},
}
RESTARTING = {
    "LRPolynomialDecayRestarts": {**PHASES, "power": st.floats(0.1, 5)},
    "LRCosineDecayRestarts": {
        "initial_lr": HIGH,
        "first_decay_steps": STEPS,
        "end_lr": LOW,
        "t_mul": st.integers(1, 3),
        "m_mul": st.floats(0.01, 1),
    },
}


def _arguments_of(table: dict) -> st.SearchStrategy[tuple[str, dict]]:
    return st.sampled_from(sorted(table)).flatmap(
        lambda name: st.tuples(st.just(name), st.fixed_dictionaries(table[name]))
    )


@given(_arguments_of(FALLING | RESTARTING))
def test_a_rate_stays_between_the_first_and_the_last(case):
    name, arguments = case
    low = arguments.get("end_lr", arguments.get("min_lr"))
    for rate in _rates(name, arguments, 80):
        assert low * (1 - 1e-12) <= rate <= arguments["initial_lr"] * (1 + 1e-12)


@given(_arguments_of(FALLING))
def test_a_schedule_without_restarts_never_rises(case):
    rates = _rates(*case, 80)
    assert all(second <= first * (1 + 1e-12) for first, second in zip(rates, rates[1:], strict=False))


@given(
    st.sampled_from(["LRLinearDecay", "LRCosineDecay", "LRPolynomialDecay"]), st.fixed_dictionaries(PHASES)
)
def test_the_phases_meet_at_their_seams(name, arguments):
    schedule = SCHEDULES.build(name, arguments)
    start = arguments["hold_steps"]
    end = start + arguments["decay_steps"]
    assert [schedule(epoch) for epoch in range(start + 1)] == [arguments["initial_lr"]] * (start + 1)
    assert schedule(start + 1) < arguments["initial_lr"]
    assert schedule(end - 1) > arguments["end_lr"]
    assert [schedule(end), schedule(end + 1), schedule(10_000)] == [arguments["end_lr"]] * 3


@given(_arguments_of(RESTARTING))
def test_a_restart_is_at_the_initial_rate(case):
    name, arguments = case
    arguments |= {"m_mul": 1.0} if name == "LRCosineDecayRestarts" else {}
    first = arguments.get("hold_steps", 0) + arguments.get("decay_steps", arguments.get("first_decay_steps"))
    assert _rates(name, arguments, first + 1)[first] == arguments["initial_lr"]


def test_warm_up_is_a_line_to_the_first_rate_and_moves_the_schedule():
    plain = {"boundaries": [2], "values": [1.0, 0.1]}
    rates = _rates("LRPiecewiseConstantDecay", {**plain, "warmup_epochs": 4, "warmup_lr": 0.2}, 8)
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.1, 0.1])


def test_warm_up_starts_at_a_tenth_where_its_rate_is_not_set():
    rates = _rates(
        "LRStepDecay", {"initial_lr": 0.5, "step_size": 9, "decay_rate": 0.5, "warmup_epochs": 2}, 4
    )
    assert rates == pytest.approx([0.05, 0.275, 0.5, 0.5])


@pytest.mark.parametrize(
    ("name", "arguments", "values"), [case for case in BY_HAND if case[0] != "LRWarmupCosineDecay"]
)
def test_every_schedule_can_be_warmed_up(name, arguments, values):
    rates = _rates(name, {**arguments, "warmup_epochs": 3, "warmup_lr": 0.0}, len(values) + 3)
    first = values[0]
    assert rates == pytest.approx([0.0, first / 3, 2 * first / 3, *values], rel=1e-12, abs=1e-15)


def test_warmup_cosine_is_cosine_with_a_warm_up():
    phases = {"hold_steps": 2, "decay_steps": 5, "end_lr": 0.01}
    own = {**phases, "initial_lr": 0.1, "warmup_steps": 3, "max_lr": 0.5}
    plain = {**phases, "initial_lr": 0.5, "warmup_epochs": 3, "warmup_lr": 0.1}
    assert _rates("LRWarmupCosineDecay", own, 15) == _rates("LRCosineDecay", plain, 15)
    assert _rates("LRWarmupCosineDecay", {**own, "warmup_steps": 0}, 2) == [0.5, 0.5]


def test_without_epochs_to_warm_up_in_a_schedule_is_as_it_is():
    schedule = float
    assert warmed_up(schedule, 0, None) is schedule


LINEAR = {"initial_lr": 0.1, "hold_steps": 1, "decay_steps": 2, "end_lr": 0.01}
STEP = {"initial_lr": 0.1, "step_size": 2, "decay_rate": 0.5}
RESTART = {"initial_lr": 0.1, "first_decay_steps": 2, "end_lr": 0.01}
WARMUP = {**LINEAR, "initial_lr": 0.01, "warmup_steps": 2, "max_lr": 0.1}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("LRLinearDecay", {**LINEAR, "initial_lr": 0}, "initial_lr must be a number > 0, received 0"),
        ("LRLinearDecay", {**LINEAR, "initial_lr": "1e-3"}, "initial_lr must be a number > 0, received '1e-3'"),
        ("LRLinearDecay", {**LINEAR, "initial_lr": math.nan}, "initial_lr must be a number > 0, received nan"),
        ("LRLinearDecay", {**LINEAR, "initial_lr": True}, "initial_lr must be a number > 0, received True"),
        ("LRLinearDecay", {**LINEAR, "hold_steps": -1}, "hold_steps must be an integer >= 0, received -1"),
        ("LRCosineDecay", {**LINEAR, "decay_steps": 0}, "decay_steps must be an integer >= 1, received 0"),
        ("LRCosineDecay", {**LINEAR, "decay_steps": 2.5}, "decay_steps must be an integer >= 1, received 2.5"),
        ("LRLinearDecay", {**LINEAR, "end_lr": -1}, "end_lr must be a number >= 0, received -1"),
        ("LRLinearDecay", {**LINEAR, "end_lr": 0.2}, "end_lr must be at most initial_lr, 0.1, received 0.2"),
        ("LRPolynomialDecay", {**LINEAR, "power": 0}, "power must be a number > 0, received 0"),
        ("LRPolynomialDecayRestarts", {**LINEAR, "hold_steps": -1}, "hold_steps must be an integer >= 0"),
        ("LRPolynomialDecayRestarts", {**LINEAR, "power": -1}, "power must be a number > 0, received -1"),
        ("LRExponentialDecay", {"initial_lr": 1, "hold_steps": 0, "decay_rate": 0}, "decay_rate must be a number > 0"),
        (
            "LRExponentialDecay",
            {"initial_lr": 0.1, "hold_steps": 0, "decay_rate": 1, "min_lr": 1},
            "min_lr must be at most initial_lr, 0.1, received 1",
        ),
        ("LRStepDecay", {**STEP, "decay_rate": 1.5}, "decay_rate must be a number in (0, 1], received 1.5"),
        ("LRStepDecay", {**STEP, "step_size": 0}, "step_size must be an integer >= 1, received 0"),
        ("LRStepDecay", {**STEP, "min_lr": 0.2}, "min_lr must be at most initial_lr, 0.1, received 0.2"),
        ("LRCosineDecayRestarts", {**RESTART, "t_mul": 0}, "t_mul must be an integer >= 1, received 0"),
        ("LRCosineDecayRestarts", {**RESTART, "m_mul": 1.1}, "m_mul must be a number in (0, 1], received 1.1"),
        ("LRCosineDecayRestarts", {**RESTART, "end_lr": 1}, "end_lr must be at most initial_lr, 0.1, received 1"),
        ("LRWarmupCosineDecay", {**WARMUP, "warmup_steps": -1}, "warmup_steps must be an integer >= 0"),
        ("LRWarmupCosineDecay", {**WARMUP, "max_lr": 0.001}, "initial_lr must be at most max_lr, 0.001, received 0.01"),
        (
            "LRPiecewiseConstantDecay",
            {"boundaries": [1], "values": [1.0]},
            "values must be one more than boundaries, received 1 values and 1 boundaries",
        ),
        ("LRPiecewiseConstantDecay", {"boundaries": [2, 2], "values": [1, 1, 1]}, "boundaries must increase"),
        ("LRPiecewiseConstantDecay", {"boundaries": [0], "values": [1, 1]}, "boundaries[0] must be an integer >= 1"),
        ("LRPiecewiseConstantDecay", {"boundaries": [1], "values": [1, -1]}, "values[1] must be a number > 0"),
        ("LRPiecewiseConstantDecay", {"boundaries": 1, "values": [1, 1]}, "boundaries must be a list, received 1"),
        ("LRLinearDecay", {**LINEAR, "warmup_epochs": 1.5}, "warmup_epochs must be an integer >= 0, received 1.5"),
        (
            "LRLinearDecay",
            {**LINEAR, "warmup_lr": 0.01},
            "warmup_lr is 0.01, but there is no warm-up: set warmup_epochs",
        ),
        (
            "LRLinearDecay",
            {**LINEAR, "warmup_epochs": 1, "warmup_lr": 1},
            "warmup_lr must be at most the rate that it leads to, 0.1, received 1",
        ),
        ("LRLinearDecay", {**LINEAR, "warmup_epochs": 1, "warmup_lr": -1}, "warmup_lr must be a number >= 0"),
        ("LRCosineDecay", {"decay_steps": 3, "initial_lr": 1}, "needs the argument(s) hold_steps, end_lr"),
        ("LRCosineDecay", {"decay_steps": 3, "alpha": 0.1}, "initial_learning_rate must be a number > 0"),
        (
            "LRCosineDecay",
            {"decay_steps": 3, "initial_learning_rate": 1, "alpha": 2},
            "alpha must be a number in [0, 1], received 2",
        ),
        (
            "LRCosineDecay",
            {"decay_steps": 3, "initial_learning_rate": 1, "hold_steps": 2},
            "received a mixture: hold_steps, initial_learning_rate",
        ),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SCHEDULES.build(name, arguments)
