"""The writes and reads that everybody uses: runs, steps, the pool as a method sees it, evaluations."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from scrpo_cli.errors import RunError, UserError, nearest
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import ATTEMPT, EVALUATION, POOL_ENTRY, PROBLEM, RETIREMENT, RUN, STEP, RunRow
from scrpo_cli.pool.records import (
    IS_INJECTED,
    TOKEN_COLUMNS,
    StepRecord,
    attempt_row,
    json_text,
    problem_row,
    read_attempt,
    read_pool_entry,
)
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.types import KEPT, Attempt, PoolEntry, Problem, Verdict

RUN_STATUSES = ("running", "done", "failed", "interrupted")
SUFFIX_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # none that are mistaken for another
CHUNK = 500  # values in one IN list
EVALUATED = "eval:"
"""Begins the phase of the answers of an evaluation."""

NOT_LISTED = {"id", "run_id", "packed", *TOKEN_COLUMNS}
"""Columns of an attempt that `select_entries` leaves out."""
PROBLEM_COLUMNS = (PROBLEM.c.text.label("problem_text"), PROBLEM.c.answer, PROBLEM.c.meta_json)
OLDEST_FIRST = (POOL_ENTRY.c.added_step, POOL_ENTRY.c.attempt_id, POOL_ENTRY.c.pool)
ATTEMPT_OF_PROBLEM = (ATTEMPT.c.problem_source == PROBLEM.c.source) & (ATTEMPT.c.problem_id == PROBLEM.c.id)


# --- runs ---------------------------------------------------------------------------------------------------------


def start_run(
    db: Database,
    *,
    command: str,
    recipe: Recipe,
    directory: str,
    model: str,
    run_id: str | None = None,
    sweep: str | None = None,
    arm: str | None = None,
    summary: Mapping[str, Any] | None = None,
    external: bool = False,
) -> str:
    """Add a run with status `running`; its id begins with the UTC time, so ids sort by age. `summary`: what is known
    from the start. `external`: no model of the recipe's answers, and the recipe is stored without one.
    """
    row = new_run(command=command, recipe=recipe, directory=directory, model=model, sweep=sweep, arm=arm)
    row.id = run_id or row.id
    if external:
        row.recipe_json = recipe.model_dump_json(exclude={"model"})
    row.summary_json = json_text(summary or {})
    try:
        with db.write() as connection:
            connection.execute(insert(RUN), row.model_dump())
    except IntegrityError:
        raise UserError(f"There is a run '{row.id}' already", db.where, "Choose another id, or resume it.") from None
    return row.id


def new_run(
    *,
    command: str,
    recipe: Recipe | None,
    directory: str,
    model: str,
    sweep: str | None = None,
    arm: str | None = None,
) -> RunRow:
    """A run that begins now under the code as it is now. `recipe` is none for commands without one."""
    return RunRow(
        id=new_run_id(),
        command=command,
        status="running",
        recipe_name=recipe.name if recipe else "",
        recipe_json=recipe.model_dump_json() if recipe else "{}",
        seed=recipe.seed if recipe else 0,
        directory=directory,
        model=model,
        scrpo_version=version("scrpo-cli"),
        git_commit=git_commit(),
        created_at=utc_now(),
        sweep=sweep,
        arm=arm,
    )


def finish_run(db: Database, run_id: str, status: str, summary: Mapping[str, Any]) -> None:
    """Close a run: `status` is done, failed or interrupted."""
    if status not in RUN_STATUSES:
        raise ValueError(f"status {status!r} is none of {RUN_STATUSES}")
    values = {"status": status, "summary_json": json_text(summary), "finished_at": utc_now()}
    with db.write() as connection:
        connection.execute(update(RUN).where(RUN.c.id == run_id).values(values))


def forget_run(db: Database, run_id: str) -> bool:
    """Drop the row of a run that has recorded nothing; whether there was one."""
    recorded = [
        select(t.c.run_id).where(t.c.run_id == run_id).exists() for t in (STEP, ATTEMPT, EVALUATION, POOL_ENTRY)
    ]
    with db.write() as connection:
        return connection.execute(delete(RUN).where(RUN.c.id == run_id, ~or_(*recorded))).rowcount > 0


def note_run(db: Database, run_id: str, summary: Mapping[str, Any]) -> None:
    """Store what is known of a run that goes on."""
    with db.write() as connection:
        connection.execute(update(RUN).where(RUN.c.id == run_id).values(summary_json=json_text(summary)))


def reopen_run(db: Database, run: RunRow) -> None:
    """Mark a run that is taken up again as running, and store where it lies now."""
    places = {"directory": run.directory, "recipe_json": run.recipe_json, "summary_json": run.summary_json}
    with db.write() as connection:
        values = {"status": "running", "finished_at": None, **places}
        connection.execute(update(RUN).where(RUN.c.id == run.id).values(values))


def list_runs(
    db: Database, *, limit: int | None = None, status: str | None = None, sweep: str | None = None
) -> list[RunRow]:
    """Runs, newest first."""
    query = select(RUN).order_by(RUN.c.created_at.desc(), RUN.c.id.desc()).limit(limit)
    for column, value in ((RUN.c.status, status), (RUN.c.sweep, sweep)):
        query = query if value is None else query.where(column == value)
    with db.read() as connection:
        return [located(db, RunRow(**row)) for row in connection.execute(query).mappings()]


def located(db: Database, run: RunRow) -> RunRow:
    """`run` with its directory where it lies now, and so every other path into the place that the database was moved
    from: beside the database first, else where the row says.
    """
    stored = Path(run.directory)
    here = db.home.joinpath(*stored.parts[-2:])
    if len(stored.parts) < 3 or here == stored or not here.is_dir():
        return run
    run.directory = str(here)
    run.recipe_json = moved(run.recipe_json, stored.parents[1], db.home)
    run.summary_json = moved(run.summary_json, stored.parents[1], db.home)
    return run


def moved(text: str, old: Path, new: Path) -> str:
    """A JSON document in which each path into `old` that is there under `new` leads to `new`."""

    def place(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: place(each) for key, each in value.items()}
        if isinstance(value, list):
            return [place(each) for each in value]
        if isinstance(value, str) and value.startswith(f"{old}{os.sep}"):
            there = new / Path(value).relative_to(old)
            return str(there) if there.exists() else value
        return value

    return json.dumps(place(json.loads(text))) if str(old) in text else text


def resolve_run(db: Database, ref: str, *, command: str | None = None) -> RunRow:
    """The run that `ref` names: an id, a unique prefix of one, or `last` (of `command`, if that is given)."""
    runs = [run for run in list_runs(db) if command in (None, run.command)]
    what = f"`scrpo {command}` runs" if command else "runs"
    if not runs:
        raise UserError(f"There are no {what} yet", db.where, "Name another database with --db, or start a run.")
    if ref == "last":
        return runs[0]
    found = [run for run in runs if run.id == ref] or [run for run in runs if run.id.startswith(ref)]
    if len(found) == 1:
        return found[0]
    if found:
        fix = f"Write more of it: {listing(run.id for run in found)}"
        raise UserError(f"'{ref}' begins the ids of {len(found)} {what}", db.where, fix)
    what = f"There is no `scrpo {command}` run '{ref}'" if command else f"There is no run '{ref}'"
    hint = nearest(ref, (run.id for run in runs)) or f"The newest is {runs[0].id}."
    raise UserError(what, db.where, f"{hint} `{db.command('runs', 'ls')}` lists them.")


def listing(names: Iterable[str], most: int = 4) -> str:
    """The first few of `names` for an error message."""
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def new_run_id() -> str:
    suffix = "".join(secrets.choice(SUFFIX_LETTERS) for _ in range(4))
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{suffix}"


def utc_now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def git_commit() -> str | None:
    """The commit of the checkout that this very file belongs to, `-dirty` if it differs; none when it is installed.

    Asking git about the file first keeps out the repository of a user whose virtual environment lies inside it.
    """
    ours = Path(__file__)
    git = ["git", "-C", str(ours.parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", ours.name], check=True, capture_output=True, timeout=10)
        describe = [*git, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
        return subprocess.run(describe, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


# --- steps --------------------------------------------------------------------------------------------------------


def record_step(db: Database, run_id: str, record: StepRecord) -> None:
    """Write one step whole, in one transaction: problems, attempts, pool entries, retirements, metrics.

    Errors: RunError if the step or an attempt of it is there already (a resumed run rewinds first); UserError if a
    problem is known by the same source and id with another text or answer.
    """
    kept = [attempt_id for attempt_id, decision in record.decisions.items() if decision == KEPT]
    if (kept or record.retired) and record.pool is None:
        raise ValueError("a record with kept or retired attempts needs a pool")
    entries = [{"pool": record.pool, "attempt_id": a, "run_id": run_id, "added_step": record.step} for a in kept]
    metrics = {"run_id": run_id, "step": record.step, "phase": record.phase, "metrics_json": json_text(record.metrics)}
    try:
        with db.write() as connection:
            insert_attempts(db, connection, run_id, record)
            if entries:
                connection.execute(insert(POOL_ENTRY), entries)
            _retire(connection, run_id, record)
            connection.execute(insert(STEP), metrics)
    except IntegrityError as error:
        raise _already_there(db, run_id, record.step, error) from error


def insert_attempts(db: Database, connection: Connection, run_id: str, record: StepRecord) -> None:
    """The problems (where new) and attempts of `record`."""
    insert_problems(db, connection, [attempt.problem for attempt in record.attempts])
    model = connection.scalar(select(RUN.c.model).where(RUN.c.id == run_id))
    rows = [
        attempt_row(attempt)
        | {
            "run_id": run_id,
            "step": record.step,
            "phase": record.phase,
            "model": record.models.get(attempt.id, model),
            "decision": record.decisions.get(attempt.id),
        }
        for attempt in record.attempts
    ]
    if rows:
        connection.execute(insert(ATTEMPT), rows)


def insert_problems(db: Database, connection: Connection, problems: Iterable[Problem]) -> None:
    """Store new problems; refuse one that is known by the same key with another text or answer."""
    rows = [problem_row(problem) for problem in {(p.source, p.id, p.text, p.answer): p for p in problems}.values()]
    db.insert_new(connection, PROBLEM, rows)
    stored = _stored_problems(connection, rows)
    changed = [key for row in rows if any(row[c] != stored[key := _key(row)][c] for c in ("text", "answer"))]
    if changed:
        source, problem_id = min(changed)
        fix = "Give the changed problem another id or source, or use another database."
        raise UserError(
            f"Problem '{problem_id}' of '{source}' has another text or answer in the database", db.where, fix
        )


def refuse_changed(db: Database, problems: Sequence[tuple[str, Problem]]) -> None:
    """UserError for the first of `problems`, each with the place that it is from, that says something else than another
    one of its source and id, before it or in the database: an answer to it would be held against the other's reference.
    """
    with db.read() as connection:
        stored = _stored_problems(connection, [problem_row(problem) for _, problem in problems])
    first: dict[tuple[str, str], tuple[str, Mapping[str, Any]]] = {}
    for where, problem in problems:
        row = problem_row(problem)
        key = _key(row)
        there, other = first.setdefault(key, (where, row))
        field = _difference(row, other)
        if not field and key in stored:
            there, field = db.where, _difference(row, stored[key], both=True)
        if field:
            what = f"Problem {shorten(problem.id, 60, placeholder='...')!r} has another `{field}` in {there}"
            raise UserError(what, where, "Give every problem its own id or `source`; the whole file is refused.")


def _stored_problems(
    connection: Connection, rows: Iterable[Mapping[str, Any]]
) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The rows that are stored of these problems, by source and id."""
    ids: dict[str, list[str]] = {}
    for source, problem_id in map(_key, rows):
        ids.setdefault(source, []).append(problem_id)
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for source, of_source in ids.items():
        for start in range(0, len(of_source), CHUNK):
            chunk = PROBLEM.c.id.in_(of_source[start : start + CHUNK])
            stored = connection.execute(select(PROBLEM).where(PROBLEM.c.source == source, chunk)).mappings()
            found |= {_key(row): row for row in map(dict, stored)}
    return found


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["source"], row["id"]


