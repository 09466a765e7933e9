"""The failure policy: one bad answer costs itself, a bad grader ends the run, and what failed never teaches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from scrpo_cli.errors import RunError, UserError
from scrpo_cli.methods.parts.pool import FilterConfig, PoolConfig, admit
from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.tasks.base import BaseTask
from scrpo_cli.tasks.guard import ENOUGH, Guarded, OwnTask, stop_on_failures
from scrpo_cli.types import Attempt, Completion, FinishReason, Grade, Group, Problem, SampleRequest, Verdict

RIGHT, WRONG = Grade(Verdict.CORRECT, "1"), Grade(Verdict.WRONG, "0")
PROBLEMS = [Problem(str(i), "s", "?", "1") for i in range(40)]


class Fake(BaseTask):
    """Grades by a function of the whole batch."""

    name, grader = "fake", "fake/1"

    def __init__(self, grade) -> None:
        super().__init__(TaskConfig())
        self.calls, self._grade = 0, grade

    def problems(self, cfg: ProblemsConfig):
        return PROBLEMS

    def grade(self, pairs):
        self.calls += 1
        return self._grade(pairs)

    def compare(self, pairs):
        return self._grade(pairs)


def pairs(n: int, bad: Sequence[int] = ()) -> list[tuple[Problem, str]]:
    return [(PROBLEMS[i], "bad" if i in bad else "good") for i in range(n)]


def raising(batch) -> list[Grade]:
    if any(r == "bad" for _, r in batch):
        raise ValueError("cannot read this one")
    return [RIGHT] * len(batch)


def test_sound_grades_pass_in_one_call() -> None:
    fake = Fake(raising)
    grades = Guarded(fake, 0.1).grade(pairs(8))
    assert [g.verdict for g in grades] == ["correct"] * 8
    assert (fake.calls, grades[0].grader) == (1, "fake/1")


def test_an_answer_that_raises_costs_only_itself() -> None:
    grades = Guarded(Fake(raising), 0.1).grade(pairs(10, bad=[7]))
    assert [i for i, g in enumerate(grades) if g.verdict is Verdict.GRADER_ERROR] == [7]
    assert all(g == Grade(Verdict.CORRECT, "1", None, "fake/1") for i, g in enumerate(grades) if i != 7)
    assert "ValueError: cannot read this one" in str(grades[7].reason)
    assert "test_guard.py" in str(grades[7].reason)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "returned None for"),
        ([RIGHT] * 3, "3 grades"),
        ([], "0 grades"),
        (math.nan, "returned nan"),
        (np.ones(1), "returned array"),
    ],
)
def test_a_wrong_shape_is_an_error_for_each_answer(value, reason) -> None:
    grades = Guarded(Fake(lambda batch: value), 0.1).grade(pairs(2))
    assert [g.verdict for g in grades] == ["grader_error", "grader_error"]
    assert all(reason in str(g.reason) for g in grades)


def test_a_wrong_length_for_the_batch_is_mended_answer_by_answer() -> None:
    short = Guarded(Fake(lambda batch: [RIGHT] * max(1, len(batch) - 1)), 0.1)
    assert [g.verdict for g in short.grade(pairs(3))] == ["correct"] * 3


@pytest.mark.parametrize("value", [None, math.nan, True, "correct", Verdict.CORRECT, Grade(None), Grade(math.nan)])  # type: ignore[arg-type]
def test_a_wrong_type_in_one_place_is_an_error_there(value) -> None:
    grades = Guarded(Fake(lambda batch: [RIGHT, value, WRONG]), 0.1).grade(pairs(3))
    assert [g.verdict for g in grades] == ["correct", "grader_error", "wrong"]


def test_equivalence_is_guarded_too() -> None:
    grades = Guarded(Fake(lambda batch: 1 / 0), 0.1).compare([("1", "1")])
    assert grades[0].verdict is Verdict.GRADER_ERROR


def test_our_own_errors_and_ctrl_c_pass_through() -> None:
    for error in (RunError("the grading processes cannot start"), UserError("no data"), KeyboardInterrupt()):

        def grade(batch, error=error):
            raise error

        with pytest.raises(type(error)):
            Guarded(Fake(grade), 0.1).grade(pairs(2))


@pytest.mark.parametrize(
    ("answers", "bad", "limit", "stops"),
    [
        (20, 2, 0.1, False),  # exactly the limit
        (20, 3, 0.1, True),
        (19, 19, 0.1, False),  # too few to tell
        (40, 1, 0.0, True),
        (40, 40, 1.0, False),  # 1: never
    ],
)
def test_the_share_that_may_fail(answers, bad, limit, stops) -> None:
    guarded = Guarded(Fake(raising), limit)
    guarded.grade(pairs(answers, bad=range(bad)))
    found = guarded.too_many_failures()
    assert (found is not None) is stops
    if found:
        assert f"{bad} of {answers} answers" in found
        assert "The first: s 0: ValueError: cannot read this one" in found


def test_few_answers_count_on_and_enough_are_counted_once() -> None:
    guarded = Guarded(Fake(raising), 0.1)
    for _ in range(3):
        guarded.grade(pairs(6, bad=[0]))
        assert guarded.too_many_failures() is None
    guarded.grade(pairs(6, bad=[0]))
    assert ENOUGH <= 4 * 6
    assert "4 of 24" in str(guarded.too_many_failures())
    guarded.grade(pairs(20))
    assert guarded.too_many_failures() is None  # the earlier ones were told


def test_the_error_says_what_where_and_how_to_go_on() -> None:
    guarded = Guarded(Fake(raising), 0.1)
    guarded.grade(pairs(20, bad=range(20)))
    with pytest.raises(RunError) as error:
        stop_on_failures(guarded, "runs/x", "Continue with `scrpo collect --resume x`.")
    assert error.value.exit_code == 1
    assert "20 of 20" in error.value.what
    assert error.value.where == "runs/x"
    assert "task.grading.max_failed" in error.value.fix
    assert "--resume x" in error.value.fix


def test_what_failed_enters_no_pool() -> None:
    grades = Guarded(Fake(raising), 0.1).grade(pairs(3, bad=[1]))
    grades = [grades[0], grades[1], Grade(Verdict.WRONG, "0")]
    done = Completion([1], [2], [-1.0], "x", FinishReason.STOP)
    attempts = [Attempt(f"a{i}", PROBLEMS[0], done, g) for i, g in enumerate(grades)]
    group = Group(SampleRequest(PROBLEMS[0], [], 3), attempts)
    outcomes_G = np.array([a.outcome for a in attempts])
    assert np.isnan(outcomes_G).tolist() == [False, True, False]
    assert admit(group, outcomes_G, FilterConfig(mode="none"), PoolConfig(per_prompt="all"), 0, 0, 0) == {"a2": "kept"}


@pytest.mark.parametrize(
    ("problems", "what"),
    [
        (lambda cfg: 1 / 0, "ZeroDivisionError"),
        (lambda cfg: None, "NoneType"),
        (lambda cfg: [PROBLEMS[0], "text"], "'text'"),
        (lambda cfg: [PROBLEMS[0], PROBLEMS[0]], "twice"),
    ],
)
def test_problems_of_a_users_own_task_are_checked(problems, what) -> None:
    fake = Fake(raising)
    fake.problems = problems  # type: ignore[method-assign]
    with pytest.raises(UserError, match=what) as error:
        OwnTask(fake, 0.1, None, "stamp", "task.name: m:T").problems(ProblemsConfig(source="x"))
    assert "m:T" in error.value.where
