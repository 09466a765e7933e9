"""Opening, transactions and errors of the database: each bad place and broken file is three clear lines."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.engine import make_url

from scrpo_cli.errors import RunError, UserError
from scrpo_cli.pool import db as db_module
from scrpo_cli.pool.db import Database, explain, parse_url
from scrpo_cli.pool.models import ATTEMPT
from scrpo_cli.pool.queries import attempts_of, record_step, start_run, steps_of
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.models import Recipe


def filled(path: Path, attempt, steps: int = 3) -> str:
    """A database at `path` with one run of `steps` steps of 8 attempts; the run's id."""
    with Database.open(str(path)) as db:
        run = start_run(db, command="train", recipe=Recipe(), directory="d", model="tiny")
        for step in range(steps):
            record_step(db, run, StepRecord(step, "first", [attempt(run, step, g) for g in range(8)]))
    return run


def test_a_missing_directory_is_made(tmp_path: Path) -> None:
    with Database.open(str(tmp_path / "a" / "b" / "scrpo.db")) as db:
        assert db.where == str(tmp_path / "a" / "b" / "scrpo.db")
    assert (tmp_path / "a" / "b" / "scrpo.db").stat().st_size > 0


def test_the_default_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCRPO_DB", raising=False)
    Database.open().dispose()
    assert (tmp_path / ".scrpo" / "scrpo.db").exists()
    monkeypatch.setenv("SCRPO_DB", f"sqlite:///{tmp_path}/other.db")
    Database.open().dispose()
    assert (tmp_path / "other.db").exists()


def test_a_file_has_wal_a_busy_timeout_and_foreign_keys(tmp_path: Path) -> None:
    with Database.open(str(tmp_path / "scrpo.db")) as db, db.read() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA busy_timeout")) == 30_000
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1


def test_memory_is_a_database_too(attempt) -> None:
    with Database.open("sqlite://") as db:
        run = start_run(db, command="train", recipe=Recipe(), directory="d", model="tiny")
        record_step(db, run, StepRecord(0, "first", [attempt(run)]))
        assert len(steps_of(db, run)) == 1


def test_what_only_looks_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no database") as caught:
        Database.open(str(tmp_path / "typo.db"), create=False)
    assert str(tmp_path / "typo.db") in caught.value.where
    assert not (tmp_path / "typo.db").exists()


def test_a_failed_write_leaves_nothing(db: Database, run: str, attempt) -> None:
    with contextlib.suppress(KeyboardInterrupt), db.write() as connection:
        connection.execute(text("UPDATE run SET status = 'odd'"))
        raise KeyboardInterrupt
    with db.read() as connection:
        assert connection.scalar(text("SELECT status FROM run")) == "running"


# --- files that are not what they should be -------------------------------------------------------------------------


def refused(path: Path, match: str) -> UserError:
    """Opening `path` is a UserError of three lines and leaves every byte as it was."""
    before = path.read_bytes()
    with pytest.raises(UserError, match=match) as caught:
        Database.open(str(path))
    assert path.read_bytes() == before
    assert len(caught.value.lines()) == 3
    assert str(path) in caught.value.where
    return caught.value


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database\n" * 100)
    refused(tmp_path / "notes.txt", "Not a database")


def test_a_newer_database_is_refused_and_not_touched(tmp_path: Path, attempt) -> None:
    path = tmp_path / "scrpo.db"
    filled(path, attempt)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO migration VALUES ('m999_from_the_future')")
    assert "Update" in refused(path, r"newer than this program \(m999_from_the_future\)").fix
    assert [p.name for p in tmp_path.iterdir()] == ["scrpo.db"]


def test_a_newer_database_without_wal_is_not_touched_either(tmp_path: Path) -> None:
    path = tmp_path / "scrpo.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE migration (name TEXT)")
        connection.execute("INSERT INTO migration VALUES ('m999_from_the_future')")
    refused(path, "newer")


def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE run (mine TEXT)")
    refused(path, "another program")


def read_all(path: Path, run: str) -> None:
    with Database.open(str(path)) as db:
        assert len(attempts_of(db, run)) == 40 * 8


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_truncated_database(tmp_path: Path, attempt, keep: float) -> None:
    path = tmp_path / "scrpo.db"
    run = filled(path, attempt, steps=40)
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(UserError, match="damaged"):
        read_all(path, run)


