"""The grading bench on few pairs: every grader is measured, ours says what is expected of every pair."""

from __future__ import annotations

import grading
import pytest


@pytest.mark.parametrize("mix", [grading.SIMPLE, pytest.param(grading.HARD, marks=pytest.mark.slow)])
def test_graders_are_measured_on_the_same_pairs_and_ours_is_right(mix) -> None:
    found = grading.measured(mix, len(mix), 1)
    assert list(found) == ["scrpo, 1 worker", "scrpo, 2 workers", "math-verify, 1 process"]
    for name, row in found.items():
        assert row["answers_per_s"]["median"] > 0
        assert name.startswith("math-verify") or row["as_expected"] == 1
    assert len(grading.grid({"mix": found}).rows) == 3


def test_no_pair_comes_twice() -> None:
    first, second = grading.pairs(grading.HARD, 16, 0), grading.pairs(grading.HARD, 16, 16)
    assert len({*first, *second}) == 32
    assert {same for *_, same in first} == {True, False}
