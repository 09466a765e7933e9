"""Runs, steps, rewinding and the pool as a method sees it."""

from __future__ import annotations

import json
import math
import sqlite3
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from scrpo_cli.errors import RunError, UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import ATTEMPT, POOL_ENTRY, PROBLEM, RUN
from scrpo_cli.pool.queries import (
    attempts_of,
    evaluations_of,
    finish_run,
    git_commit,
    list_runs,
    living_entries,
    record_evaluation,
    record_step,
    resolve_run,
    rewind,
    steps_of,
)
from scrpo_cli.pool.records import StepRecord, attempt_row, json_text, read_attempt
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Grade, Problem, Verdict

CORRECTION = AttemptKind.CORRECTION


def dump(db: Database) -> dict[str, list]:
    """Every row of every table but `run`, whose clock differs."""
    tables = [table for table in PROBLEM.metadata.sorted_tables if table.name not in ("run", "migration")]
    with db.read() as connection:
        return {t.name: sorted(tuple(row) for row in connection.execute(select(t))) for t in tables}


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_knows_what_it_ran(db: Database, new_run) -> None:
    recipe = Recipe(name="tiny", seed=5)
    run = resolve_run(db, new_run(db, recipe=recipe, sweep="s1", arm="n=5"))
    assert (run.status, run.recipe_name, run.seed, run.sweep, run.arm) == ("running", "tiny", 5, "s1", "n=5")
    assert Recipe.model_validate_json(run.recipe_json) == recipe
    assert run.scrpo_version
    assert run.git_commit == git_commit()
    assert run.created_at.endswith("Z")
    assert run.finished_at is None


def test_finishing_a_run(db: Database, run: str) -> None:
    finish_run(db, run, "done", {"accuracy": np.float32(0.5), "kl": math.nan, "by": {8: [1, 2]}})
    row = resolve_run(db, run)
    assert row.status == "done"
    assert row.finished_at is not None
    assert row.finished_at > row.created_at
    assert json.loads(row.summary_json) == {"accuracy": 0.5, "kl": None, "by": {"8": [1, 2]}}
    with pytest.raises(ValueError, match="status"):
        finish_run(db, run, "finished", {})


def test_resolving_runs(db: Database, new_run) -> None:
    with pytest.raises(UserError, match="no runs yet"):
        resolve_run(db, "last")
    names = [new_run(db, run_id=name) for name in ("20260101-aaaa", "20260102-bbbb", "20260102-bbcc")]
    assert resolve_run(db, "last").id == names[2]
    assert resolve_run(db, "20260101").id == names[0]
    assert resolve_run(db, "20260102-bbbb").id == names[1]
    with pytest.raises(UserError, match="begins the ids of 2") as caught:
        resolve_run(db, "20260102")
    assert "20260102-bbcc" in caught.value.fix
    with pytest.raises(UserError, match="no run") as caught:
        resolve_run(db, "20260101-aaab")
    assert "20260101-aaaa" in caught.value.fix


def test_last_of_a_command(db: Database, new_run) -> None:
    trained = new_run(db)
    new_run(db, command="eval")
    assert resolve_run(db, "last", command="train").id == trained
    with pytest.raises(UserError, match="no `scrpo collect` runs yet"):
        resolve_run(db, "last", command="collect")


def test_an_id_that_is_whole_is_not_ambiguous(db: Database, new_run) -> None:
    new_run(db, run_id="run1")
    new_run(db, run_id="run10")
    assert resolve_run(db, "run1").id == "run1"
    with pytest.raises(UserError, match="There is a run 'run1' already"):
        new_run(db, run_id="run1")


def test_listing_runs(db: Database, new_run) -> None:
    first, second = new_run(db, sweep="s"), new_run(db)
    finish_run(db, first, "failed", {})
    assert [run.id for run in list_runs(db)] == [second, first]
    assert [run.id for run in list_runs(db, limit=1)] == [second]
    assert [run.id for run in list_runs(db, status="failed")] == [first]
    assert [run.id for run in list_runs(db, sweep="s")] == [first]


# --- steps ----------------------------------------------------------------------------------------------------------