def _difference(row: Mapping[str, Any], other: Mapping[str, Any], *, both: bool = False) -> str:
    """In which field two rows of one problem differ, or nothing; `both`: of its meta, only in what both of them have,
    for a data set may tell more of its problems later.
    """
    for column, field in (("text", "problem"), ("answer", "answer")):
        if row[column] != other[column]:
            return field
    if row["meta_json"] == other["meta_json"]:
        return ""
    ours, theirs = json.loads(row["meta_json"]), json.loads(other["meta_json"])
    keys = ours.keys() & theirs.keys() if both else ours.keys() | theirs.keys()
    return next((f"meta.{key}" for key in sorted(keys) if ours.get(key) != theirs.get(key)), "")


def _retire(connection: Connection, run_id: str, record: StepRecord) -> None:
    if not record.retired:
        return
    entry = (POOL_ENTRY.c.pool == record.pool) & (POOL_ENTRY.c.attempt_id == bindparam("id"))
    statement = update(POOL_ENTRY).where(entry, POOL_ENTRY.c.retired_step.is_(None))
    statement = statement.values(retired_run_id=run_id, retired_step=record.step, retired_reason=bindparam("why"))
    connection.execute(statement, [{"id": attempt_id, "why": reason} for attempt_id, reason in record.retired])


