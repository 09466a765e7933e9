"""Pool entries for people: listing, finding one with all that was tried on it, and pruning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, Connection, delete, false, func, or_, select, tuple_, update

from scrpo_cli.errors import UserError, nearest
from scrpo_cli.numbers import LARGEST
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import ATTEMPT, POOL_ENTRY, PROBLEM
from scrpo_cli.pool.queries import OLDEST_FIRST, listing, select_entries
from scrpo_cli.pool.records import TOKEN_COLUMNS, injected_kind, unpack
from scrpo_cli.types import AttemptKind, FinishReason, Verdict

PRUNED = "pruned"
"""Why an entry was retired that a person pruned."""
Whole = Annotated[int, Field(strict=True, ge=0, le=LARGEST)]
Token = Annotated[int, Field(strict=True, ge=0, lt=2**32)]


class Entry(BaseModel):
    """A pool entry in the names of the interchange JSONL (the first seven fields) and its life in the pool."""

    model_config = ConfigDict(strict=False, use_attribute_docstrings=True)

    id: str
    """Of the problem, unique inside `source`."""
    problem: str
    answer: str
    response: str
    sample: Whole = 0
    turn: Whole = 1
    model: str = ""
    source: str
    meta: dict[str, Any] = {}
    attempt_id: str
    step: Whole = 0
    phase: str = "import"
    kind: AttemptKind = AttemptKind.FIRST
    parent: str | None = None
    verdict: Verdict
    extracted: str | None = None
    reason: str | None = None
    grader: str = ""
    finish: FinishReason = FinishReason.UNKNOWN
    policy_version: Whole = 0
    part: str = ""
    group_index: Whole = 0
    round: Whole = 0
    decision: str | None = None
    pool: str
    run_id: str = ""
    """The run that put it into the pool."""
    added_step: Whole = 0
    retired_step: Whole | None = None
    retired_reason: str | None = None
    uses: Whole = 0
    repairs: Whole = 0
    prompt_ids: list[Token] | None = None
    ids: list[Token] | None = None
    logprobs: list[float] | None = None

    @property
    def injected(self) -> str:
        return injected_kind(self.model)


def read_entry(row: Mapping[str, Any]) -> Entry:
    """From a row of `select_entries`; with token columns if it has them."""
    tokens = {column: unpack(row, column).tolist() for column in TOKEN_COLUMNS} if "ids" in row else {}
    renamed = {
        "id": row["problem_id"],
        "problem": row["problem_text"],
        "response": row["text"],
        "source": row["problem_source"],
        "meta": json.loads(row["meta_json"]),
        "parent": row["parent_id"],
    }
    same = {name: row[name] for name in Entry.model_fields.keys() & row.keys() - renamed.keys() - tokens.keys()}
    return Entry(**same, **renamed, **tokens)


def list_entries(
    db: Database,
    *,
    pool: str | None = None,
    run_id: str | None = None,
    source: str | None = None,
    alive: bool = True,
    limit: int | None = None,
) -> tuple[int, list[Entry]]:
    """How many entries there are (`run_id`: which that run added), the first `limit` by (added_step, attempt_id)."""
    chosen = [] if pool is None else [POOL_ENTRY.c.pool == known_pool(db, pool)]
    chosen += [] if run_id is None else [POOL_ENTRY.c.run_id == run_id]
    chosen += [] if source is None else [ATTEMPT.c.problem_source == known_source(db, source)]
    chosen += [POOL_ENTRY.c.retired_step.is_(None)] if alive else []
    entries = POOL_ENTRY if source is None else POOL_ENTRY.join(ATTEMPT, ATTEMPT.c.id == POOL_ENTRY.c.attempt_id)
    keys = select(POOL_ENTRY.c.pool, POOL_ENTRY.c.attempt_id).select_from(entries).where(*chosen)
    first = keys.order_by(*OLDEST_FIRST).limit(limit).subquery()  # before the texts are read
    same = (first.c.pool == POOL_ENTRY.c.pool) & (first.c.attempt_id == POOL_ENTRY.c.attempt_id)
    query = select_entries().join(first, same).order_by(*OLDEST_FIRST)
    with db.read() as connection:
        total = connection.scalar(select(func.count()).select_from(keys.subquery())) or 0
        return total, [read_entry(dict(row)) for row in connection.execute(query).mappings()]


def known_pool(db: Database, pool: str) -> str:
    """`pool`, if anything was ever put into it; else UserError with the names that exist."""
    if _is_there(db, POOL_ENTRY.c.pool, pool):
        return pool
    pools = _names(db, POOL_ENTRY.c.pool)
    fix = f"There are: {listing(pools, most=10)}" if pools else f"`{db.command('collect')}` fills one."
    raise UserError(f"There is no pool '{pool}'", db.where, fix)


def known_source(db: Database, source: str) -> str:
    """`source`, if there are problems of it; else UserError with the names that exist."""
    if _is_there(db, PROBLEM.c.source, source):
        return source
    sources = _names(db, PROBLEM.c.source)
    fix = f"{nearest(source, sources)} There are: {listing(sources, most=10)}".strip()
    raise UserError(f"There are no problems of '{source}'", db.where, fix)


def _is_there(db: Database, column: ColumnElement[str], name: str) -> bool:
    """Whether a row has `name` in an indexed column."""
    with db.read() as connection:
        return connection.scalar(select(column).where(column == name).limit(1)) is not None


def _names(db: Database, column: ColumnElement[str]) -> list[str]:
    """All names in a column."""
    with db.read() as connection:
        return list(connection.scalars(select(column).distinct().order_by(column)))


@dataclass(frozen=True)
class Use:
    """An attempt that revises a pooled one."""

    attempt_id: str
    run_id: str
    step: int
    kind: str
    verdict: str
    extracted: str | None
    finish: str
    response: str


def entries_of_problem(db: Database, ref: str) -> list[Entry]:
    """The entries whose problem is `ref`, an id or SOURCE/ID; in the order of runs and steps, none if there is none.
    UserError where sources share the id.
    """
    named = or_(PROBLEM.c.id == ref, PROBLEM.c.source + "/" + PROBLEM.c.id == ref)
    answers = tuple_(ATTEMPT.c.problem_source, ATTEMPT.c.problem_id).in_(
        select(PROBLEM.c.source, PROBLEM.c.id).where(named)
    )
    order = (ATTEMPT.c.run_id, ATTEMPT.c.step, ATTEMPT.c.id, POOL_ENTRY.c.pool)
    with db.read() as connection:
        rows = connection.execute(select_entries().where(answers).order_by(*order)).mappings()
        entries = [read_entry(dict(row)) for row in rows]
    names = sorted({f"{entry.source}/{entry.id}" for entry in entries})
    if len(names) > 1:
        raise UserError(f"{len(names)} sources have a problem '{ref}'", db.where, f"Write one of: {listing(names)}")
    return entries


def find_entries(db: Database, ref: str) -> list[Entry]:
    """The entries of the pooled attempt with id `ref`, or with the only id that begins so: one for each pool."""
    with db.read() as connection:
        begins = POOL_ENTRY.c.attempt_id.startswith(ref, autoescape=True)
        found = connection.scalars(select(POOL_ENTRY.c.attempt_id).where(begins).distinct()).all()
        ids = sorted(name for name in found if name.startswith(ref))  # LIKE ignores case on SQLite
        if ref in ids:
            ids = [ref]
        if len(ids) == 1:
            rows = connection.execute(select_entries().where(POOL_ENTRY.c.attempt_id == ids[0])).mappings()
            return [read_entry(dict(row)) for row in rows]
    if ids:
        raise UserError(f"'{ref}' begins {len(ids)} pooled attempts", db.where, f"Write more of it: {listing(ids)}")
    fix = f"`{db.command('pool', 'ls', '--all')}` lists them."
    raise UserError(f"No pooled attempt and no problem of one is '{ref}'", db.where, fix)


def uses_of(db: Database, attempt_id: str) -> list[Use]:
    """Every attempt whose parent is `attempt_id`, in the order of runs and steps."""
    names = ("run_id", "step", "kind", "verdict", "extracted", "finish")
    columns = [ATTEMPT.c.id.label("attempt_id"), *(ATTEMPT.c[name] for name in names), ATTEMPT.c.text.label("response")]
    query = select(*columns).where(ATTEMPT.c.parent_id == attempt_id)
    with db.read() as connection:
        rows = connection.execute(query.order_by(ATTEMPT.c.run_id, ATTEMPT.c.step, ATTEMPT.c.id)).mappings()
        return [Use(**row) for row in rows]


def last_step() -> ColumnElement[int]:
    """The last recorded step of the run that added an entry: its age is this less `added_step`."""
    steps = select(func.max(ATTEMPT.c.step)).where(ATTEMPT.c.run_id == POOL_ENTRY.c.run_id).correlate(POOL_ENTRY)
    return func.coalesce(steps.scalar_subquery(), POOL_ENTRY.c.added_step)


@dataclass(frozen=True)
class Pruned:
    """How many entries were retired and how many rows of retired ones were deleted (or would be)."""

    retired: int
    deleted: int


def prune(
    db: Database,
    *,
    pool: str | None = None,
    older_than_steps: int | None = None,
    retired: bool = False,
    dry_run: bool = False,
) -> Pruned:
    """Tidy pools; attempts and problems always stay.

    `older_than_steps` retires living entries whose age (last step of the run that added them less added_step) is
    above it; `retired` deletes the entries that were retired already; `pool` alone retires all that lives in it.
    """
    if pool is None and older_than_steps is None and not retired:
        fix = "Say --older-than-steps N, --retired, or --pool NAME (all of it)."
        raise UserError("Nothing was chosen to prune", "scrpo pool prune", fix)
    mine = [] if pool is None else [POOL_ENTRY.c.pool == known_pool(db, pool)]
    gone = [*mine, POOL_ENTRY.c.retired_step.is_not(None)]
    alive: list[ColumnElement[bool]] = [*mine, POOL_ENTRY.c.retired_step.is_(None)]
    if older_than_steps is not None:
        alive.append(last_step() - POOL_ENTRY.c.added_step > older_than_steps)
    elif retired:
        alive.append(false())
    with (db.read if dry_run else db.write)() as connection:
        pruned = Pruned(_count(connection, alive), _count(connection, gone) if retired else 0)
        if not dry_run and retired:
            connection.execute(delete(POOL_ENTRY).where(*gone))
        if not dry_run:
            values = {"retired_step": last_step(), "retired_reason": PRUNED}
            connection.execute(update(POOL_ENTRY).where(*alive).values(values))
    return pruned


def _count(connection: Connection, chosen: list[ColumnElement[bool]]) -> int:
    return connection.scalar(select(func.count()).select_from(POOL_ENTRY).where(*chosen)) or 0