def test_a_step_comes_back_as_it_was(db: Database, run: str, attempt) -> None:
    made = [attempt(run, 1, g, s, verdict) for g in (0, 1) for s, verdict in enumerate(Verdict)]
    record_step(db, run, StepRecord(1, "first", made, metrics={"reward": 0.25, "kl": math.nan}))
    assert attempts_of(db, run) == sorted(made, key=lambda a: a.id)
    assert [(s.step, s.phase, s.metrics) for s in steps_of(db, run)] == [(1, "first", {"reward": 0.25, "kl": None})]


def test_filtering_attempts(db: Database, run: str, attempt) -> None:
    for step in (0, 1):
        made = [attempt(run, step, 0, s, verdict) for s, verdict in enumerate(Verdict)]
        record_step(db, run, StepRecord(step, "first", made))
    assert len(attempts_of(db, run, step=1)) == len(Verdict)
    found = attempts_of(db, run, step=1, verdict=["wrong", "unparsable"])
    assert {a.grade.verdict for a in found} == {Verdict.WRONG, Verdict.UNPARSABLE}
    assert attempts_of(db, "other") == []


def test_attempts_come_in_numeric_steps(db: Database, run: str, attempt) -> None:
    for step in (10, 9, 11):
        record_step(db, run, StepRecord(step, "first", [attempt(run, step)]))
    assert [a.id.split(":")[1] for a in attempts_of(db, run)] == ["9", "10", "11"]


def test_decisions_and_models_are_stored(db: Database, run: str, attempt) -> None:
    made = [attempt(run, 0, 0, s) for s in range(3)]
    decisions = {made[0].id: "kept", made[1].id: "low_variance"}
    record_step(db, run, StepRecord(0, "first", made, decisions, "p", models={made[2].id: "other"}))
    with db.read() as connection:
        rows = connection.execute(select(ATTEMPT.c.decision, ATTEMPT.c.model).order_by(ATTEMPT.c.id)).all()
    assert rows == [("kept", "tiny"), ("low_variance", "tiny"), (None, "other")]
    assert [entry.attempt_id for entry in living_entries(db, "p")] == [made[0].id]


def test_a_step_is_never_written_twice_nor_in_part(db: Database, run: str, attempt) -> None:
    record_step(db, run, StepRecord(0, "first", [attempt(run, 0, 0)]))
    before = dump(db)
    with pytest.raises(RunError, match="Cannot record step 0"):
        record_step(db, run, StepRecord(0, "first", [attempt(run, 5, 5)]))
    fresh, known = attempt(run, 1, 6), attempt(run, 0, 0)
    with pytest.raises(RunError, match="Cannot record step 1"):
        record_step(db, run, StepRecord(1, "first", [fresh, known], {fresh.id: "kept"}, "p"))
    assert dump(db) == before


def test_a_kept_attempt_needs_a_pool(db: Database, run: str, attempt) -> None:
    with pytest.raises(ValueError, match="needs a pool"):
        record_step(db, run, StepRecord(0, "first", [attempt(run)], {attempt(run).id: "kept"}))


def test_only_recorded_attempts_enter_the_pool(db: Database, run: str) -> None:
    with pytest.raises(RunError):
        record_step(db, run, StepRecord(0, "first", [], {"nobody": "kept"}, "p"))
    assert steps_of(db, run) == []


def test_a_problem_that_changed_is_refused(db: Database, run: str, attempt) -> None:
    record_step(db, run, StepRecord(0, "first", [attempt(run, 0, 3)]))
    old = attempt(run, 1, 3)
    changed = Attempt(old.id, Problem("3", "tiny", "What is 4?", "4"), old.completion, old.grade)
    with pytest.raises(UserError, match="Problem '3' of 'tiny' has another text or answer"):
        record_step(db, run, StepRecord(1, "first", [changed]))
    assert len(attempts_of(db, run)) == 1


def test_more_problems_than_one_query_takes(db: Database, run: str, attempt) -> None:
    made = [attempt(run, 0, g) for g in range(1203)]
    record_step(db, run, StepRecord(0, "first", made))
    record_step(db, run, StepRecord(1, "first", [attempt(run, 1, g) for g in range(1203)]))
    assert len(attempts_of(db, run)) == 2406


def test_text_that_no_database_takes(db: Database, run: str, attempt) -> None:
    made = [attempt(run, 0, 0, 0, text="nul \0 and half of a pair \ud83d"), attempt(run, 0, 0, 1, extracted="\0")]
    record_step(db, run, StepRecord(0, "first", made))
    assert [a.completion.text for a in attempts_of(db, run)] == ["nul \ufffd and half of a pair ?", "it is 7"]


