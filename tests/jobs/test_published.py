"""What a training run sends to W&B at its end."""

from __future__ import annotations

from jobs.exported_run import OUTCOMES, RUN, answers

from scrpo_cli.evaluation.outcomes import Answers
from scrpo_cli.jobs.published import attempts, results
from scrpo_cli.pool.queries import StoredEvaluation


def test_results_are_the_numbers_with_their_intervals() -> None:
    metrics = {"avg": 0.5, "ci95": [0.4, 0.6], "n": 3, "delta": {"value": 0.1, "ci95": None}}
    table = results([StoredEvaluation(2, "test", metrics, "after")])
    assert table.columns == ("benchmark", "label", "step", "measure", "value", "ci95 low", "ci95 high")
    assert table.rows == [("test", "after", 2, "avg", 0.5, 0.4, 0.6), ("test", "after", 2, "delta", 0.1, None, None)]


def test_every_first_answer_has_its_revisions_below_it() -> None:
    table = attempts(Answers.of(answers()))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    parts = [row["part"] for row in rows]
    wrong = sum(marks.count("W") for marks in OUTCOMES.values())
    assert len(rows) == 2 * 8 + wrong
    assert parts[:5] == ["first", "second", "first", "second", "repair"]
    assert all(row["parent"] in (None, rows[i - 1]["attempt"], rows[i - 2]["attempt"]) for i, row in enumerate(rows))
    assert rows[0]["attempt"] == f"{RUN}:2:test:after:first:train-1:0"
    assert {row["verdict"] for row in rows} == {"correct", "wrong", "grader_error"}
