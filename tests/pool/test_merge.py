"""Runs of many machines in one database: nothing twice, nothing lost, nothing mixed up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from scrpo_cli.cli.app import main
from scrpo_cli.errors import UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.forks import copy_past
from scrpo_cli.pool.merge import merge
from scrpo_cli.pool.models import ATTEMPT, EVALUATION, POOL_ENTRY, PROBLEM, RUN, STEP
from scrpo_cli.pool.queries import finish_run, living_entries, record_evaluation, record_step, rewind
from scrpo_cli.pool.records import StepRecord


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Database]:
    with Database.open(str(tmp_path / "other.db")) as database:
        yield database


def content(db: Database) -> dict[str, list[tuple]]:
    with db.read() as connection:
        return {
            table.name: sorted(tuple(row) for row in connection.execute(select(table)).all())
            for table in (RUN, PROBLEM, ATTEMPT, POOL_ENTRY, STEP, EVALUATION)
        }


def steps(db: Database, run: str, attempt, first: int, last: int, pool: str = "p") -> None:
    """Each step adds two errors and retires one that an earlier step of it added."""
    for step in range(first, last + 1):
        made = [attempt(run, step, g) for g in range(2)]
        retired = [(f"{run}:{step - 1}:0:0", "used")] if step > first else []
        record_step(db, run, StepRecord(step, "first", made, {a.id: "kept" for a in made}, pool, retired, {"x": step}))


def test_a_merge_says_how_far_it_is(db, other, new_run, attempt):
    for n in range(2):
        steps(other, new_run(other, run_id=f"theirs{n}"), attempt, 1, 3)
    told: list[tuple[int, int]] = []
    merge(db, other, watch=lambda done, total: told.append((done, total)))
    assert told == sorted(told), "two errors and a row of the step itself, three times, of each run"
    assert (len(told), told[-1]) == (4, (18, 18))
    told.clear()
    merge(db, other, watch=lambda done, total: told.append((done, total)))
    assert told == []


def test_a_file_is_taken_over_whole_and_once(db, other, new_run, attempt):
    run = new_run(other, run_id="theirs")
    steps(other, run, attempt, 1, 3)
    record_evaluation(other, run, 3, "test", {"avg": 0.5}, [attempt(f"{run}:e", 3, 7)], "after")
    mine = new_run(db, run_id="mine")
    steps(db, mine, attempt, 1, 1)
    before = content(db)
    assert merge(db, other).added == ["theirs"]
    after, there = content(db), content(other)
    for table, rows in there.items():
        assert set(rows) <= set(after[table])
        assert len(after[table]) == len({*rows, *before[table]})
    again = merge(db, other)
    assert (again.added, again.updated, again.unchanged, again.conflicts) == ([], [], ["theirs"], [])
    assert content(db) == after


def test_a_run_that_went_on_brings_what_is_new_and_an_older_copy_brings_nothing(db, other, new_run, attempt):
    run = new_run(other)
    steps(other, run, attempt, 1, 2)
    merge(db, other)
    early = content(db)
    steps(other, run, attempt, 3, 4)
    finish_run(other, run, "done", {"steps": 4})
    assert merge(db, other).updated == [run]
    assert content(db) == content(other)
    rewind(other, run, 2)  # an older copy of the file
    assert content(other) != early  # its status
    assert merge(db, other).unchanged == [run]
    assert len(content(db)["step"]) == 4


def test_what_others_have_done_to_the_errors_of_a_run_stays(db, other, new_run, attempt):
    run = new_run(other)
    steps(other, run, attempt, 1, 1)
    merge(db, other)
    corrects = new_run(db, command="correct")
    record_step(db, corrects, StepRecord(0, "reflect", [], {}, "p", [(f"{run}:1:1:0", "repaired")]))
    steps(other, run, attempt, 2, 2)
    assert merge(db, other).updated == [run]
    assert f"{run}:1:1:0" not in {entry.attempt_id for entry in living_entries(db, "p")}


def test_errors_that_two_machines_have_retired_are_told_of(db, other, new_run, attempt):
    run = new_run(db)
    steps(db, run, attempt, 1, 1)
    merge(other, db)
    for place, name in ((db, "here"), (other, "there")):
        corrects = new_run(place, command="correct", run_id=name)
        record_step(place, corrects, StepRecord(0, "reflect", [], {}, "p", [(f"{run}:1:0:0", "repaired")]))
    merged = merge(db, other)
    assert (merged.added, merged.conflicts) == (["there"], [f"{run}:1:0:0"])
    with db.read() as connection:
        entry = POOL_ENTRY.c.attempt_id == f"{run}:1:0:0"
        assert connection.scalar(select(POOL_ENTRY.c.retired_run_id).where(entry)) == "here"


def test_two_histories_of_a_run_are_refused_unless_one_is_chosen(db, other, new_run, attempt):
    run = new_run(other)
    steps(other, run, attempt, 1, 2)
    merge(db, other)
    with other.write() as connection:
        connection.execute(update(ATTEMPT).where(ATTEMPT.c.step == 2).values(n_tokens=99))
    before = content(db)
    with pytest.raises(UserError, match="another history"):
        merge(db, other)
    assert content(db) == before
    assert merge(db, other, replace=True).updated == [run]
    assert content(db) == content(other)


def test_a_problem_with_another_text_is_refused_and_nothing_is_changed(db, other, new_run, attempt):
    for place, run in ((db, "mine"), (other, "theirs")):
        steps(place, new_run(place, run_id=run), attempt, 1, 1)
    with other.write() as connection:
        connection.execute(update(PROBLEM).where(PROBLEM.c.id == "1").values(text="another one"))
    before = content(db)
    with pytest.raises(UserError, match="another text"):
        merge(db, other)
    assert content(db) == before


def test_only_the_runs_that_are_named(db, other, new_run, attempt):
    for run in ("a", "b"):
        steps(other, new_run(other, run_id=run), attempt, 1, 1, pool=run)
    assert merge(db, other, runs=["b"]).added == ["b"]
    assert {row[0] for row in content(db)["run"]} == {"b"}


def test_the_command(tmp_path, capsys, monkeypatch, new_run, attempt):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        with Database.open(f"{name}.db") as database:
            steps(database, new_run(database, run_id=name), attempt, 1, 1, pool=name)

    def scrpo(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([*arguments])
        return int(exit_.value.code or 0), *capsys.readouterr()

    code, out, err = scrpo("db", "merge", "one.db", "two.db", "--db", "all.db", "--json")
    assert code == 0, err
    assert "merging two.db, rows\n" in err
    assert [each["added"] for each in json.loads(out)["files"]] == [["one"], ["two"]]
    code, out, _ = scrpo("db", "merge", "one.db", "--db", "all.db", "--json")
    assert json.loads(out)["files"][0]["unchanged"] == ["one"]
    code, _, err = scrpo("db", "merge", "all.db", "--db", "all.db")
    assert (code, "not merged into itself" in err) == (2, True)
    code, _, err = scrpo("db", "merge", "missing.db", "--db", "all.db")
    assert code == 2


def test_a_fork_and_its_run_are_merged_like_any_two(db, other, new_run, attempt):
    run, fork = new_run(other, run_id="run"), new_run(other, run_id="fork")
    steps(other, run, attempt, 1, 3, pool=run)
    copy_past(other, run, fork, 2)
    merge(db, other)
    assert content(db) == content(other)
    assert {entry.attempt_id for entry in living_entries(db, fork)} == {"fork:1:1:0", "fork:2:0:0", "fork:2:1:0"}
