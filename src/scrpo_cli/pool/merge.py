"""Runs of many machines in one database. What is merged is a run, whole: ids are global, so that merging the same file
again changes nothing, and merging a file whose run went on meanwhile brings what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, delete, func, insert, select, update

from scrpo_cli.errors import UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import ATTEMPT, EVALUATION, POOL_ENTRY, PROBLEM, RETIREMENT, RUN, STEP
from scrpo_cli.pool.queries import PROBLEM_COLUMNS, insert_problems, tokens_of_steps
from scrpo_cli.pool.records import read_problem

ROWS = 1000
"""At a time."""
OF_RUN = (ATTEMPT, STEP, EVALUATION)
Watch = Callable[[int, int], None]


@dataclass
class Merged:
    """Ids of runs by what became of them. `conflicts`: errors that were retired in both databases, by two runs."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)


@dataclass
class Copied:
    """How many rows of `total` are in their place, of which `watch` is told."""

    watch: Watch
    total: int
    rows: int = 0

    def more(self, rows: int) -> None:
        self.rows += rows
        self.watch(self.rows, self.total)


def merge(
    db: Database,
    source: Database,
    runs: Collection[str] | None = None,
    replace: bool = False,
    watch: Watch = lambda done, total: None,
) -> Merged:
    """Bring the runs of `source` (those named, or all) into `db`, in one transaction.

    Of a run that both have, the one that went further stays. UserError, and nothing is changed, where the two are not
    stages of one history (`replace`: that of `source` counts), and where a problem has another text or answer. `watch`
    is told how many rows are copied, and of how many.
    """
    merged = Merged()
    with source.read() as theirs, db.read() as ours:
        query = select(RUN).order_by(RUN.c.created_at)
        rows = {row["id"]: dict(row) for row in theirs.execute(query).mappings() if runs is None or row["id"] in runs}
        known = {row["id"]: dict(row) for row in ours.execute(select(RUN)).mappings()}
    for run_id, row in rows.items():
        if run_id not in known:
            merged.added.append(run_id)
        elif is_newer(db, source, row, known[run_id], replace):
            merged.updated.append(run_id)
        else:
            merged.unchanged.append(run_id)
    copied = Copied(watch, sum(_count(source, run_id) for run_id in [*merged.added, *merged.updated]))
    with source.read() as theirs, db.write() as ours:
        retired: list[dict[str, Any]] = []
        for run_id in merged.updated:
            retired += _drop(ours, run_id)
            ours.execute(update(RUN).where(RUN.c.id == run_id).values(rows[run_id]))
        for run_id in merged.added:
            ours.execute(insert(RUN), rows[run_id])
        for run_id in [*merged.added, *merged.updated]:
            _copy_problems(db, theirs, ours, run_id)
            for table in OF_RUN:
                _copy(theirs, ours, table, run_id, copied)
        found = [*_merge_entries(theirs, ours, rows), *_retire_again(ours, retired)]
        merged.conflicts = [*dict.fromkeys(found)]  # an error has a run that added it and one that retired it
    return merged


def is_newer(db: Database, source: Database, theirs: Mapping[str, Any], ours: Mapping[str, Any], replace: bool) -> bool:
    """Whether a run that both databases have went further in `source`. UserError where they have not one history."""
    run_id = theirs["id"]
    here, there = tokens_of_steps(db, run_id), tokens_of_steps(source, run_id)
    same = theirs["created_at"] == ours["created_at"]
    if not same or any(here[step] != there[step] for step in here.keys() & there.keys()):
        if replace:
            return True
        what = f"Run {run_id} has another history in each database: the answers of its steps differ"
        fix = "It was resumed in two places. --replace takes the runs of the files; or leave that file out."
        raise UserError(what, source.where, fix)
    reached = ((len(there), _count(source, run_id), theirs), (len(here), _count(db, run_id), ours))
    newer, older = ((steps, count, row["finished_at"] or "") for steps, count, row in reached)
    return newer > older


def _count(db: Database, run_id: str) -> int:
    """Of everything that a run has recorded."""
    with db.read() as connection:
        return sum(
            int(connection.scalar(select(func.count()).select_from(table).where(table.c.run_id == run_id)) or 0)
            for table in OF_RUN
        )


def _drop(connection: Connection, run_id: str) -> list[dict[str, Any]]:
    """Remove what a run has recorded, and the pool entries of its answers; those of them that were retired."""
    answers = select(ATTEMPT.c.id).where(ATTEMPT.c.run_id == run_id)
    entries = POOL_ENTRY.c.attempt_id.in_(answers)
    query = select(POOL_ENTRY).where(entries, POOL_ENTRY.c.retired_step.is_not(None))
    retired = [dict(row) for row in connection.execute(query).mappings()]
    connection.execute(delete(POOL_ENTRY).where(entries))
    for table in OF_RUN:
        connection.execute(delete(table).where(table.c.run_id == run_id))
    return retired


def _copy_problems(db: Database, theirs: Connection, ours: Connection, run_id: str) -> None:
    """Those that the run has answered; one that is known must say the same."""
    asked = select(ATTEMPT.c.problem_source, ATTEMPT.c.problem_id).where(ATTEMPT.c.run_id == run_id).distinct()
    wanted = asked.subquery()
    this = (PROBLEM.c.source == wanted.c.problem_source) & (PROBLEM.c.id == wanted.c.problem_id)
    for rows in theirs.execute(select(wanted, *PROBLEM_COLUMNS).join(PROBLEM, this)).mappings().partitions(ROWS):
        insert_problems(db, ours, [read_problem(dict(row)) for row in rows])


def _copy(theirs: Connection, ours: Connection, table: Table, run_id: str, copied: Copied) -> None:
    for rows in theirs.execute(select(table).where(table.c.run_id == run_id)).mappings().partitions(ROWS):
        ours.execute(insert(table), [dict(row) for row in rows])
        copied.more(len(rows))


def _merge_entries(theirs: Connection, ours: Connection, runs: Collection[str]) -> Iterator[str]:
    """Add the pool entries that these runs added, and retire those that they retired; ids of errors that another run
    has retired here.
    """
    for run_id in runs:
        of_run = (POOL_ENTRY.c.run_id == run_id) | (POOL_ENTRY.c.retired_run_id == run_id)
        for row in theirs.execute(select(POOL_ENTRY).where(of_run)).mappings():
            if _stored(ours, dict(row)) is None:
                ours.execute(insert(POOL_ENTRY), dict(row))
            else:
                yield from _retire_again(ours, [dict(row)])


def _retire_again(ours: Connection, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Retire the entries as these rows say; ids of errors of which something else is known."""
    for row in rows:
        stored = _stored(ours, row)
        if stored is None or row["retired_step"] is None:
            continue
        if stored["retired_step"] is None:
            ours.execute(update(POOL_ENTRY).where(_entry(row)).values({name: row[name] for name in RETIREMENT}))
        elif any(row[name] != stored[name] for name in RETIREMENT):
            yield row["attempt_id"]


def _stored(ours: Connection, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = ours.execute(select(POOL_ENTRY).where(_entry(row))).mappings().first()
    return dict(found) if found else None


def _entry(row: Mapping[str, Any]) -> ColumnElement[bool]:
    return (POOL_ENTRY.c.pool == row["pool"]) & (POOL_ENTRY.c.attempt_id == row["attempt_id"])
