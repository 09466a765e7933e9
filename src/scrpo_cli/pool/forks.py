"""The past of a fork: what a run had recorded up to a step, as rows of another run."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, case, func, insert, literal, select

from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import ATTEMPT, EVALUATION, POOL_ENTRY, RETIREMENT, STEP
from scrpo_cli.pool.queries import EVALUATED

AFTER = "after"
"""The label of the evaluation with which a training run ends."""
NAMED = ("id", "run_id", "parent_id", "attempt_id", "pool", "retired_run_id")
"""Columns that hold a run's id, or begin with it: ids of attempts are `RUN:STEP:...`, and a run's pool has its name."""


def copy_past(db: Database, source: str, target: str, step: int) -> None:
    """Give run `target` the attempts, pool entries, metrics and evaluations of run `source` up to `step`, in one
    transaction, but for the evaluation after its training, which is not over for `target`. Errors that `source` retired
    later are alive; parents and retirements by other runs stay as they are.
    """
    later = (POOL_ENTRY.c.retired_run_id == source) & (POOL_ENTRY.c.retired_step > step)
    alive: dict[str, ColumnElement[Any]] = {
        name: case((later, None), else_=_renamed(POOL_ENTRY.c[name], source, target)) for name in RETIREMENT
    }
    with db.write() as connection:
        for table, when in ((ATTEMPT, "step"), (POOL_ENTRY, "added_step"), (STEP, "step"), (EVALUATION, "step")):
            columns = {c.name: _renamed(c, source, target) for c in table.c} | (alive if table is POOL_ENTRY else {})
            rows = select(*columns.values()).where(table.c.run_id == source, table.c[when] <= step)
            if table is ATTEMPT:
                rows = rows.where(ATTEMPT.c.phase.not_like(f"{EVALUATED}%:{AFTER}"))
            if table is EVALUATION:
                rows = rows.where(EVALUATION.c.label != AFTER)
            connection.execute(insert(table).from_select([*columns], rows))


def _renamed(column: ColumnElement[Any], source: str, target: str) -> ColumnElement[Any]:
    """The column, where it may name a run with `source` replaced by `target`."""
    if column.name not in NAMED:
        return column
    theirs = (column == source) | column.startswith(f"{source}:", autoescape=True)
    return case((theirs, literal(target) + func.substr(column, len(source) + 1)), else_=column)
