"""SCoRe's edit-distance ratio against the table of the textbook."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrpo_cli.evaluation.changes import edit_ratio

texts = st.text("ab1\n é", max_size=40)


def by_table(a: str, b: str) -> int:
    """Wagner and Fischer 1974."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@pytest.mark.parametrize(
    ("a", "b", "ratio"),
    [
        ("kitten", "sitting", 3 / 13),
        ("12+5=17", "12+5=18", 1 / 14),
        ("", "abcd", 1.0),
        ("ab", "cd", 0.5),  # nothing in common at equal length: 0.5, not 1
        ("same", "same", 0.0),
        ("", "", 0.0),
    ],
)
def test_by_hand(a: str, b: str, ratio: float) -> None:
    assert edit_ratio(a, b) == pytest.approx(ratio)


@given(texts, texts)
def test_equals_the_table(a: str, b: str) -> None:
    assert edit_ratio(a, b) == by_table(a, b) / max(1, len(a) + len(b))


@given(texts, texts)
def test_symmetric_bounded_and_zero_only_for_a_copy(a: str, b: str) -> None:
    assert edit_ratio(a, b) == edit_ratio(b, a)
    assert 0 <= edit_ratio(a, b) <= max(len(a), len(b)) / max(1, len(a) + len(b)) <= 1
    assert (edit_ratio(a, b) == 0) == (a == b)
