"""The thinking world: its problems, its difficulty, and what it says of an answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.think import ThinkErrorKind, ThinkTask, error_kind
from scrpo_cli.tasks.tiny import parse_chain, split_of
from scrpo_cli.types import Problem, Verdict

PROBLEM = Problem("p", "think", "47+38-29=?", "56")
RIGHT = "47+38=84\nCheck 7+8=15 4+3+1=8 85 not\n85-29=56\n\\boxed{56}"


def task(lines: int = 4, carries: int = 3) -> ThinkTask:
    return ThinkTask(TaskConfig.model_validate({"name": "think", "think": {"lines": lines, "carries": carries}}))


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, min(n, 4)))), st.integers(0, 1999))
def test_problems_are_as_hard_as_the_recipe_says(difficulty, index):
    lines, carries = difficulty
    problems = task(lines, carries).problems(ProblemsConfig(source="think", split="test"))
    problem = problems[index]
    chain = parse_chain(problem.text)
    assert len(chain.terms) == lines == problem.meta["steps"]
    assert chain.carries == problem.meta["carries"] >= carries
    assert split_of(problem.text) == "test"
    assert problems[index] == problem
    assert str(eval(problem.text.removesuffix("=?"))) == problem.answer


def test_problems_of_two_difficulties_are_different_problems():
    """The database keeps them apart by their names."""
    cfg = ProblemsConfig(source="think", split="test", limit=5)
    names = [{p.id for p in task(*difficulty).problems(cfg)} for difficulty in ((4, 3), (4, 2), (3, 2))]
    assert len(set.union(*names)) == 15


def test_a_recipe_that_no_problem_fits_is_refused():
    with pytest.raises(ValueError, match=r"3 lines cannot carry 4 times"):
        task(3, 4)
    with pytest.raises(ValueError, match=r"task.think needs task.name: think"):
        TaskConfig.model_validate({"name": "tiny", "think": {"lines": 2, "carries": 0}})
    with pytest.raises(UserError, match="no source 'tiny'"):
        task().problems(ProblemsConfig(source="tiny", split="test"))


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (RIGHT, None),
        ("47+38=85\nCheck 7+8=15 4+3+1=8 85 ok\n85-29=56\nCheck 15-9=6 8-2-1=5 56 ok\n\\boxed{56}", None),
        (f"Analysis:\n47+38=84\nCorrected Solution:\n{RIGHT}", None),
        ("47+38=84\n84-29=55\n\\boxed{55}", ThinkErrorKind.UNCHECKED),
        ("47+38=84\nCheck 7+8=14 4+3+1=8 84 ok\n84-29=55\n\\boxed{55}", ThinkErrorKind.MISSED),
        ("47+38=84\nCheck 7+8=16 4+3+1=8 86 not\n86-29=57\n\\boxed{57}", ThinkErrorKind.MISSED),
        ("47+38=85\nCheck 7+8=14 4+3+1=8 84 not\n84-29=55\n\\boxed{55}", ThinkErrorKind.MISLED),
        ("47+38=84\nCheck 7+8=15 4+3+1=8 85 not\n84-29=55\n\\boxed{55}", ThinkErrorKind.COPY),
        ("47+38=85\n\\boxed{85}", ThinkErrorKind.COPY),
        ("47+38=85\n85-29=56\n\\boxed{57}", ThinkErrorKind.COPY),
        ("Check 7+8=15 4+3+1=8 85 ok\n47+38=85\n85-29=56\n\\boxed{56}", ThinkErrorKind.UNPARSABLE),
        ("47+38=85, I think\n85-29=56\n\\boxed{56}", ThinkErrorKind.UNPARSABLE),
        ("85-29=56", ThinkErrorKind.UNPARSABLE),
    ],
)
def test_what_went_wrong_first(response, kind):
    assert error_kind(PROBLEM, response) == kind
    (grade,) = make_task(TaskConfig(name="think")).grade([(PROBLEM, response)])
    if kind is None:
        assert grade.verdict is Verdict.CORRECT
