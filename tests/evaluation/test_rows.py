"""External responses: how rows become turns, and which files are refused."""

from __future__ import annotations

from contextlib import closing

import pytest

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.identity import by_benchmark
from scrpo_cli.evaluation.rows import evaluate_rows
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import TaskConfig
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.external import ResponseRow
from scrpo_cli.tasks.tiny import TinyTask
from scrpo_cli.types import AttemptKind, Verdict

TASK = TinyTask(load_recipe("tiny").task)


def row(name: str, answer: str, turn: int = 1, sample: int = 0, **more) -> ResponseRow:
    fields = {"problem": name, "answer": "7", "response": f"\\boxed{{{answer}}}", "turn": turn, "sample": sample}
    return ResponseRow(id=name, where=f"f:{name}:{turn}", **(fields | more))


def test_three_turns_in_any_order() -> None:
    rows = [row("p", "8"), row("q", "7"), row("q", "7", 3), row("p", "7", 3), row("p", "9", 2), row("q", "8", 2)]
    found = evaluate_rows(TASK, rows, "r:0")
    assert [a["value"] for a in found.metrics["turns"]["accuracy"]] == [0.5, 0.0, 1.0]
    assert (found.metrics["t1"]["value"], found.metrics["t2"]["value"]) == (0.5, 0.0)
    first, second, third = found.answers.turns
    assert [a.parent for a in third] == [a.id for a in second]
    assert [a.parent for a in second] == [a.id for a in first]


def test_samples_of_uneven_number() -> None:
    rows = [row("p", "7"), row("q", "8"), row("q", "7", sample=1), row("q", "7", sample=5)]
    metrics = evaluate_rows(TASK, rows, "r:0").metrics
    assert metrics["avg"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["samples"] == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("p", "7"), row("p", "7")], "sample 0 twice"),
        ([row("p", "7", 2)], "no first-turn rows"),
        ([row("p", "7"), row("q", "7"), row("p", "7", 2)], "no partner in turn 2"),
        ([row("p", "7"), row("p", "7", 2), row("q", "7", 2)], "no partner in turn 1"),
        ([row("p", "7"), row("p", "7", 3)], "no partner in turn 2"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, message) -> None:
    with pytest.raises(UserError, match=message):
        evaluate_rows(TASK, rows, "r:0")


def test_repairs_and_criticism_are_no_turns() -> None:
    correction = {"response": "Analysis: \\boxed{3}\nCorrected Solution: \\boxed{7}"}
    rows = [row("p", "8"), row("q", "7"), row("p", "7", 2, kind="repair", **correction)]
    rows += [row("p", "7", 2, kind="feedback"), row("q", "7", 2, kind="self_verdict")]
    found = evaluate_rows(TASK, rows, "r:0")
    assert found.metrics["repair_rate"]["value"] == 1.0
    assert found.metrics["repair_rate"]["wrong"] == 1
    assert "t2" not in found.metrics
    assert [a.kind for a in found.attempts] == [AttemptKind.FIRST] * 2 + [AttemptKind.CORRECTION]


def test_truncation_is_reported_when_it_is_known_of_all() -> None:
    rows = [row("p", "7", finish="stop"), row("q", "7", finish="length")]
    assert evaluate_rows(TASK, rows, "r:0").metrics["truncated"] == 0.5
    assert evaluate_rows(TASK, [*rows, row("z", "7")], "r:0").metrics["truncated"] is None


def test_what_the_template_wrote_at_the_start_is_graded_with_the_answer() -> None:
    """A box inside an unfinished thought is no answer."""
    with closing(make_task(TaskConfig(name="math"))) as math:
        (thought,) = evaluate_rows(math, [row("p", "7", prefill="<think>")], "r:0").attempts
        (said,) = evaluate_rows(math, [row("p", "7")], "r:0").attempts
    assert (thought.grade.verdict, said.grade.verdict) == (Verdict.UNPARSABLE, Verdict.CORRECT)
    assert thought.completion.text == said.completion.text


def test_rows_are_scored_by_benchmark_or_by_source() -> None:
    rows = [row("p", "7", benchmark="a"), row("q", "7", source="s"), row("p", "7", benchmark="b"), row("r", "7")]
    assert {name: len(each) for name, each in by_benchmark(rows).items()} == {"a": 1, "s": 1, "b": 1, "external": 1}
