"""Opening the database, transactions, and what its errors mean to a user. All that is particular to one kind of
database is in this file.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, Table, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError

from scrpo_cli.errors import RunError, ScrpoError, UserError
from scrpo_cli.files import DEFAULT_DATABASE, write_atomically
from scrpo_cli.pool import migrations

BUSY_TIMEOUT_S = 30.0
"""How long a writer waits for another; `sqlite:///FILE?timeout=S` says otherwise."""
INSERTS: dict[str, Callable[[Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
MIGRATION_LOCK = 0x5C290  # any number that other programs on the same server do not lock
PLACE_FIX = "Name a place that you can write to with --db or SCRPO_DB."
COPY_FIX = "Copy it, with the -wal file beside it, to a place that you can write to, and name the copy with --db."
URL_FIX = "Write a path, sqlite:///PATH, or postgresql://USER@HOST/NAME."


class Database:
    """One open database. Connections are pooled per process: open anew after a fork."""

    def __init__(self, engine: Engine, url: URL | None = None) -> None:
        """`url`: the place as it was asked for, where the engine has to spell it otherwise."""
        self._engine = engine
        self.url = url or engine.url
        self._files: dict[Path, tuple[int, int]] = {}

    @classmethod
    def open(cls, url: str | None = None, *, create: bool = True) -> Database:
        """Open `url`: a path or an SQLAlchemy URL; none: $SCRPO_DB, else .scrpo/scrpo.db. Migrates an old schema.

        A missing file and its directory are made, unless `create` is false (commands that only look; these read a
        database on a read-only file system too). Errors: UserError for a place that cannot be used and for a database
        newer than this program, which is left alone.
        """
        parsed = parse_url(url or os.environ.get("SCRPO_DB") or DEFAULT_DATABASE)
        if parsed.get_backend_name() == "sqlite":
            _check_file(parsed, create)
        database = cls(make_engine(parsed if create else read_only(parsed)), parsed)
        try:
            database._prepare()
            database._files = _identities(parsed)
        except BaseException:
            database.dispose()
            raise
        return database

    @property
    def where(self) -> str:
        """The place as a user reads it: a path, or the URL without its password."""
        return _where(self.url)

    @property
    def home(self) -> Path:
        """Where `runs` and `sweeps` lie: beside a SQLite file, in `.scrpo` for a database server."""
        path = _file(self.url) if self.url.get_backend_name() == "sqlite" else None
        return (path or Path(DEFAULT_DATABASE)).resolve().parent

    def command(self, *words: str) -> str:
        """`scrpo WORDS` as a user types it to work on this database."""
        named = self.where != DEFAULT_DATABASE or "SCRPO_DB" in os.environ
        return shlex.join(["scrpo", *words, *(["--db", self.where] if named else [])])

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one snapshot."""
        with explained(self.url), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A write transaction; on SQLite it holds the only write lock, so keep it short. All or nothing.

        RunError when the file is not the one that was opened: SQLite would go on writing to what nobody can read.
        """
        if self._files != {path: _identity(path) for path in self._files}:
            raise self._rescued()
        with (
            explained(self.url),
            self._engine.connect() as connection,
            connection.execution_options(immediate=True).begin(),
        ):
            yield connection

    def insert_new(self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Bulk insert of `rows`, passing over those whose primary key is there already."""
        if rows:
            connection.execute(INSERTS[self._engine.dialect.name](table).on_conflict_do_nothing(), rows)

    def _rescued(self) -> RunError:
        """What is said of a database that was deleted or replaced, after a copy of what the open one holds."""
        what = "The database was deleted or replaced while it was in use; nothing more was written"
        target = self.home / f"{Path(self.where).name}.rescued"
        try:
            with closing(self._engine.raw_connection()) as connection, write_atomically(target) as new:
                new.unlink(missing_ok=True)
                connection.cursor().execute("VACUUM INTO ?", (str(new),))
        except (sqlite3.Error, OSError) as error:
            return RunError(what, self.where, f"Restore a copy; a rescue failed ({error}).")
        return RunError(what, self.where, f"All that it held is in {target}: put it in place, then resume.")

    def dispose(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.dispose()

    def _prepare(self) -> None:
        """Bring the schema up to date. Nothing is written before the database is known to be ours and not newer."""
        with self.read() as connection:
            behind = self._pending(connection)
        if not behind:
            return
        if self.url != self._engine.url:
            what = f"The database has an older schema ({behind[0].__name__} is missing) and cannot be migrated here"
            raise UserError(f"{what}: its directory cannot be written", self.where, COPY_FIX)
        if self._engine.dialect.name == "sqlite":
            self._use_wal()
        with self.write() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            behind = self._pending(connection)  # again: another process may have been faster
            if behind and migrations.applied(connection):
                _backup(self.url, behind[0].__name__)
            migrations.migrate(connection, behind)

    def _pending(self, connection: Connection) -> list[migrations.Migration]:
        names = migrations.applied(connection)
        if names is None:
            fix = "Name another file with --db, or an empty database."
            raise UserError("This is a database of another program", self.where, fix)
        if newer := migrations.unknown(names):
            fix = "Update scrpo-cli, or name another database with --db. Nothing was changed."
            raise UserError(f"The database is newer than this program ({', '.join(newer)})", self.where, fix)
        return migrations.pending(names)

    def _use_wal(self) -> None:
        """Write-ahead log: readers and one writer work at the same time. The file remembers it.

        Outside a transaction, as SQLite demands. Where it cannot be had (memory, some network disks) SQLite stays with
        its default, which is correct too.
        """
        with explained(self.url), closing(self._engine.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA journal_mode=WAL")


def parse_url(text: str) -> URL:
    """A path or URL as an SQLAlchemy URL of a database that the program can use."""
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        url = sqlalchemy.make_url(text)
    except ArgumentError as error:
        raise UserError("Not a database URL", str(error), URL_FIX) from None
    if (backend := url.get_backend_name()) not in INSERTS:
        raise UserError(f"Databases of kind '{backend}' are not supported", _where(url), URL_FIX)
    if url.drivername == "postgresql":  # the driver of our extra, whatever SQLAlchemy's default is
        return url.set(drivername="postgresql+psycopg")
    return url


def _where(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return url.database or "memory"
    return url.render_as_string(hide_password=True)


def _file(url: URL) -> Path | None:
    """The file of an SQLite URL; none for one in memory."""
    return Path(url.database) if url.database and url.database != ":memory:" else None


def _check_file(url: URL, create: bool) -> None:
    """Make the directory; complain about what SQLite would only call "unable to open database file"."""
    path = _file(url)
    if path is None:
        return
    try:
        if path.is_dir():
            raise UserError("The database is a directory", str(path), f"Name a file: --db {path / 'scrpo.db'}")
        if not create and not path.exists():
            fix = "Name one with --db or SCRPO_DB; `scrpo collect` and `scrpo train` make it."
            raise UserError("There is no database", str(path), fix)
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot make the database's directory: {error.strerror}", str(path.parent), PLACE_FIX
        ) from None
    if create and not os.access(path.parent, os.W_OK):
        raise UserError("Cannot write to the database's directory", str(path.parent), PLACE_FIX)


def read_only(url: URL) -> URL:
    """`url` as SQLite can open it where it may not write: its write-ahead log wants two more files beside the database.

    Where they are, another process may be writing, and they are read with it. Where there is no log, nothing is lost
    by not looking for one. UserError for a log that cannot be read.
    """
    path = _file(url) if url.get_backend_name() == "sqlite" else None
    if path is None or os.access(path.parent, os.W_OK):
        return url
    log, index = path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
    if not (log.exists() and log.stat().st_size):
        query = {"immutable": "1"}
    elif index.exists():
        query = {"mode": "ro"}
    else:
        what = "The newest rows stand in a log that cannot be read where nothing can be written"
        raise UserError(what, str(log), COPY_FIX)
    return url.set(database=path.absolute().as_uri(), query={**url.query, **query, "uri": "true"})


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _identities(url: URL) -> dict[Path, tuple[int, int]]:
    """The files of an open SQLite database. None of them changes place as long as a connection is open."""
    path = _file(url) if url.get_backend_name() == "sqlite" else None
    files = [] if path is None else [path.absolute(), path.absolute().with_name(f"{path.name}-wal")]
    return {file: identity for file in files if (identity := _identity(file))}


def make_engine(url: URL) -> Engine:
    """SQLAlchemy's engine with our transactions; nothing is opened yet."""
    try:
        if url.get_backend_name() != "sqlite":
            return sqlalchemy.create_engine(url, pool_pre_ping=True)
        arguments = {} if "timeout" in url.query else {"timeout": BUSY_TIMEOUT_S}
        engine = sqlalchemy.create_engine(url, connect_args=arguments)
    except NoSuchModuleError:
        raise UserError(f"There is no database driver '{url.drivername}'", _where(url), URL_FIX) from None
    except ModuleNotFoundError as error:
        fix = "pip install 'scrpo-cli[postgres]'"
        raise UserError(f"The database driver {error.name} is not installed", _where(url), fix) from None
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: sqlite3.Connection, _: object) -> None:
    """SQLite's driver begins transactions by rules of its own: switch that off, `_on_begin` does it."""
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")


def _on_begin(connection: Connection) -> None:
    """A writer takes the write lock at once: waiting for it later, holding a read lock, fails without any wait."""
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _backup(url: URL, name: str) -> None:
    """A copy of an SQLite file beside it, named after the first migration that it has not seen."""
    path = _file(url) if url.get_backend_name() == "sqlite" else None
    if path is None:
        return
    target = path.with_name(f"{path.name}.before-{name}")
    with write_atomically(target) as new:
        new.unlink(missing_ok=True)  # left by a process that was killed
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(new)) as copy:
            source.backup(copy)


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Errors of the database as ours; broken constraints pass, for the caller knows what they mean."""
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise explain(error.orig or error, url) from error
    except sqlite3.Error as error:
        raise explain(error, url) from error


def explain(error: BaseException, url: URL) -> ScrpoError:
    """What a driver's error means: UserError for a place that cannot be used, RunError for work that failed."""
    code, where = getattr(error, "sqlite_errorname", "") or getattr(error, "sqlstate", "") or "", _where(url)
    message = str(error).strip().split("\n")[0]
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        fix = "Wait for the process that writes to it, or stop it (`fuser FILE` names it); then try again."
        return UserError("The database is locked by another process", where, fix)
    if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        fix = "Restore a copy, rescue what is left with `sqlite3 FILE .recover`, or name another with --db."
        return UserError(f"Not a database, or a damaged one: {message}", where, fix)
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        fix = "Check that you may write the file and its directory, or name another place with --db."
        return UserError(f"Cannot open the database for writing: {message}", where, fix)
    if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")) or code == "53100":
        fix = "Free disk space, then resume. What was recorded before is safe; this record was rolled back."
        return RunError(f"The database could not be written: {message}", where, fix)
    if not code and url.get_backend_name() != "sqlite":
        return UserError(f"Cannot reach the database: {message}", where, "Check the URL, the server and the password.")
    return RunError(f"The database failed: {message}", where, "--debug shows the statement.")
