"""Tables for terminals: never wider than 80 columns, numbers to the right, nothing lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aqd_deploy.tables import key_values, markdown_table, table

CELLS = st.one_of(
    st.none(), st.integers(-(10**6), 10**6), st.text("abc xyz", max_size=60), st.floats(0.01, 1000)
)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6))
def test_at_most_80_columns(rows):
    assert max(len(line) for line in table(["first", "second", "third"], rows).splitlines()) <= 80


def test_numbers_are_right_aligned_and_text_left():
    lines = table(["name", "ms"], [["a", 1.5], ["longer", 12.25], ["none", None]]).splitlines()
    assert lines == ["name       ms", "------  -----", "a        1.50", "longer  12.25", "none        -"]


def test_long_cells_wrap_under_themselves():
    text = table(["name", "description"], [["x", "word " * 30]])
    assert text.count("word") == 30
    assert len(text.splitlines()) > 3


def test_many_wide_columns_still_fit():
    text = table(["a" * 30, "b" * 30, "c" * 30], [["x" * 40, "y" * 40, "z" * 40]])
    assert max(map(len, text.splitlines())) <= 80
    assert [text.count(letter) for letter in "xyz"] == [40, 40, 40]


def test_key_values():
    lines = key_values({"a": 1, "long key": [1, 2], "flag": True, "text": "word " * 30}).splitlines()
    assert lines[:3] == ["a         1", "long key  1, 2", "flag      yes"]
    assert all(line.startswith("          word") for line in lines[4:])


def test_markdown_escapes_its_separator():
    assert markdown_table(["a", "b"], [["x|y", None]]) == "| a | b |\n|---|---|\n| x\\|y | - |"