def test_overwritten_pages(tmp_path: Path, attempt) -> None:
    path = tmp_path / "scrpo.db"
    filled(path, attempt, steps=40)
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))
    refused(path, "damaged")


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory") as caught:
        Database.open(str(tmp_path))
    assert "scrpo.db" in caught.value.fix


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot make the database's directory"):
        Database.open(str(tmp_path / "file" / "scrpo.db"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path: Path, attempt) -> None:
    path = tmp_path / "scrpo.db"
    run = filled(path, attempt)
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Cannot open the database"), Database.open(str(path)) as db:
            record_step(db, run, StepRecord(9, "first", []))
        with pytest.raises(UserError, match="Cannot make"):
            Database.open(str(tmp_path / "new" / "scrpo.db"))
    finally:
        tmp_path.chmod(0o700)


def test_a_place_that_takes_no_files() -> None:
    """/proc refuses files even to root."""
    if not Path("/proc/self").exists():
        pytest.skip("needs /proc")
    with pytest.raises(UserError, match="Cannot open the database"):
        Database.open("/proc/scrpo.db")


# --- waiting and failing --------------------------------------------------------------------------------------------


def test_locked_beyond_the_busy_timeout(tmp_path: Path, attempt) -> None:
    path = tmp_path / "scrpo.db"
    run = filled(path, attempt)
    with closing(sqlite3.connect(path)) as other, Database.open(f"sqlite:///{path}?timeout=0.1") as db:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="locked by another process") as caught:
            record_step(db, run, StepRecord(3, "first", [attempt(run, 3)]))
        assert str(path) in caught.value.where
        assert len(steps_of(db, run)) == 3, "readers do not wait for the writer"
        other.rollback()
        record_step(db, run, StepRecord(3, "first", [attempt(run, 3)]))
        assert len(steps_of(db, run)) == 4


def test_a_full_disk_rolls_the_step_back(tmp_path: Path, attempt) -> None:
    path = tmp_path / "scrpo.db"
    run = filled(path, attempt)
    with Database.open(str(path)) as db:

        def fill(connection: sqlite3.Connection, *_: object) -> None:
            """SQLite's own word for a full disk, without filling one."""
            connection.execute(f"PRAGMA max_page_count={connection.execute('PRAGMA page_count').fetchone()[0]}")

        event.listen(db._engine, "checkout", fill)
        big = StepRecord(3, "first", [attempt(run, 3, g, text="x" * 1000) for g in range(200)])
        with pytest.raises(RunError, match="disk is full") as caught:
            record_step(db, run, big)
        assert "rolled back" in caught.value.fix
        with db.read() as connection:
            assert set(connection.scalars(select(ATTEMPT.c.step))) == {0, 1, 2}
        event.remove(db._engine, "checkout", fill)
    with Database.open(str(path)) as db:
        record_step(db, run, big)
        assert [s.step for s in steps_of(db, run)] == [0, 1, 2, 3]


# --- URLs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("://x", "Not a database URL"),
        ("nonsense://h/db", "not supported"),
        ("postgresql+nonsense://h/db", "no database driver"),
        ("mysql+pymysql://h/db", "not supported"),
    ],
)
def test_urls_that_cannot_be_used(url: str, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        Database.open(url)
    assert "postgresql://" in caught.value.fix


def test_a_server_that_is_not_there_and_no_password_in_the_message() -> None:
    with pytest.raises(UserError) as caught:
        Database.open("postgresql://me:secret@127.0.0.1:1/db")
    error = "\n".join(caught.value.lines())
    assert "secret" not in error
    expected = "Cannot reach the database" if importlib.util.find_spec("psycopg") else "scrpo-cli[postgres]"
    assert expected in error


def test_postgresql_takes_the_driver_of_our_extra() -> None:
    assert parse_url("postgresql://h/db").drivername == "postgresql+psycopg"


def test_a_full_server_is_a_failed_run() -> None:
    error = Exception("could not extend file")
    error.sqlstate = "53100"  # type: ignore[attr-defined]
    assert isinstance(explain(error, make_url("postgresql://h/db")), RunError)


def test_an_error_that_nobody_foresaw_is_a_failed_run() -> None:
    found = explain(sqlite3.OperationalError("no such table: x"), make_url("sqlite:///x.db"))
    assert isinstance(found, RunError)
    assert "no such table" in found.what


def test_the_timeout_of_the_url_is_kept(tmp_path: Path) -> None:
    with Database.open(f"sqlite:///{tmp_path}/scrpo.db?timeout=2") as db, db.read() as connection:
        assert connection.scalar(text("PRAGMA busy_timeout")) == 2000
    assert db_module.BUSY_TIMEOUT_S == 30