def _already_there(db: Database, run_id: str, step: int, error: IntegrityError) -> RunError:
    reason = str(error.orig).strip().split("\n")[0]
    fix = "Nothing of this record was written. Is the run being written by two processes?"
    return RunError(f"Cannot record step {step} of run '{run_id}': {reason}", db.where, fix)


def rewind(db: Database, run_id: str, step: int) -> None:
    """Drop what `run_id` wrote beyond `step` and mark it running again: attempts, the pool entries that it added,
    metrics, evaluations; entries that it retired after `step` live again. -1 drops everything of the run.
    """
    dropped = select(ATTEMPT.c.id).where(ATTEMPT.c.run_id == run_id, ATTEMPT.c.step > step)
    added = (POOL_ENTRY.c.run_id == run_id) & (POOL_ENTRY.c.added_step > step)
    retired = (POOL_ENTRY.c.retired_run_id == run_id) & (POOL_ENTRY.c.retired_step > step)
    with db.write() as connection:
        connection.execute(delete(POOL_ENTRY).where(or_(added, POOL_ENTRY.c.attempt_id.in_(dropped))))
        connection.execute(update(POOL_ENTRY).where(retired).values(dict.fromkeys(RETIREMENT)))
        for table in (ATTEMPT, STEP, EVALUATION):
            connection.execute(delete(table).where(table.c.run_id == run_id, table.c.step > step))
        connection.execute(update(RUN).where(RUN.c.id == run_id).values(status="running", finished_at=None))


