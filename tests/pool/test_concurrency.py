"""Many processes, one file."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sqlalchemy import func, select, text

from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import ATTEMPT, POOL_ENTRY, PROBLEM
from scrpo_cli.pool.queries import living_entries, record_step, start_run
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.types import Attempt, Completion, FinishReason, Grade, Problem, Verdict

PROCESSES, STEPS, ATTEMPTS = 8, 100, 10
COMPLETION = Completion(range(20), range(100), [-0.5] * 100, "it is 7", FinishReason.STOP)


def write(path: str, worker: int) -> int:
    """A run of STEPS steps with ATTEMPTS attempts each; all workers share their problems and their pool."""
    with Database.open(path) as db:
        run = start_run(db, command="train", recipe=Recipe(), directory="d", model="tiny", run_id=f"run{worker}")
        for step in range(STEPS):
            problems = [Problem(str((step * 7 + i) % 300), "tiny", "1+1", "2") for i in range(ATTEMPTS)]
            grade = Grade(Verdict.WRONG, "7", None, "g")
            made = [Attempt(f"{run}:{step}:{i}:0", p, COMPLETION, grade) for i, p in enumerate(problems)]
            record_step(db, run, StepRecord(step, "first", made, {made[0].id: "kept"}, "shared"))
    return STEPS * ATTEMPTS


def test_eight_processes_write_a_hundred_steps_each_into_one_new_file(tmp_path: Path) -> None:
    path = str(tmp_path / "scrpo.db")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as workers:
        written = list(workers.map(write, [path] * PROCESSES, range(PROCESSES)))
    assert sum(written) == PROCESSES * STEPS * ATTEMPTS
    with Database.open(path) as db, db.read() as connection:
        assert connection.scalar(select(func.count()).select_from(ATTEMPT)) == PROCESSES * STEPS * ATTEMPTS
        assert connection.scalar(select(func.count()).select_from(PROBLEM)) == 300
        assert connection.scalar(select(func.count()).select_from(POOL_ENTRY)) == PROCESSES * STEPS
        assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
        assert len(living_entries(db, "shared")) == PROCESSES * STEPS
