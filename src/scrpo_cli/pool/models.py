"""The tables, as docs/database.md describes them to readers with `sqlite3` and pandas.

Rows are appended and state is derived. Natural text keys and no clock in any table but `run`: a run that was killed and
resumed leaves the same rows as one that was not. A change here needs a migration (a test compares the two).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKeyConstraint, Index, LargeBinary, Table, Text, text
from sqlmodel import Field, SQLModel

ALIVE = "retired_step IS NULL"


def index_where(name: str, *columns: str, where: str) -> Index:
    """An index of the rows for which `where` holds: the others take no room in it."""
    condition: Any = text(where)
    return Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


class RunRow(SQLModel, table=True):
    """One execution of a command under a resolved recipe. The only table with timestamps (UTC, ISO 8601 with Z)."""

    __tablename__ = "run"
    __table_args__ = (Index("run_created", "created_at"), Index("run_sweep", "sweep"))

    id: str = Field(sa_type=Text, primary_key=True)
    command: str = Field(sa_type=Text)
    status: str = Field(sa_type=Text)
    """running, done, failed or interrupted."""
    recipe_name: str = Field(sa_type=Text)
    recipe_json: str = Field(sa_type=Text)
    """The resolved recipe; `{}` where the command has none (`pool import`)."""
    seed: int
    directory: str = Field(sa_type=Text)
    model: str = Field(sa_type=Text)
    sweep: str | None = Field(default=None, sa_type=Text)
    arm: str | None = Field(default=None, sa_type=Text)
    scrpo_version: str = Field(sa_type=Text)
    git_commit: str | None = Field(default=None, sa_type=Text)
    """Of the checkout that `scrpo` ran from, with `-dirty` after uncommitted changes; null for an installed package."""
    created_at: str = Field(sa_type=Text)
    finished_at: str | None = Field(default=None, sa_type=Text)
    summary_json: str = Field(default="{}", sa_type=Text)

    @property
    def origin(self) -> str:
        """Its id and the code that started it."""
        return f"run {self.id} (scrpo {' '.join(filter(None, (self.scrpo_version, self.git_commit)))})"


class ProblemRow(SQLModel, table=True):
    """One task item, stored when its first attempt is; `id` is unique inside `source`."""

    __tablename__ = "problem"

    source: str = Field(sa_type=Text, primary_key=True)
    id: str = Field(sa_type=Text, primary_key=True)
    text: str = Field(sa_type=Text)
    answer: str = Field(sa_type=Text)
    meta_json: str = Field(default="{}", sa_type=Text)


class AttemptRow(SQLModel, table=True):
    """One graded completion; never edited. `prompt_ids`, `ids` and `logprobs`: see `pool.records.unpack`."""

    __tablename__ = "attempt"
    __table_args__ = (
        ForeignKeyConstraint(["problem_source", "problem_id"], ["problem.source", "problem.id"]),
        Index("attempt_run_step", "run_id", "step"),
        Index("attempt_problem", "problem_source", "problem_id"),
        index_where("attempt_parent", "parent_id", "kind", "verdict", "step", "run_id", where="parent_id IS NOT NULL"),
        Index("attempt_counts", "run_id", "phase", "kind", "verdict", "decision", "model"),
    )

    id: str = Field(sa_type=Text, primary_key=True)
    run_id: str = Field(sa_type=Text, foreign_key="run.id")
    step: int
    phase: str = Field(sa_type=Text)
    """What the step did (`first`, `reflect`, ...); for the answers of an evaluation `eval:BENCHMARK`, or
    `eval:BENCHMARK:LABEL` where it has a label.
    """
    problem_source: str = Field(sa_type=Text)
    problem_id: str = Field(sa_type=Text)
    kind: str = Field(sa_type=Text)
    turn: int
    sample: int
    parent_id: str | None = Field(default=None, sa_type=Text)
    """The attempt that this one revises. No foreign key: parents may live in another database."""
    model: str = Field(sa_type=Text)
    n_prompt_tokens: int
    n_tokens: int
    finish: str = Field(sa_type=Text)
    policy_version: int
    verdict: str = Field(sa_type=Text)
    extracted: str | None = Field(default=None, sa_type=Text)
    reason: str | None = Field(default=None, sa_type=Text)
    grader: str = Field(sa_type=Text)
    decision: str | None = Field(default=None, sa_type=Text)
    """What the filter decided: `kept`, or why not; null when it did not look at this attempt."""
    # The large columns come last: SQLite reads a row from its start and stops at the last column asked for.
    text: str = Field(sa_type=Text)
    prompt_ids: bytes = Field(sa_type=LargeBinary)
    ids: bytes = Field(sa_type=LargeBinary)
    logprobs: bytes = Field(sa_type=LargeBinary)
    part: str = Field(default="", sa_type=Text, sa_column_kwargs={"server_default": ""})
    """Of an evaluation: `first`, `second`, `repair`, ...; empty in training."""
    group_index: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Number of its group (the attempts at one prompt) in its step, or in its part of an evaluation."""
    round: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """Round of sampling inside a training step: later ones are further turns, retries, or replaced groups."""
    packed: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    """1: the three columns of tokens are packed; 0: they are plain, as earlier versions wrote them."""