def attempts_of(db: Database, run_id: str, *, evaluations: bool = True, **filters: Any) -> list[Attempt]:
    """Attempts of a run ordered by (step, id), where the columns named in `filters` equal a value or one of a list:
    `attempts_of(db, run, phase="first", verdict=["wrong", "unparsable"])`. Answers to benchmarks can be left out,
    and injected errors with them.
    """
    query = select(ATTEMPT, *PROBLEM_COLUMNS).join_from(ATTEMPT, PROBLEM, ATTEMPT_OF_PROBLEM)
    query = query.where(ATTEMPT.c.run_id == run_id, *(_matches(name, value) for name, value in filters.items()))
    if not evaluations:
        query = query.where(ATTEMPT.c.phase.not_like(f"{EVALUATED}%"), ~IS_INJECTED)
    with db.read() as connection:
        rows = connection.execute(query).mappings().all()
    rows = sorted(rows, key=lambda row: (row["step"], row["id"]))  # not by the server's collation
    return [read_attempt(dict(row)) for row in rows]


def decisions_of(db: Database, run_id: str) -> dict[str, int]:
    """How many wrong attempts of a run the filter gave each decision, most frequent first, ties by name."""
    query = select(ATTEMPT.c.decision, func.count()).where(ATTEMPT.c.run_id == run_id, ATTEMPT.c.decision.is_not(None))
    with db.read() as connection:
        rows = connection.execute(query.group_by(ATTEMPT.c.decision)).all()
    return {str(decision): int(n) for decision, n in sorted(rows, key=lambda row: (-row[1], row[0]))}


