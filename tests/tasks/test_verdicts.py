"""No answer chooses its verdict: whether it counts is decided by the reference answer, before any answer is seen."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scrpo_cli.recipe.models import TaskConfig
from scrpo_cli.tasks import make_task
from scrpo_cli.types import Problem, Verdict

COUNTED = {Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSABLE, Verdict.TIMEOUT}
GOLDS = [
    "5",
    "40",
    r"\frac{1}{2}",
    r"3\sqrt{2}",
    r"\pi",
    "x^2+1",
    "(1,2)",
    "2,3",
    r"\{1,2\}",
    r"[-2,7]",
    "x>3",
    "y=2x+3",
]
GOLDS += [
    r"\text{(A)}",
    "east",
    "7:30",
    r"\begin{pmatrix}1\\2\end{pmatrix}",
    r"(-\infty,2)\cup(3,\infty)",
    r"1 \pm \sqrt{2}",
    "n!",
]
ESCAPES = [
    "x<2 or x>3",
    r"1 \lor x>2",
    "a<b or c",
    "x<",
    "or",
    "<or>",
    r"x \in",
    r"\frac{1}{0}",
    "0/0",
    "nan",
    r"\infty - \infty",
]
ESCAPES += [
    r"\emptyset or 5",
    "{",
    "}{",
    r"\text{",
    r"\left(",
    "=",
    "==",
    "x=y=z<w or v",
    r"\int",
    r"\lim",
    "\x00",
    "\ud800",
    "😀",
]
ESCAPES += [
    r"\begin{pmatrix}1",
    r"\{x : x>2 or x<1\}",
    r"x>2 \land x<1",
    "(" * 9,
    r"\sqrt[0]{5}",
    "5 and x<",
    r"x \ne or y",
]
PIECES = [
    *ESCAPES,
    "1",
    "x",
    "<",
    ">",
    r" \le ",
    " or ",
    " and ",
    ",",
    "=",
    "^",
    "_",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    r"\frac",
    r"\sqrt",
]
PIECES += [
    r"\text{ or }",
    r"\cup",
    r"\in ",
    r"\pm",
    "!",
    "|",
    "\\",
    "$",
    "%",
    ":",
    ";",
    "i",
    "e",
    r"\pi",
    " ",
    "\n",
    "'",
]


@pytest.fixture(scope="module")
def math():
    task = make_task(TaskConfig(name="math"), workers=1, deadline_s=2)
    yield task
    task.close()


def graded(math, gold, answers):
    problem = Problem("p", "test", "What is it?", gold)
    return [grade.verdict for grade in math.grade([(problem, f"\\boxed{{{answer}}}") for answer in answers])]


@pytest.mark.parametrize("gold", GOLDS)
def test_no_known_escape_leaves_the_averages(math, gold):
    assert set(graded(math, gold, ESCAPES)) <= COUNTED


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(GOLDS), st.lists(st.lists(st.sampled_from(PIECES), max_size=7).map("".join), min_size=4, max_size=8)
)
def test_whatever_the_answer_it_counts(math, gold, answers):
    assert set(graded(math, gold, answers)) <= COUNTED


@pytest.mark.parametrize("gold", ["t(0,4]", r"\hbar \omega("])
def test_where_a_reference_cannot_be_read_every_answer_is_left_out(math, gold):
    """Also the one that is written like it, and the one in which no answer is found."""
    problem = Problem("p", "test", "What is it?", gold)
    responses = [f"\\boxed{{{gold}}}", "\\boxed{5}", "no idea", "", "\\boxed{x<2 or x>3}"]
    grades = math.grade([(problem, response) for response in responses])
    assert {grade.verdict for grade in grades} == {Verdict.GRADER_ERROR}
    assert {grade.reason for grade in grades} == {f"the reference answer cannot be read: {gold!r}"}
    assert math.unreadable([problem, Problem("q", "test", "?", "5")]) == {"p": grades[0].reason}