IDS = st.lists(st.integers(0, 2**32 - 1), max_size=20)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=IDS,
    ids=IDS,
    logprobs=st.lists(st.floats(max_value=0, width=32), max_size=20),
    text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)
def test_any_completion_comes_back(prompt: list[int], ids: list[int], logprobs: list[float], text: str) -> None:
    completion = Completion(prompt, ids, logprobs, text, FinishReason.LENGTH, 7)
    problem = Problem("1", "s", text, text, {"tests": ["assert f(1) == 2"], "depth": {"x": None}})
    made = Attempt("a", problem, completion, Grade(Verdict.TIMEOUT, None, text, "g"), CORRECTION, 2, 5, "parent")
    row = attempt_row(made) | {"problem_text": text, "answer": text, "meta_json": json_text(problem.meta)}
    assert read_attempt(row) == made


# --- evaluations ----------------------------------------------------------------------------------------------------


def test_evaluations(db: Database, run: str, attempt) -> None:
    metrics = {"avg": 0.5, "ci95": [0.4, 0.6], "pass_at": {1: 0.5}}
    record_evaluation(db, run, 10, "math500", metrics, [attempt(run, 10)])
    record_evaluation(db, run, 0, "math500", metrics, [attempt(run, 0)])
    found = evaluations_of(db, run)
    assert [(e.step, e.benchmark) for e in found] == [(0, "math500"), (10, "math500")]
    assert found[0].metrics == {"avg": 0.5, "ci95": [0.4, 0.6], "pass_at": {"1": 0.5}}
    assert len(attempts_of(db, run, phase="eval:math500", step=10)) == 1
    with pytest.raises(RunError, match="Cannot record step 10"):
        record_evaluation(db, run, 10, "math500", metrics, [])


# --- the pool -------------------------------------------------------------------------------------------------------


def fill(db: Database, run: str, attempt, step: int, groups: range, pool: str = "p") -> list[str]:
    made = [attempt(run, step, g) for g in groups]
    record_step(db, run, StepRecord(step, "first", made, {a.id: "kept" for a in made}, pool))
    return [a.id for a in made]


def test_entries_wait_in_order_and_know_their_problem(db: Database, run: str, attempt) -> None:
    late, early = fill(db, run, attempt, 10, range(2)), fill(db, run, attempt, 2, range(2))
    fill(db, run, attempt, 3, range(1), pool="other")
    entries = living_entries(db, "p")
    assert [entry.attempt_id for entry in entries] == early + late
    assert entries[0].problem == attempt(run, 2, 0).problem
    assert (entries[0].response, entries[0].extracted, entries[0].added_step) == ("it is 7", "7", 2)
    assert living_entries(db, "nothing") == []


def test_uses_and_repairs_are_counts_of_children(db: Database, run: str, attempt) -> None:
    ids = fill(db, run, attempt, 0, range(2))
    tries = [("correct", 0), ("wrong", 1), ("correct", 2)]
    children = [attempt(run, 1, 9, s, verdict, parent=ids[1], kind=CORRECTION) for verdict, s in tries]
    record_step(db, run, StepRecord(1, "reflection", children, {}, "p"))
    again = [attempt(run, 2, 9, 0, "correct", parent=ids[1], kind=CORRECTION)]
    record_step(db, run, StepRecord(2, "reflection", again, {}, "p"))
    assert [(entry.uses, entry.repairs) for entry in living_entries(db, "p")] == [(0, 0), (4, 3)]
    assert [(entry.uses, entry.repairs) for entry in living_entries(db, "p", now_step=1)] == [(0, 0), (3, 2)]


def test_retired_entries_do_not_wait_and_the_past_can_be_seen(db: Database, run: str, attempt) -> None:
    ids = fill(db, run, attempt, 0, range(3))
    record_step(db, run, StepRecord(2, "reflection", [], {}, "p", [(ids[0], "solved"), (ids[2], "too_old")]))
    assert [entry.attempt_id for entry in living_entries(db, "p")] == [ids[1]]
    assert [entry.attempt_id for entry in living_entries(db, "p", now_step=1)] == ids
    assert living_entries(db, "p", now_step=-1) == []


