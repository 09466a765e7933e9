"""Listing, finding and pruning pool entries."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from scrpo_cli.errors import UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.entries import Pruned, find_entries, list_entries, prune, uses_of
from scrpo_cli.pool.models import ATTEMPT, POOL_ENTRY
from scrpo_cli.pool.queries import living_entries, record_step
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.types import AttemptKind


@pytest.fixture
def filled(db: Database, new_run, attempt) -> str:
    """Pool `p` with entries of steps 0, 1, 2 (one each) and 10; that of step 0 is retired. Pool `q` has one too."""
    run = new_run(db, run_id="run")
    for step in (0, 1, 2):
        made = [attempt(run, step, 0)]
        record_step(db, run, StepRecord(step, "first", made, {made[0].id: "kept"}, "p"))
    made = [attempt(run, 10, 0), attempt(run, 10, 1, 0, "correct", parent="run:1:0:0", kind=AttemptKind.CORRECTION)]
    record_step(db, run, StepRecord(10, "both", made, {made[0].id: "kept"}, "p", [("run:0:0:0", "solved")]))
    other = new_run(db, run_id="other")
    made = [attempt(other, 5, 3)]
    record_step(db, other, StepRecord(5, "first", made, {made[0].id: "kept"}, "q"))
    return run


def test_listing(db: Database, filled: str) -> None:
    total, found = list_entries(db, pool="p")
    assert (total, [e.attempt_id for e in found]) == (3, ["run:1:0:0", "run:2:0:0", "run:10:0:0"])
    assert (found[0].uses, found[0].repairs, found[0].meta, found[0].parent) == (1, 1, {"level": 2}, None)
    total, found = list_entries(db, alive=False, limit=2)
    assert (total, [e.retired_reason for e in found]) == (5, ["solved", None])
    with pytest.raises(UserError, match="no problems of 'nowhere'") as caught:
        list_entries(db, source="nowhere")
    assert "There are: " in caught.value.fix


def test_what_a_run_added_is_asked_by_its_id_and_not_by_the_begin_of_others(db: Database, filled, new_run, attempt):
    run = new_run(db, run_id="run:1")
    made = [attempt("x", 1, 0)]  # an id that does not name its run
    record_step(db, run, StepRecord(1, "first", made, {made[0].id: "kept"}, "p"))
    assert [e.attempt_id for e in list_entries(db, run_id=run)[1]] == ["x:1:0:0"]
    assert list_entries(db, run_id="run", limit=0) == (3, [])


def test_an_unknown_pool_names_the_known_ones(db: Database, filled: str) -> None:
    with pytest.raises(UserError, match="no pool 'z'") as caught:
        list_entries(db, pool="z")
    assert caught.value.fix == "There are: p, q"


def test_an_empty_database_says_how_to_fill_a_pool(db: Database) -> None:
    with pytest.raises(UserError) as caught:
        list_entries(db, pool="z")
    assert "scrpo collect" in caught.value.fix


def test_finding_by_prefix(db: Database, filled: str, attempt) -> None:
    assert [e.attempt_id for e in find_entries(db, "run:2")] == ["run:2:0:0"]
    with pytest.raises(UserError, match="begins 2 pooled attempts") as caught:
        find_entries(db, "run:1")  # run:1:0:0 and run:10:0:0
    assert "run:10:0:0" in caught.value.fix
    with pytest.raises(UserError, match="No pooled attempt"):
        find_entries(db, "RUN:2")
    with pytest.raises(UserError, match="No pooled attempt"):
        find_entries(db, "run%")  # no pattern


def test_an_attempt_in_two_pools_is_found_once_for_each(db: Database, filled: str) -> None:
    with db.write() as connection:
        row = {"pool": "q", "attempt_id": "run:2:0:0", "run_id": "other", "added_step": 0}
        connection.execute(POOL_ENTRY.insert(), row)
    assert {e.pool for e in find_entries(db, "run:2")} == {"p", "q"}


def test_uses(db: Database, filled: str) -> None:
    (use,) = uses_of(db, "run:1:0:0")
    assert (use.attempt_id, use.step, use.kind, use.verdict) == ("run:10:1:0", 10, "correction", "correct")
    assert uses_of(db, "run:2:0:0") == []


def attempts(db: Database) -> int:
    with db.read() as connection:
        return connection.scalar(select(func.count()).select_from(ATTEMPT)) or 0


@pytest.mark.parametrize(
    ("options", "expected", "left"),
    [
        ({"older_than_steps": 8}, Pruned(retired=1, deleted=0), ["run:2:0:0", "run:10:0:0"]),
        ({"older_than_steps": 0, "pool": "p"}, Pruned(retired=2, deleted=0), ["run:10:0:0"]),
        ({"older_than_steps": 8, "retired": True}, Pruned(retired=1, deleted=1), ["run:2:0:0", "run:10:0:0"]),
        ({"retired": True}, Pruned(retired=0, deleted=1), ["run:1:0:0", "run:2:0:0", "run:10:0:0"]),
        ({"pool": "p"}, Pruned(retired=3, deleted=0), []),
        ({"pool": "q"}, Pruned(retired=1, deleted=0), ["run:1:0:0", "run:2:0:0", "run:10:0:0"]),
    ],
)
def test_pruning(db: Database, filled: str, options: dict, expected: Pruned, left: list[str]) -> None:
    n, before = attempts(db), list_entries(db, alive=False)
    assert prune(db, **options, dry_run=True) == expected
    assert list_entries(db, alive=False) == before
    assert prune(db, **options) == expected
    assert [entry.attempt_id for entry in living_entries(db, "p")] == left
    assert attempts(db) == n
    assert list_entries(db, alive=False)[0] == before[0] - expected.deleted


def test_what_was_pruned_says_when(db: Database, filled: str) -> None:
    prune(db, older_than_steps=8)
    entry = next(e for e in list_entries(db, alive=False)[1] if e.attempt_id == "run:1:0:0")
    assert (entry.retired_step, entry.retired_reason) == (10, "pruned")


def test_pruning_nothing_in_particular_is_refused(db: Database, filled: str) -> None:
    with pytest.raises(UserError, match="Nothing was chosen"):
        prune(db)