class PoolEntryRow(SQLModel, table=True):
    """A wrong attempt that the filter kept. Alive while `retired_step` is null; uses and repairs are counts over the
    attempts whose parent it is.
    """

    __tablename__ = "pool_entry"
    __table_args__ = (
        index_where("pool_entry_alive", "pool", "added_step", "attempt_id", "retired_step", where=ALIVE),
        index_where("pool_entry_oldest", "added_step", "attempt_id", "pool", "retired_step", where=ALIVE),
        Index("pool_entry_attempt", "attempt_id"),
        Index("pool_entry_run", "run_id", "added_step"),
        Index("pool_entry_retired", "retired_run_id", "retired_step"),
    )

    pool: str = Field(sa_type=Text, primary_key=True)
    attempt_id: str = Field(sa_type=Text, primary_key=True, foreign_key="attempt.id")
    run_id: str = Field(sa_type=Text, foreign_key="run.id")
    """The run that put it into the pool; `added_step` is a step of that run."""
    added_step: int
    retired_run_id: str | None = Field(default=None, sa_type=Text, foreign_key="run.id")
    """The run that retired it (a rewind of that run brings it back); null when a person pruned it."""
    retired_step: int | None = None
    retired_reason: str | None = Field(default=None, sa_type=Text)


RETIREMENT = ("retired_run_id", "retired_step", "retired_reason")
"""Of an entry: all null while it is alive."""


class StepRow(SQLModel, table=True):
    """The metrics of one step; its row exists exactly when all rows of that step do."""

    __tablename__ = "step"

    run_id: str = Field(sa_type=Text, primary_key=True, foreign_key="run.id")
    step: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    phase: str = Field(sa_type=Text, primary_key=True)
    metrics_json: str = Field(default="{}", sa_type=Text)


class EvaluationRow(SQLModel, table=True):
    """What a policy scored on one benchmark after `step` steps, intervals included."""

    __tablename__ = "evaluation"

    run_id: str = Field(sa_type=Text, primary_key=True, foreign_key="run.id")
    step: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    benchmark: str = Field(sa_type=Text, primary_key=True)
    label: str = Field(default="", sa_type=Text, primary_key=True, sa_column_kwargs={"server_default": ""})
    """Of a training run's own evaluations: `before`, `after`, or `stepN`."""
    metrics_json: str = Field(default="{}", sa_type=Text)


class MigrationRow(SQLModel, table=True):
    """The names of the migrations that made this schema."""

    __tablename__ = "migration"

    name: str = Field(sa_type=Text, primary_key=True)


def _table(name: str) -> Table:
    return SQLModel.metadata.tables[name]


# The same tables for queries through SQLAlchemy Core, which is how everything is read and written in bulk.
RUN = _table("run")
PROBLEM = _table("problem")
ATTEMPT = _table("attempt")
POOL_ENTRY = _table("pool_entry")
STEP = _table("step")
EVALUATION = _table("evaluation")
MIGRATION = _table("migration")
