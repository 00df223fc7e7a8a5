"""Python's spelling of indices, read without `eval`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.indices import parse_indices


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("(0:-1)", [slice(0, -1)]),
        ("(10:120)", [slice(10, 120)]),
        ("(150:)", [slice(150, None)]),
        ("(8, 110:121, -1)", [8, slice(110, 121), -1]),
        (" ( 8 ,110 : 121,-1, ) ", [8, slice(110, 121), -1]),
        ("(0, -1)", [0, -1]),
        ("(::2)", [slice(None, None, 2)]),
        ("(2)", [2]),
        ("2", [2]),
        (-1, [-1]),
        ((0, "3:5"), [0, slice(3, 5)]),
        (None, []),
        ("None", []),
    ],
)
def test_indices_are_read(text, indices):
    assert parse_indices(text) == indices


@pytest.mark.parametrize(
    "text",
    ["", "()", "(,)", "0:-1", "(1 2)", "(1:2:3:4)", "(::0)", "(a)", "(1", "[1]", "(1.5)", "(1,,2)", True],
)
def test_anything_else_is_refused_with_what_is_accepted(text):
    with pytest.raises(ValueError, match="expected an index such as 2 .* received") as error:
        parse_indices(text)
    assert repr(text) in str(error.value)


_BOUND = st.none() | st.integers(-200, 200)
_INDEX = st.integers(-200, 200) | st.builds(slice, _BOUND, _BOUND)


@given(st.lists(_INDEX, min_size=1, max_size=5))
def test_what_python_reads_is_what_is_read(indices):
    spelled = [
        str(i)
        if isinstance(i, int)
        else f"{'' if i.start is None else i.start}:{'' if i.stop is None else i.stop}"
        for i in indices
    ]
    assert parse_indices(f"({', '.join(spelled)})") == indices
