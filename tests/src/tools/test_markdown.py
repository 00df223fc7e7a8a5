"""How numbers and tables are written."""

import numpy as np

from src.tools._markdown import interval, markdown, spread


def test_numbers_stand_on_the_right_and_a_bar_stays_in_its_cell():
    assert markdown(("arm", "mAP", "verdict"), [["a|b", 1, "no"]], text_columns=(0, 2)) == [
        "| arm | mAP | verdict |",
        "| --- | ---: | --- |",
        "| a\\|b | 1 | no |",
    ]


def test_a_spread_is_in_percent_and_a_value_alone_has_none():
    assert spread([0.1, 0.2]) == "15.0 ± 7.1"
    assert spread(np.array([0.1]), "+") == "+10.0"
    assert spread([0.1, np.nan]) == "-"


def test_an_interval_is_in_points():
    assert interval((-0.01, 0.02)) == "[-1.0, +2.0]" and interval(None) == ""