def phases_of(db: Database, run_id: str) -> list[str]:
    """The phases of a run's attempts, sorted."""
    with db.read() as connection:
        rows = connection.execute(select(ATTEMPT.c.phase).where(ATTEMPT.c.run_id == run_id).distinct())
        return sorted(row[0] for row in rows)


def problems_of(db: Database, run_id: str, phase: str) -> set[tuple[str, str]]:
    """(source, id) of the problems that a run answered in a phase."""
    query = select(ATTEMPT.c.problem_source, ATTEMPT.c.problem_id).distinct()
    with db.read() as connection:
        rows = connection.execute(query.where(ATTEMPT.c.run_id == run_id, ATTEMPT.c.phase == phase))
        return {(row[0], row[1]) for row in rows}


def attempts_by_id(db: Database, ids: Sequence[str]) -> dict[str, Attempt]:
    """Attempts of any run; an id that is not there is left out."""
    found: dict[str, Attempt] = {}
    query = select(ATTEMPT, *PROBLEM_COLUMNS).join_from(ATTEMPT, PROBLEM, ATTEMPT_OF_PROBLEM)
    with db.read() as connection:
        for start in range(0, len(ids), CHUNK):
            rows = connection.execute(query.where(ATTEMPT.c.id.in_(ids[start : start + CHUNK]))).mappings()
            found |= {row["id"]: read_attempt(dict(row)) for row in rows}
    return found


def _matches(name: str, value: Any) -> Any:
    column = ATTEMPT.c[name]
    return column.in_(value) if isinstance(value, list | tuple | set) else column == value


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of one recorded step; null where one was not a finite number."""

    step: int
    phase: str
    metrics: dict[str, float | None]


def steps_of(db: Database, run_id: str) -> list[StepMetrics]:
    """Steps of a run with their metrics, in order."""
    query = select(STEP).where(STEP.c.run_id == run_id).order_by(STEP.c.step, STEP.c.phase)
    with db.read() as connection:
        rows = connection.execute(query).mappings().all()
    return [StepMetrics(row["step"], row["phase"], json.loads(row["metrics_json"])) for row in rows]


def seconds_of(steps: Iterable[StepMetrics]) -> float:
    """That so many steps have taken, evaluations aside."""
    return sum(step.metrics.get("seconds/step") or 0.0 for step in steps)


def tokens_of_steps(db: Database, run_id: str) -> dict[int, int]:
    """How many tokens the attempts of each step of a run have, without evaluations and what nobody sampled."""
    sampled = (ATTEMPT.c.run_id == run_id, ATTEMPT.c.phase.not_like(f"{EVALUATED}%"), ~IS_INJECTED)
    query = select(ATTEMPT.c.step, func.sum(ATTEMPT.c.n_tokens)).where(*sampled).group_by(ATTEMPT.c.step)
    with db.read() as connection:
        return {step: int(tokens) for step, tokens in connection.execute(query)}


# --- evaluations --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredEvaluation:
    """What was scored on `benchmark` after `step` steps; `label` tells a training run's own evaluations apart."""

    step: int
    benchmark: str
    metrics: dict[str, Any]
    label: str = ""

    @property
    def name(self) -> str:
        """`benchmark`, or `benchmark:label`."""
        return f"{self.benchmark}:{self.label}" if self.label else self.benchmark

    @property
    def phase(self) -> str:
        """Of its answers."""
        return f"{EVALUATED}{self.name}"


