"""Tables that need the task around the comparison: tests/tasks/pairs_problem.yaml (what the problem's text changes) and
tests/tasks/pairs_hostile.yaml (answers that may hang or crash a comparison, which the task ends at its deadline).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from scrpo_cli.recipe.models import TaskConfig
from scrpo_cli.tasks import make_task
from scrpo_cli.types import Problem

META = {"unordered": "is_multiple_answer", "rel_tol": "rel_tol"}
"""The rules of a row, as the meta of a problem."""


def read(name: str) -> dict[str, dict[str, list]]:
    return yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text())


TABLES = {"problem": read("pairs_problem"), "hostile": read("pairs_hostile")}


def asked(table: str, row: Sequence[Any]) -> tuple[Problem, str]:
    """The question that a row puts to the grader."""
    text, gold, pred, *rules = row if table == "problem" else ["", *row]
    meta = {META[rule]: value for rule, value in rules[0].items()} if rules else {}
    return Problem("1", "table", text, gold, meta), f"\\boxed{{{pred}}}"


def rows(verdict: str) -> Iterator[Any]:
    for name, kinds in TABLES.items():
        for kind, table in kinds.items():
            for i, row in enumerate(table[verdict]):
                yield pytest.param(name, row, id=f"{kind}-{i}")


@pytest.fixture(scope="module")
def verdicts() -> dict[str, str]:
    """Of every row, graded together: an answer that hangs costs 2 s."""
    task = make_task(TaskConfig(name="math"), workers=1, deadline_s=2)
    every = [(name, row) for verdict in ("same", "different") for name, row in (p.values for p in rows(verdict))]
    grades = task.grade([asked(name, row) for name, row in every])
    task.close()
    return {repr(row): str(grade.verdict) for (_, row), grade in zip(every, grades)}


@pytest.mark.parametrize(("table", "row"), rows("same"))
def test_same(verdicts, table, row):
    assert verdicts[repr(row)] == "correct"


@pytest.mark.parametrize(("table", "row"), rows("different"))
def test_different(verdicts, table, row):
    expected = {"wrong"} if table == "problem" else {"wrong", "unparsable", "timeout"}
    assert verdicts[repr(row)] in expected


@pytest.mark.parametrize(("table", "least"), [("problem", 80), ("hostile", 140)])
def test_every_kind_has_both_verdicts_and_no_row_twice(table, least):
    for kind, verdicts_ in TABLES[table].items():
        assert set(verdicts_) == {"same", "different"}, kind
        assert min(map(len, verdicts_.values())) >= 3, kind
    every = [repr(row) for kinds in TABLES[table].values() for found in kinds.values() for row in found]
    assert len(set(every)) == len(every) >= least
