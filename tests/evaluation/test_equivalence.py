"""Which answers are one class in a majority vote, on the real math grader where its equivalence matters."""

from __future__ import annotations

from contextlib import closing

import pytest

from scrpo_cli.evaluation.metrics import majority_at_k
from scrpo_cli.evaluation.outcomes import padded
from scrpo_cli.evaluation.voting import joined, vote_classes
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import TaskConfig
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.tiny import TinyTask
from scrpo_cli.types import Attempt, Completion, FinishReason, Grade, Problem, Verdict

R, W, U, T, E = (Verdict(v) for v in ("correct", "wrong", "unparsable", "timeout", "grader_error"))


def attempts(*given: tuple[str | None, Verdict]) -> list[Attempt]:
    completion = Completion([], [], [], "", FinishReason.UNKNOWN)
    problem = Problem("p", "test", "?", "1")
    return [Attempt(f"r:0:first:0:{i}", problem, completion, Grade(v, a), sample=i) for i, (a, v) in enumerate(given)]


@pytest.fixture(scope="module")
def math():
    with closing(make_task(TaskConfig(name="math"), workers=1)) as task:
        yield task


def test_right_answers_are_one_class_however_they_are_written(math) -> None:
    ((a, b, c, d),) = vote_classes(math, [attempts(("1/2", R), ("0.5", R), ("\\frac{1}{2}", R), ("2", W))])
    assert a == b == c != d


def test_wrong_answers_are_one_class_when_they_are_equal_both_ways(math) -> None:
    row = attempts(("0.25", W), ("\\frac14", W), ("\\frac{1}{4}", W), ("4", W), (None, U))
    ((a, b, c, d, e),) = vote_classes(math, [row])
    assert a == b == c != d
    assert e is None  # no vote


def test_what_timed_out_stands_for_its_own_text(math) -> None:
    ((a, b, c),) = vote_classes(math, [attempts(("0.5", T), ("1/2", T), ("0.5", T))])
    assert a == c != b


def test_a_lopsided_equality_joins_nothing() -> None:
    class Lopsided(TinyTask):
        def compare(self, pairs):
            return [Grade(R if gold < pred else W) for gold, pred in pairs]

    ((a, b),) = vote_classes(Lopsided(load_recipe("tiny").task), [attempts(("3", W), ("4", W))])
    assert a != b


def test_programs_have_no_vote() -> None:
    class Programs(TinyTask):
        votes = False

    assert vote_classes(Programs(load_recipe("tiny").task), [attempts(("3", W))]) is None


def test_equal_pairs_are_joined_transitively() -> None:
    same = joined([("a", "b"), ("c", "d"), ("b", "c")])
    assert len({same[x] for x in "abcd"}) == 1


def test_the_vote_by_hand(math) -> None:
    """Two right answers in different words against one wrong pair that is the same in other words: a tie at half."""
    row = attempts(("1/2", R), ("0.5", R), ("3", W), ("3.0", W))
    by_class = majority_at_k(padded([[a.outcome for a in row]]), vote_classes(math, [row]), 4)
    by_text = majority_at_k(padded([[a.outcome for a in row]]), [[a.grade.extracted for a in row]], 4)
    assert by_class == 0.5
    assert by_text == 0.5
    row = attempts(("1/2", R), ("0.5", R), ("3", W), ("3", W), ("0.50", R))  # by text 3 wins, by value 1/2
    assert majority_at_k(padded([[a.outcome for a in row]]), vote_classes(math, [row]), 5) == [1.0]
    assert majority_at_k(padded([[a.outcome for a in row]]), [[a.grade.extracted for a in row]], 5) == [0.0]
