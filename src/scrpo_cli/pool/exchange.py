"""Pools as files: the interchange JSONL (`id`, `problem`, `answer`, `response`, `sample`, `turn`, `model`) with the
fields of a pool entry behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import Connection, insert, select

from scrpo_cli.errors import UserError
from scrpo_cli.files import name_of, read_rows, write_lines
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.entries import Entry, known_pool, read_entry
from scrpo_cli.pool.models import ATTEMPT, POOL_ENTRY, RUN
from scrpo_cli.pool.queries import (
    CHUNK,
    OLDEST_FIRST,
    insert_problems,
    new_run,
    refuse_changed,
    select_entries,
    utc_now,
)
from scrpo_cli.pool.records import TOKEN_COLUMNS, attempt_row, json_text
from scrpo_cli.types import Attempt, Completion, Grade, Problem, Verdict

REFUSED = (
    "Nothing was imported. Mend the line (`scrpo pool export` writes such files; answers without a verdict go through "
    "`scrpo collect --from-jsonl`)."
)
LIFE = {"pool", "attempt_id", "added_step", "retired_step", "retired_reason"}
"""Columns of a pool entry that a file has."""


def export_pool(db: Database, path: Path, pool: str | None = None, *, alive: bool = False, tokens: bool = False) -> int:
    """Write entries to `path`, one JSON object a line, and say how many; with token ids and log-probs on demand.

    The file appears whole or not at all.
    """
    return write_lines(path, (e.model_dump_json(exclude_none=True) for e in _exported(db, pool, alive, tokens)))


def _exported(db: Database, pool: str | None, alive: bool, tokens: bool) -> Iterator[Entry]:
    query = select_entries().order_by(*OLDEST_FIRST)
    if pool is not None:
        query = query.where(POOL_ENTRY.c.pool == known_pool(db, pool))
    if alive:
        query = query.where(POOL_ENTRY.c.retired_step.is_(None))
    if tokens:
        query = query.add_columns(ATTEMPT.c.packed, *(ATTEMPT.c[column] for column in TOKEN_COLUMNS))
    with db.read() as connection:
        for row in connection.execution_options(yield_per=CHUNK).execute(query).mappings():
            yield read_entry(dict(row))


@dataclass(frozen=True)
class Imported:
    """Rows of the file, and how many attempts and pool entries were new."""

    rows: int
    attempts: int
    entries: int
    run_id: str | None


def import_pool(db: Database, path: Path, pool: str | None = None) -> Imported:
    """Read a file of `export_pool` into the database, into `pool` if one is named: the whole file or nothing.

    What is there already stays as it is, so a second import changes nothing; what is new belongs to a run of its own
    (command `pool import`). `uses` and `repairs` are not read: they are counts of attempts, which stay where they were
    made. Errors: UserError with the line.
    """
    rows = list(read_entries(path, pool))
    if not rows:
        raise UserError("The file has no entries", name_of(path), "Write it with `scrpo pool export`.")
    attempts = {entry.attempt_id: to_attempt(entry) for _, entry in rows}
    refuse_changed(db, [(where, attempts[entry.attempt_id].problem) for where, entry in rows])
    run = new_run(command="pool import", recipe=None, directory=str(path.resolve().parent), model="")
    with db.write() as connection:
        stored = _stored_attempts(connection, list(attempts))
        for where, entry in rows:
            if stored.get(entry.attempt_id, (entry.response, entry.verdict)) != (entry.response, entry.verdict):
                raise UserError(f"Attempt '{entry.attempt_id}' has another text or verdict here", where, REFUSED)
        insert_problems(db, connection, [attempt.problem for attempt in attempts.values()])
        fresh = [entry for _, entry in rows if entry.attempt_id not in stored]
        there = _stored_entries(connection, list(attempts))
        added = [entry for _, entry in rows if (entry.pool, entry.attempt_id) not in there]
        imported = Imported(
            len(rows), len({entry.attempt_id for entry in fresh}), len(added), run.id if added else None
        )
        if added:
            summary = json_text({"file": path.name, "attempts": imported.attempts, "entries": imported.entries})
            values = {"status": "done", "finished_at": utc_now(), "summary_json": summary}
            connection.execute(insert(RUN), run.model_dump() | values)
            db.insert_new(connection, ATTEMPT, [_attempt_columns(e, attempts[e.attempt_id], run.id) for e in fresh])
            connection.execute(
                insert(POOL_ENTRY),
                [e.model_dump(include=LIFE) | {"run_id": run.id, "retired_run_id": None} for e in added],
            )
    return imported


def read_entries(path: Path, pool: str | None = None) -> Iterator[tuple[str, Entry]]:
    """(`file:line`, entry) of every line that is not blank; UserError for the first bad one."""
    seen: dict[tuple[str, str], str] = {}
    for row, where in read_rows(path, REFUSED):
        try:
            entry = Entry.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise UserError(f"Field '{field}': {first['msg']}", where, REFUSED) from None
        if entry.verdict is Verdict.CORRECT:
            raise UserError("Field 'verdict': a pool holds errors and this answer is correct", where, REFUSED)
        entry = entry.model_copy(update={"pool": pool or entry.pool})
        if other := seen.get((entry.pool, entry.attempt_id)):
            raise UserError(
                f"Attempt '{entry.attempt_id}' is in pool '{entry.pool}' twice (see {other})", where, REFUSED
            )
        seen[entry.pool, entry.attempt_id] = where
        yield where, entry


def to_attempt(entry: Entry) -> Attempt:
    return Attempt(
        id=entry.attempt_id,
        problem=Problem(entry.id, entry.source, entry.problem, entry.answer, entry.meta),
        completion=Completion(
            prompt_ids=entry.prompt_ids or [],
            ids=entry.ids or [],
            logprobs=entry.logprobs or [],
            text=entry.response,
            finish=entry.finish,
            policy_version=entry.policy_version,
        ),
        grade=Grade(entry.verdict, entry.extracted, entry.reason, entry.grader),
        kind=entry.kind,
        turn=entry.turn,
        sample=entry.sample,
        parent=entry.parent,
        part=entry.part,
        group=entry.group_index,
        round=entry.round,
    )


def _stored_attempts(connection: Connection, ids: list[str]) -> dict[str, tuple[str, str]]:
    """Text and verdict of those of `ids` that are in the database."""
    stored: dict[str, tuple[str, str]] = {}
    for start in range(0, len(ids), CHUNK):
        chunk = ATTEMPT.c.id.in_(ids[start : start + CHUNK])
        rows = connection.execute(select(ATTEMPT.c.id, ATTEMPT.c.text, ATTEMPT.c.verdict).where(chunk))
        stored |= {attempt_id: (text, verdict) for attempt_id, text, verdict in rows}
    return stored


def _stored_entries(connection: Connection, ids: list[str]) -> set[tuple[str, str]]:
    """(pool, attempt id) of the entries of those of `ids` that are pooled."""
    query = select(POOL_ENTRY.c.pool, POOL_ENTRY.c.attempt_id)
    chunks = (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))
    return {
        tuple(row) for chunk in chunks for row in connection.execute(query.where(POOL_ENTRY.c.attempt_id.in_(chunk)))
    }


def _attempt_columns(entry: Entry, attempt: Attempt, run_id: str) -> dict:
    own = {"run_id": run_id, "step": entry.step, "phase": entry.phase, "model": entry.model}
    return attempt_row(attempt) | own | {"decision": entry.decision}
