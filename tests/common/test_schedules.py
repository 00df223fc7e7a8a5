"""Learning-rate schedules against hand-computed values."""

import pytest

from src.registries import SCHEDULES


@pytest.mark.parametrize(
    ("name", "arguments", "values"),
    [
        (
            "LRCosineDecay",
            {"initial_lr": 1.0, "hold_steps": 2, "decay_steps": 4, "end_lr": 0.0},
            [1.0, 1.0, 1.0, 0.8535534, 0.5, 0.1464466, 0.0, 0.0],
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
    ],
)
def test_a_schedule_gives_the_rate_of_each_epoch(name, arguments, values):
    schedule = SCHEDULES.build(name, arguments)
    assert [schedule(epoch) for epoch in range(len(values))] == pytest.approx(values)
