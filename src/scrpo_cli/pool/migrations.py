"""The history of the schema: small functions, applied in order, each by name and once.

A migration is frozen the day it ships: it spells out its own tables and never imports models.py. To change the
schema, change models.py and append a function here.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlalchemy import (
    Column,
    Connection,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    inspect,
    text,
)

Migration = Callable[[Connection], None]


def m001_tables(connection: Connection) -> None:
    """Runs, problems, attempts, pools, steps and evaluations."""
    metadata = MetaData()
    Table(
        "run",
        metadata,
        Column("id", Text, primary_key=True),
        *(_text(name) for name in ("command", "status", "recipe_name", "recipe_json")),
        Column("seed", Integer, nullable=False),
        *(_text(name) for name in ("directory", "model")),
        *(Column(name, Text) for name in ("sweep", "arm")),
        _text("scrpo_version"),
        Column("git_commit", Text),
        _text("created_at"),
        Column("finished_at", Text),
        _text("summary_json"),
    )
    Table(
        "problem",
        metadata,
        Column("source", Text, primary_key=True),
        Column("id", Text, primary_key=True),
        *(_text(name) for name in ("text", "answer", "meta_json")),
    )
    _attempt_table(metadata)
    Table(
        "pool_entry",
        metadata,
        Column("pool", Text, primary_key=True),
        Column("attempt_id", Text, ForeignKey("attempt.id"), primary_key=True),
        Column("run_id", Text, ForeignKey("run.id"), nullable=False),
        Column("added_step", Integer, nullable=False),
        Column("retired_run_id", Text, ForeignKey("run.id")),
        Column("retired_step", Integer),
        Column("retired_reason", Text),
    )
    for name, key in (("step", "phase"), ("evaluation", "benchmark")):
        Table(
            name,
            metadata,
            Column("run_id", Text, ForeignKey("run.id"), primary_key=True),
            Column("step", Integer, primary_key=True, autoincrement=False),
            Column(key, Text, primary_key=True),
            _text("metrics_json"),
        )
    metadata.create_all(connection)


def _attempt_table(metadata: MetaData) -> None:
    Table(
        "attempt",
        metadata,
        Column("id", Text, primary_key=True),
        Column("run_id", Text, ForeignKey("run.id"), nullable=False),
        Column("step", Integer, nullable=False),
        *(_text(name) for name in ("phase", "problem_source", "problem_id", "kind")),
        *(Column(name, Integer, nullable=False) for name in ("turn", "sample")),
        Column("parent_id", Text),
        _text("model"),
        *(Column(name, Integer, nullable=False) for name in ("n_prompt_tokens", "n_tokens")),
        _text("finish"),
        Column("policy_version", Integer, nullable=False),
        _text("verdict"),
        *(Column(name, Text) for name in ("extracted", "reason")),
        _text("grader"),
        Column("decision", Text),
        _text("text"),
        *(Column(name, LargeBinary, nullable=False) for name in ("prompt_ids", "ids", "logprobs")),
        ForeignKeyConstraint(["problem_source", "problem_id"], ["problem.source", "problem.id"]),
    )


def _text(name: str) -> Column:
    return Column(name, Text, nullable=False)


def m002_indices(connection: Connection) -> None:
    """The pool is asked for what is alive and for children of attempts, runs for steps and sweeps."""
    for index in (
        "run_created ON run (created_at)",
        "run_sweep ON run (sweep)",
        "attempt_run_step ON attempt (run_id, step)",
        "attempt_problem ON attempt (problem_source, problem_id)",
        "attempt_parent ON attempt (parent_id, kind, verdict, step)",
        "attempt_counts ON attempt (run_id, phase, kind, verdict, decision)",
        "pool_entry_alive ON pool_entry (pool, retired_step)",
        "pool_entry_attempt ON pool_entry (attempt_id)",
        "pool_entry_run ON pool_entry (run_id, added_step)",
        "pool_entry_retired ON pool_entry (retired_run_id, retired_step)",
    ):
        connection.execute(text(f"CREATE INDEX {index}"))


def m003_fields_and_words(connection: Connection) -> None:
    """Part, group and round of an attempt and the label of an evaluation, which were parts of texts before; and the
    words of the field: grader_error, first (for trial), injected (for planted).
    """
    for column in ("part TEXT NOT NULL DEFAULT ''", "group_index INTEGER NOT NULL DEFAULT 0"):
        connection.execute(text(f"ALTER TABLE attempt ADD COLUMN {column}"))
    connection.execute(text("ALTER TABLE attempt ADD COLUMN round INTEGER NOT NULL DEFAULT 0"))
    rows = connection.execute(text("SELECT id, phase LIKE 'eval:%' AS evaluated FROM attempt")).all()
    places = [{"id": row.id, "part": part, "group": group} for row in rows for part, group in [_place(*row)]]
    if places:
        update = text("UPDATE attempt SET part = :part, group_index = :group WHERE id = :id")
        connection.execute(update, places)
    for change in (
        "attempt SET turn = 2 + (turn - 2) / 2 WHERE kind IN ('feedback', 'refine')",  # it counted prompts
        "attempt SET verdict = 'grader_error' WHERE verdict = 'error'",
        "attempt SET phase = 'first' WHERE phase = 'trial'",
        "attempt SET model = 'injected:' || substr(model, 9) WHERE model LIKE 'planted:%'",
        "step SET phase = 'first' WHERE phase = 'trial'",
        "step SET metrics_json = replace(metrics_json, '\"trial/', '\"first/')",
        "step SET metrics_json = replace(metrics_json, '\"pool/planted_share\"', '\"pool/injected_share\"')",
    ):
        connection.execute(text(f"UPDATE {change}"))
    _label_evaluations(connection)


def _label_evaluations(connection: Connection) -> None:
    """The label becomes a part of the key, so the table is made anew; nothing refers to it."""
    columns = (
        Column("step", Integer, primary_key=True, autoincrement=False),
        Column("benchmark", Text, primary_key=True),
    )
    label = Column("label", Text, primary_key=True, server_default="")
    run = Column("run_id", Text, ForeignKey("run.id"), primary_key=True)
    metadata = MetaData()
    Table("run", metadata, autoload_with=connection)
    new = Table("evaluation_new", metadata, run, *columns, label, _text("metrics_json"))
    new.create(connection)
    old = "SELECT evaluation.*, run.command FROM evaluation JOIN run ON run.id = evaluation.run_id"
    for row in connection.execute(text(old)).mappings().all():
        name, _, end = row["benchmark"].rpartition(":")
        labelled = row["command"] == "train" and name and re.fullmatch(r"before|after|step\d+", end)
        named = {"benchmark": name, "label": end} if labelled else {"benchmark": row["benchmark"], "label": ""}
        connection.execute(new.insert().values({key: row[key] for key in ("run_id", "step", "metrics_json")} | named))
    connection.execute(text("DROP TABLE evaluation"))
    connection.execute(text("ALTER TABLE evaluation_new RENAME TO evaluation"))


def m004_packed_tokens(connection: Connection) -> None:
    """Columns of tokens may be packed; those that are there stay as they are. Indices answer what is asked of the pool
    without a look at the rows, and those of children and of living entries hold nothing else.
    """
    connection.execute(text("ALTER TABLE attempt ADD COLUMN packed INTEGER NOT NULL DEFAULT 0"))
    for index in (
        "attempt_parent ON attempt (parent_id, kind, verdict, step, run_id) WHERE parent_id IS NOT NULL",
        "attempt_counts ON attempt (run_id, phase, kind, verdict, decision, model)",
        "pool_entry_alive ON pool_entry (pool, added_step, attempt_id, retired_step) WHERE retired_step IS NULL",
        "pool_entry_oldest ON pool_entry (added_step, attempt_id, pool, retired_step) WHERE retired_step IS NULL",
    ):
        connection.execute(text(f"DROP INDEX IF EXISTS {index.split()[0]}"))
        connection.execute(text(f"CREATE INDEX {index}"))


def _place(attempt_id: str, evaluated: bool) -> tuple[str, int]:
    """Part and group of an id `...:part:group:sample` (an evaluation) or `...:group:sample`."""
    *rest, group, _ = attempt_id.split(":") if attempt_id.count(":") > 1 else ("", "0", "")
    return rest[-1] if evaluated and rest else "", int(group) if group.isdecimal() else 0


MIGRATIONS: list[Migration] = [m001_tables, m002_indices, m003_fields_and_words, m004_packed_tokens]


def applied(connection: Connection) -> list[str] | None:
    """Names of the migrations of this database: none in an empty one; None for a database that is not ours."""
    tables = inspect(connection).get_table_names()
    if "migration" not in tables:
        return None if tables else []
    return list(connection.scalars(text("SELECT name FROM migration ORDER BY name")))


def pending(names: list[str]) -> list[Migration]:
    """Those not among `names`, in order."""
    return [migration for migration in MIGRATIONS if migration.__name__ not in names]


def unknown(names: list[str]) -> list[str]:
    """Those of `names` that a newer version of the program applied."""
    return sorted(set(names) - {migration.__name__ for migration in MIGRATIONS})


def migrate(connection: Connection, migrations: list[Migration]) -> None:
    """Apply `migrations` and note their names, inside the caller's transaction."""
    log = Table("migration", MetaData(), Column("name", Text, primary_key=True))
    log.create(connection, checkfirst=True)
    for migration in migrations:
        migration(connection)
        connection.execute(log.insert().values(name=migration.__name__))
