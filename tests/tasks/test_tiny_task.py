"""The tiny world as a task."""

from __future__ import annotations

import pytest

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.tiny import ErrorKind, TinyTask, error_kind, split_of
from scrpo_cli.types import Problem, Verdict

PROBLEM = Problem("p", "tiny", "47+38-29=?", "56")
SOLVED = "47+38=85\n85-29=56\n\\boxed{56}"


@pytest.fixture
def task():
    return TinyTask(TaskConfig())


@pytest.mark.parametrize(("split", "length"), [("train", 20_000), ("validation", 2_000), ("test", 2_000)])
def test_problems_are_lazy_and_belong_to_their_split(task, split, length):
    problems = task.problems(ProblemsConfig(source="tiny", split=split))
    assert len(problems) == length
    assert [p.id for p in problems[:2]] == [f"{split}-0", f"{split}-1"]
    assert problems[-1].id == f"{split}-{length - 1}"
    assert {split_of(p.text) for p in problems[:50]} == {split}
    assert problems[7] == task.problems(ProblemsConfig(source="tiny", split=split, limit=10))[7]
    with pytest.raises(IndexError):
        problems[length]


def test_limit_cuts(task):
    assert len(task.problems(ProblemsConfig(source="tiny", limit=5))) == 5
    assert len(task.problems(ProblemsConfig(source="tiny", split="test", limit=5_000))) == 2_000


@pytest.mark.parametrize(("source", "split"), [("gsm8k", "train"), ("tiny", "dev")])
def test_sources_and_splits_that_are_not_there(task, source, split):
    with pytest.raises(UserError, match="'tiny' has no"):
        task.problems(ProblemsConfig(source=source, split=split))


def test_the_prompt_keeps_braces():
    task = make_task(TaskConfig(system="Be brief.", prompt="Solve {problem} in \\boxed{}"))
    assert task.messages(PROBLEM) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Solve 47+38-29=? in \\boxed{}"},
    ]


@pytest.mark.parametrize(
    ("response", "verdict", "extracted"),
    [
        (SOLVED, Verdict.CORRECT, "56"),
        ("\\boxed{57} \\boxed{56}", Verdict.CORRECT, "56"),
        ("\\boxed{056}", Verdict.CORRECT, "056"),
        ("\\boxed{57}", Verdict.WRONG, "57"),
        ("\\boxed{-56}", Verdict.WRONG, "-56"),
        ("56", Verdict.UNPARSABLE, None),
        ("\\boxed{56", Verdict.UNPARSABLE, None),
        ("\\boxed{5a}", Verdict.UNPARSABLE, "5a"),
        ("\\boxed{" + "9" * 5000 + "}", Verdict.UNPARSABLE, "9" * 5000),
        ("", Verdict.UNPARSABLE, None),
    ],
)
def test_grading(task, response, verdict, extracted):
    (grade,) = task.grade([(PROBLEM, response)])
    assert (grade.verdict, grade.extracted, grade.grader) == (verdict, extracted, "tiny/1")


def test_comparing_final_answers(task):
    assert [g.verdict for g in task.compare([("5", "05"), ("5", "6"), ("5", "x"), ("x", "5")])] == [
        Verdict.CORRECT,
        Verdict.WRONG,
        Verdict.UNPARSABLE,
        Verdict.GRADER_ERROR,
    ]


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (SOLVED, None),
        ("47+38=75\n75-29=46\n\\boxed{46}", ErrorKind.CARRY),
        ("47+38=85\n85-29=66\n\\boxed{66}", ErrorKind.BORROW),
        ("47+38=86\n86-29=57\n\\boxed{57}", ErrorKind.SLIP),
        ("47+38=85\n58-29=29\n\\boxed{29}", ErrorKind.COPY),
        ("47+38=85\n85+29=114\n\\boxed{114}", ErrorKind.COPY),
        ("47+38=85\n85-28=57\n\\boxed{57}", ErrorKind.COPY),
        ("47+38=85\n85-29=56\n\\boxed{65}", ErrorKind.COPY),
        ("47+38=85\n\\boxed{85}", ErrorKind.COPY),
        (SOLVED.replace("\\", "56-1=55\n\\"), ErrorKind.COPY),
        ("\\boxed{56}", ErrorKind.COPY),
        ("47+38 is 85\n85-29=56\n\\boxed{56}", ErrorKind.UNPARSABLE),
        ("47+38=85\n85-29=56", ErrorKind.UNPARSABLE),
        ("Analysis:\n47+38: 7+8=15 4+3+1=8 85 not 75\nCorrected Solution:\n" + SOLVED, None),
        ("Analysis:\n47+38: 85 ok\nCorrected Solution:\n47+38=75\n75-29=46\n\\boxed{46}", ErrorKind.CARRY),
    ],
)
def test_the_first_error_is_told(response, kind):
    assert error_kind(PROBLEM, response) is kind
