"""What a run asks of its pool takes no longer because other runs wrote a million attempts: no table is scanned."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from scrpo_cli.pool.db import Database
from scrpo_cli.pool.entries import entries_of_problem, list_entries, prune, uses_of
from scrpo_cli.pool.queries import attempts_by_id, attempts_of, living_entries, record_step, rewind, tokens_of_steps
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.pool.stats import pool_runs, pool_stats
from scrpo_cli.types import AttemptKind

Plans = Callable[[Callable[[], Any]], list[str]]
GROWING = re.compile(r"SCAN (attempt|child|pool_entry|step)\b")


@pytest.fixture
def small(tmp_path: Path, new_run: Callable[..., str], attempt: Callable[..., Any]) -> Iterator[Database]:
    """A run `r` with an error in its pool and an answer to it: plans do not depend on how many rows there are."""
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        run, wrong = new_run(db, run_id="r"), attempt("r", 1)
        record_step(db, run, StepRecord(1, "first", [wrong], {wrong.id: "kept"}, "r"))
        tried = attempt("r", 2, verdict="correct", parent=wrong.id, kind=AttemptKind.CORRECTION)
        record_step(db, run, StepRecord(2, "reflect", [tried]))
        yield db


@pytest.fixture
def plans(small: Database) -> Plans:
    """`plans(work)`: the steps of the plans of every statement that `work` executes."""
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, values: Any, ___: Any, many: bool) -> None:
        asked.append((statement, values[0] if many else values))

    def of(work: Callable[[], Any]) -> list[str]:
        asked.clear()
        event.listen(small._engine, "before_cursor_execute", note)
        work()
        event.remove(small._engine, "before_cursor_execute", note)
        statements = [(text, values) for text, values in asked if not text.startswith("BEGIN")]
        assert statements
        with sqlite3.connect(small.where) as db:
            found = [row for text, values in statements for row in db.execute(f"EXPLAIN QUERY PLAN {text}", values)]
        return [detail for *_, detail in found]

    return of


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(lambda db, new: record_step(db, "r", new), id="record"),
        pytest.param(lambda db, new: living_entries(db, "r"), id="draw"),
        pytest.param(lambda db, new: rewind(db, "r", 1), id="rewind"),
        pytest.param(lambda db, new: tokens_of_steps(db, "r"), id="resume"),
        pytest.param(lambda db, new: attempts_of(db, "r", phase="first"), id="attempts of a run"),
        pytest.param(lambda db, new: attempts_by_id(db, ["r:1:0:0"]), id="attempts by id"),
        pytest.param(lambda db, new: pool_stats(db, "r"), id="stats"),
        pytest.param(lambda db, new: pool_runs(db, "r"), id="runs of a pool"),
        pytest.param(lambda db, new: list_entries(db, pool="r", limit=20), id="ls of a pool"),
        pytest.param(lambda db, new: list_entries(db, pool="r", alive=False, limit=20), id="ls --all of a pool"),
        pytest.param(lambda db, new: list_entries(db, run_id="r", limit=0), id="entries of a run"),
        pytest.param(lambda db, new: entries_of_problem(db, "0"), id="show a problem"),
        pytest.param(lambda db, new: uses_of(db, "r:1:0:0"), id="show an attempt"),
        pytest.param(lambda db, new: prune(db, pool="r", older_than_steps=1), id="prune a pool"),
    ],
)
def test_no_table_that_grows_is_scanned(small: Database, plans: Plans, attempt: Any, work: Callable[..., Any]) -> None:
    new = attempt("r", 3)
    record = StepRecord(3, "first", [new], {new.id: "kept"}, "r", [("r:1:0:0", "used")])
    assert [step for step in plans(lambda: work(small, record)) if GROWING.match(step)] == []


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(lambda db: living_entries(db, "r"), id="draw"),
        pytest.param(lambda db: list_entries(db, limit=20), id="ls"),
    ],
)
def test_living_entries_are_found_without_the_retired_ones(
    small: Database, plans: Plans, work: Callable[..., Any]
) -> None:
    """Their indices hold nothing else, so even a scan of one reads only what lives."""
    of_entries = [step for step in plans(lambda: work(small)) if re.match(r"(SCAN|SEARCH) pool_entry", step)]
    wide = [step for step in of_entries if not re.search(r"pool_entry_(alive|oldest)|attempt_id=\?", step)]
    assert of_entries
    assert wide == []


def test_counts_over_all_pools_read_indices(small: Database, plans: Plans) -> None:
    """They grow with the database. Only what is counted by its answer reads the rows, for an answer may be a program,
    which is too long for an index.
    """
    scans = [step for step in plans(lambda: pool_stats(small)) if re.match(r"SCAN attempt\b", step)]
    rows = [step for step in scans if "USING COVERING INDEX" not in step]
    assert len(scans) == 3
    assert rows == ["SCAN attempt USING INDEX attempt_problem"]