def record_evaluation(
    db: Database,
    run_id: str,
    step: int,
    benchmark: str,
    metrics: Mapping[str, Any],
    attempts: Sequence[Attempt],
    label: str = "",
    models: Mapping[str, str] | None = None,
) -> None:
    """Write one evaluation with its answers in one transaction; `models` as in StepRecord. Errors as in record_step."""
    stored = StoredEvaluation(step, benchmark, {}, label)
    record = StepRecord(step=step, phase=stored.phase, attempts=attempts, models=models or {})
    row = {"run_id": run_id, "step": step, "benchmark": benchmark, "label": label, "metrics_json": json_text(metrics)}
    try:
        with db.write() as connection:
            insert_attempts(db, connection, run_id, record)
            connection.execute(insert(EVALUATION), row)
    except IntegrityError as error:
        raise _already_there(db, run_id, step, error) from error


def record_answers(db: Database, run_id: str, step: int, benchmark: str, attempts: Sequence[Attempt]) -> None:
    """Write some answers to a benchmark in one transaction, ahead of its numbers (`record_evaluation` without any)."""
    try:
        with db.write() as connection:
            insert_attempts(db, connection, run_id, StepRecord(step, f"{EVALUATED}{benchmark}", attempts))
    except IntegrityError as error:
        raise _already_there(db, run_id, step, error) from error


def evaluations_of(db: Database, run_id: str) -> list[StoredEvaluation]:
    """Evaluations of a run ordered by (benchmark, step, label)."""
    order = (EVALUATION.c.benchmark, EVALUATION.c.step, EVALUATION.c.label)
    query = select(EVALUATION).where(EVALUATION.c.run_id == run_id).order_by(*order)
    with db.read() as connection:
        rows = connection.execute(query).mappings().all()
    return [
        StoredEvaluation(row["step"], row["benchmark"], json.loads(row["metrics_json"]), row["label"]) for row in rows
    ]


# --- the pool -----------------------------------------------------------------------------------------------------


def living_entries(db: Database, pool: str, now_step: int | None = None, limit: int | None = None) -> list[PoolEntry]:
    """The entries of `pool` that are alive, ordered by (added_step, attempt_id); the first `limit` of them.

    With `now_step`: as the pool stood once that step had been recorded.
    """
    alive: ColumnElement[bool] = POOL_ENTRY.c.retired_step.is_(None)
    if now_step is not None:
        alive = (POOL_ENTRY.c.added_step <= now_step) & or_(alive, POOL_ENTRY.c.retired_step > now_step)
    query = select_entries(now_step).add_columns(ATTEMPT.c.logprobs, ATTEMPT.c.packed)
    with db.read() as connection:
        keys = select(POOL_ENTRY.c.added_step, POOL_ENTRY.c.attempt_id).where(POOL_ENTRY.c.pool == pool, alive)
        ids = [key[1] for key in sorted(connection.execute(keys).tuples())][:limit]  # not by the server's collation
        found: dict[str, PoolEntry] = {}
        for start in range(0, len(ids), CHUNK):
            chosen = query.where(POOL_ENTRY.c.pool == pool, POOL_ENTRY.c.attempt_id.in_(ids[start : start + CHUNK]))
            found |= {row["attempt_id"]: read_pool_entry(dict(row)) for row in connection.execute(chosen).mappings()}
    return [found[each] for each in ids]


def select_entries(now_step: int | None = None) -> Select:
    """Pool entries with their attempt's and problem's columns, `uses` and `repairs`: of the attempts that have the
    entry's as parent, how many there are, and how many of them are correct.
    """
    child = ATTEMPT.alias("child")
    answers = [child.c.verdict != Verdict.UNGRADED.value]  # what a gate asks about an error does not use it
    answers += [] if now_step is None else [child.c.step <= now_step]
    uses = select(func.count()).where(child.c.parent_id == POOL_ENTRY.c.attempt_id, *answers).correlate(POOL_ENTRY)
    repairs = uses.where(child.c.verdict == Verdict.CORRECT.value)
    counts = (query.scalar_subquery().label(name) for name, query in (("uses", uses), ("repairs", repairs)))
    columns = [column for column in ATTEMPT.c if column.name not in NOT_LISTED]
    joined = POOL_ENTRY.join(ATTEMPT, ATTEMPT.c.id == POOL_ENTRY.c.attempt_id).join(PROBLEM, ATTEMPT_OF_PROBLEM)
    return select(*POOL_ENTRY.c, *columns, *PROBLEM_COLUMNS, *counts).select_from(joined)