def test_an_entry_is_retired_once(db: Database, run: str, attempt) -> None:
    (entry,) = fill(db, run, attempt, 0, range(1))
    record_step(db, run, StepRecord(1, "reflection", [], {}, "p", [(entry, "solved")]))
    record_step(db, run, StepRecord(2, "reflection", [], {}, "p", [(entry, "too_old")]))
    with db.read() as connection:
        assert connection.execute(select(POOL_ENTRY.c.retired_step, POOL_ENTRY.c.retired_reason)).one() == (1, "solved")


# --- rewinding ------------------------------------------------------------------------------------------------------


def play(db: Database, run: str, attempt, step: int) -> None:
    """A step that adds entries, uses old ones and retires one; and now and then an evaluation."""
    before = [entry.attempt_id for entry in living_entries(db, "p")]
    firsts = [attempt(run, step, g) for g in range(3)]
    children = [attempt(run, step, 9, s, "correct", parent=p, kind=CORRECTION) for s, p in enumerate(before[:2])]
    decisions = {a.id: "kept" for a in firsts}
    record = StepRecord(
        step, "both", firsts + children, decisions, "p", [(p, "solved") for p in before[:1]], {"x": step}
    )
    record_step(db, run, record)
    if step % 2 == 0:
        answers = [Attempt(f"{run}:{step}:tiny:0", firsts[0].problem, firsts[0].completion, firsts[0].grade)]
        record_evaluation(db, run, step, "tiny", {"avg": step / 10}, answers)


@pytest.mark.parametrize("kept", range(-1, 6))
def test_a_resumed_run_leaves_the_rows_of_an_undisturbed_one(
    db: Database, tmp_path: Path, attempt, kept: int, new_run
) -> None:
    for place in (other := Database.open(str(tmp_path / "undisturbed.db")), db):
        new_run(place, run_id="bystander")
        play(place, "bystander", attempt, 0)
        new_run(place, run_id="run")
        for step in range(6):
            play(place, "run", attempt, step)
    rewind(db, "run", kept)
    assert all(s.step <= kept for s in steps_of(db, "run"))
    for step in range(kept + 1, 6):
        play(db, "run", attempt, step)
    assert dump(db) == dump(other)
    other.dispose()


def test_rewinding_brings_back_what_the_run_retired_of_others(db: Database, attempt, new_run) -> None:
    collect, train = new_run(db, command="collect"), new_run(db)
    ids = fill(db, collect, attempt, 0, range(2))
    record_step(db, train, StepRecord(3, "reflection", [], {}, "p", [(ids[0], "solved")]))
    finish_run(db, train, "interrupted", {})
    rewind(db, train, 2)
    assert [entry.attempt_id for entry in living_entries(db, "p")] == ids
    row = resolve_run(db, train)
    assert (row.status, row.finished_at) == ("running", None)
    with db.read() as connection:
        assert connection.scalars(select(POOL_ENTRY.c.retired_run_id)).all() == [None, None]
        assert connection.scalar(select(RUN.c.status).where(RUN.c.id == collect)) == "running"


def test_the_file_is_readable_without_the_program(tmp_path: Path, attempt, new_run) -> None:
    """The schema is public: what docs/database.md says about blobs holds for plain sqlite3 and numpy."""
    with Database.open(str(tmp_path / "scrpo.db")) as db:
        run = new_run(db)
        record_step(db, run, StepRecord(0, "first", [attempt(run)]))
    row = sqlite3.connect(tmp_path / "scrpo.db").execute("SELECT ids, logprobs, n_tokens FROM attempt").fetchone()
    planes = [np.frombuffer(zlib.decompress(blob), np.uint8).reshape(4, row[2]) for blob in row[:2]]
    assert planes[0].T.tobytes() == np.array([4, 4_000_000_000], dtype="<u4").tobytes()
    assert planes[1].T.tobytes() == np.array([-0.5, -0.25], dtype="<f4").tobytes()
    assert row[2] == 2


def test_injected_errors_keep_their_kind_and_are_no_data_for_other_methods(db: Database, run: str, attempt) -> None:
    own, injected = attempt(run, 1, 0), attempt(run, 1, 1)
    decisions, models = {own.id: "kept", injected.id: "kept"}, {injected.id: "injected:off_by_one"}
    record_step(db, run, StepRecord(1, "first", [own, injected], decisions, "p", models=models))
    assert [entry.injected for entry in living_entries(db, "p")] == ["", "off_by_one"]
    assert [a.id for a in attempts_of(db, run)] == [own.id, injected.id]
    assert [a.id for a in attempts_of(db, run, evaluations=False)] == [own.id]
