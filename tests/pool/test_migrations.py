"""Every old schema, empty and with rows, becomes the schema of models.py."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import MetaData, Table, inspect, text
from sqlmodel import SQLModel

from scrpo_cli.errors import RunError
from scrpo_cli.pool import migrations
from scrpo_cli.pool.db import Database, make_engine, parse_url
from scrpo_cli.pool.exchange import export_pool
from scrpo_cli.pool.migrations import MIGRATIONS
from scrpo_cli.pool.models import RUN
from scrpo_cli.pool.queries import attempts_by_id, living_entries

OURS = ("run", "problem", "attempt", "pool_entry", "step", "evaluation", "migration")
RUN_ROW = {
    "id": "r", "command": "train", "status": "done", "recipe_name": "tiny", "recipe_json": "{}", "seed": 3,
    "directory": "d", "model": "tiny", "scrpo_version": "0", "created_at": "2026-11-20T00:00:00Z", "summary_json": "{}",
}  # fmt: skip
ATTEMPT_ROW = {
    "id": "r:0:0:0", "run_id": "r", "step": 0, "phase": "reflect", "problem_source": "tiny", "problem_id": "1",
    "kind": "first", "turn": 1, "sample": 0, "model": "tiny", "n_prompt_tokens": 0, "n_tokens": 1, "finish": "stop",
    "policy_version": 0, "verdict": "wrong", "grader": "g", "text": "7", "prompt_ids": b"", "ids": b"\1\0\0\0",
    "logprobs": b"\0\0\0\0",
}  # fmt: skip
ROWS = {
    "run": RUN_ROW,
    "problem": {"source": "tiny", "id": "1", "text": "1+1", "answer": "2", "meta_json": "{}"},
    "attempt": ATTEMPT_ROW,
    "pool_entry": {"pool": "p", "attempt_id": "r:0:0:0", "run_id": "r", "added_step": 0},
    "step": {"run_id": "r", "step": 0, "phase": "reflect", "metrics_json": "{}"},
    "evaluation": {"run_id": "r", "step": 0, "benchmark": "tiny", "metrics_json": "{}"},
}


def old_database(path: Path, length: int, with_rows: bool) -> None:
    """The database of a program that knew the first `length` migrations."""
    with unmigrated(path) as db, db.write() as connection:
        migrations.migrate(connection, MIGRATIONS[:length])
        for name, row in ROWS.items() if with_rows and length else ():
            table = Table(name, MetaData(), autoload_with=connection)
            connection.execute(table.insert().values({k: v for k, v in row.items() if k in table.c}))


def unmigrated(path: Path) -> Database:
    return Database(make_engine(parse_url(str(path))))


def schema(db: Database) -> dict:
    """Columns with type, null and key, foreign keys and indices of every table."""
    with db.read() as connection:
        look = inspect(connection)
        return {
            name: {
                "columns": [
                    (c["name"], str(c["type"]), c["nullable"], c["primary_key"]) for c in look.get_columns(name)
                ],
                "keys": sorted((f["constrained_columns"], f["referred_table"]) for f in look.get_foreign_keys(name)),
                "indices": sorted(
                    (i["name"], i["column_names"], str(i["dialect_options"].get("sqlite_where")))
                    for i in look.get_indexes(name)
                ),
            }
            for name in sorted(look.get_table_names())
        }


@pytest.mark.parametrize("with_rows", [False, True])
@pytest.mark.parametrize("length", range(len(MIGRATIONS) + 1))
def test_from_every_old_schema(tmp_path: Path, length: int, with_rows: bool) -> None:
    path = tmp_path / "scrpo.db"
    old_database(path, length, with_rows)
    with Database.open(str(path)) as db, Database.open(str(tmp_path / "new.db")) as new:
        assert schema(db) == schema(new)
        with db.read() as connection:
            assert migrations.applied(connection) == [m.__name__ for m in MIGRATIONS]
            for name, row in ROWS.items() if with_rows and length else ():
                stored = connection.execute(text(f"SELECT * FROM {name}")).mappings().one()
                assert {key: stored[key] for key in row} == row
    backups = [p.name for p in tmp_path.glob("scrpo.db.before-*")]
    assert backups == ([f"scrpo.db.before-{MIGRATIONS[length].__name__}"] if 0 < length < len(MIGRATIONS) else [])


def test_the_migrated_schema_is_that_of_the_models(tmp_path: Path) -> None:
    with Database.open(str(tmp_path / "scrpo.db")) as db, unmigrated(tmp_path / "models.db") as models:
        with models.write() as connection:
            SQLModel.metadata.create_all(connection, tables=[SQLModel.metadata.tables[name] for name in OURS])
        assert schema(db) == schema(models)


def test_names_are_ordered() -> None:
    names = [migration.__name__ for migration in MIGRATIONS]
    assert all(re.fullmatch(rf"m{number:03}_[a-z_]+", name) for number, name in enumerate(names, 1))


def test_the_backup_is_the_database_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "scrpo.db"
    old_database(path, 1, with_rows=True)
    Database.open(str(path)).dispose()
    with closing(sqlite3.connect(tmp_path / "scrpo.db.before-m002_indices")) as copy:
        assert copy.execute("SELECT name FROM migration").fetchall() == [("m001_tables",)]
        assert copy.execute("SELECT id, text FROM attempt").fetchall() == [("r:0:0:0", "7")]
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scrpo.db"
    old_database(path, 1, with_rows=True)

    def m003_broken(connection) -> None:
        connection.execute(text("DROP TABLE pool_entry"))
        connection.execute(text("ALTER TABLE nowhere ADD COLUMN x TEXT"))

    monkeypatch.setattr(migrations, "MIGRATIONS", [*MIGRATIONS, m003_broken])
    with pytest.raises(RunError, match="nowhere"):
        Database.open(str(path))
    monkeypatch.setattr(migrations, "MIGRATIONS", MIGRATIONS)
    with Database.open(str(path)) as db, db.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM pool_entry")) == 1
        assert connection.scalar(RUN.select()) == "r"


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "scrpo.db"
    Database.open(str(path)).dispose()
    before = path.read_bytes()
    Database.open(str(path)).dispose()
    assert path.read_bytes() == before


def test_tokens_that_earlier_versions_wrote_are_read(tmp_path: Path) -> None:
    """They are not packed, and stay so: an attempt is never edited."""
    path = tmp_path / "scrpo.db"
    old_database(path, 3, with_rows=True)
    with Database.open(str(path)) as db:
        completion = attempts_by_id(db, ["r:0:0:0"])["r:0:0:0"].completion
        assert (completion.prompt_ids, completion.ids, completion.logprobs) == ([], [1], [0.0])
        assert [entry.confidence for entry in living_entries(db, "p")] == [0.0]
        export_pool(db, tmp_path / "p.jsonl", tokens=True)
    assert '"ids":[1],"logprobs":[0.0]' in (tmp_path / "p.jsonl").read_text()


def test_what_ids_said_becomes_columns(tmp_path: Path) -> None:
    """Rows of the second schema: parts and groups from ids, labels from names of evaluations, the renamed verdict."""
    path = tmp_path / "scrpo.db"
    old_database(path, 2, with_rows=True)
    with closing(sqlite3.connect(path)) as db, db:
        columns = ", ".join(ATTEMPT_ROW)
        for attempt_id, phase in (
            ("r:0:test:after:first:12:3", "eval:test:after"),
            ("r:4:7:1", "trial"),
            ("r:4:planted:0", "trial"),
            ("theirs", "import"),
        ):
            row = ATTEMPT_ROW | {"id": attempt_id, "phase": phase, "verdict": "error"}
            db.execute(f"INSERT INTO attempt ({columns}) VALUES ({', '.join('?' * len(row))})", [*row.values()])
        for turn, part in enumerate(("feedback", "refine", "feedback3", "refine3"), start=2):  # it counted prompts
            row = ATTEMPT_ROW | {"id": f"r:0:t:{part}:0:0", "phase": "eval:t", "kind": part.rstrip("3"), "turn": turn}
            db.execute(f"INSERT INTO attempt ({columns}) VALUES ({', '.join('?' * len(row))})", [*row.values()])
        db.execute("INSERT INTO step VALUES ('r', 4, 'trial', '{\"trial/reward\": 0.5}')")
        db.execute("UPDATE attempt SET model = 'planted:early' WHERE id = 'r:4:planted:0'")
        for benchmark in ("test:before", "validation:step40", "hub:owner/name"):
            db.execute("INSERT INTO evaluation VALUES ('r', 4, ?, '{}')", (benchmark,))
    with Database.open(str(path)) as db, db.read() as connection:
        rows = connection.execute(
            text("SELECT id, part, group_index, round, verdict FROM attempt WHERE verdict = 'grader_error'")
        )
        assert sorted(map(tuple, rows)) == [
            ("r:0:test:after:first:12:3", "first", 12, 0, "grader_error"),
            ("r:4:7:1", "", 7, 0, "grader_error"),
            ("r:4:planted:0", "", 0, 0, "grader_error"),
            ("theirs", "", 0, 0, "grader_error"),
        ]
        assert connection.execute(text("SELECT phase, metrics_json FROM step WHERE step = 4")).one() == (
            "first",
            '{"first/reward": 0.5}',
        )
        turns = connection.execute(text("SELECT part, turn FROM attempt WHERE turn > 1 ORDER BY turn, part"))
        assert [*map(tuple, turns)] == [("feedback", 2), ("refine", 2), ("feedback3", 3), ("refine3", 3)]
        assert connection.scalar(text("SELECT model FROM attempt WHERE id = 'r:4:planted:0'")) == "injected:early"
        assert not connection.scalar(text("SELECT count(*) FROM attempt WHERE phase = 'trial'"))
        labels = connection.execute(text("SELECT benchmark, label FROM evaluation ORDER BY 1"))
        assert [*map(tuple, labels)] == [
            ("hub:owner/name", ""),
            ("test", "before"),
            ("tiny", ""),
            ("validation", "step40"),
        ]
