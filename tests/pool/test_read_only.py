"""Databases where nothing can be written: read as they are, or refused; never in a state of before."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from test_migrations import old_database

from scrpo_cli.errors import UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import list_runs, start_run
from scrpo_cli.recipe.models import Recipe

LOOKS = ("pool ls", "pool stats", "runs ls", "runs show last")
READ = """
import contextlib, io, json, sys
from scrpo_cli.cli.app import main
answers = {}
for line in sys.argv[2:]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
        main([*line.split(), "--db", sys.argv[1], "--json"])
    answers[line] = out.getvalue() or err.getvalue()
print(json.dumps(answers))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a database of one run, `first`, and nothing open."""
    (tmp_path / "home").mkdir()
    add_run(tmp_path / "home", "first")
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["scrpo.db"]
    return tmp_path / "home"


def add_run(folder: Path, name: str) -> None:
    with Database.open(str(folder / "scrpo.db")) as db:
        start_run(db, command="collect", recipe=Recipe(), directory="", model="m", run_id=name)


def leave_log(folder: Path) -> None:
    """As a process leaves a database that was killed after a second run had begun: its row stands in the log alone."""
    copy = folder.with_name("copy")
    with closing(sqlite3.connect(folder / "scrpo.db")) as reader:
        reader.execute("SELECT count(*) FROM run").fetchall()
        add_run(folder, "second")
        shutil.copytree(folder, copy)
    shutil.rmtree(folder)
    copy.rename(folder)


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on the program believes that nothing can be written (a test may run as root, who always can)."""
    return lambda: monkeypatch.setattr("scrpo_cli.pool.db.os.access", lambda *_: False)


def names(folder: Path) -> list[str]:
    with Database.open(str(folder / "scrpo.db"), create=False) as db:
        return sorted(run.id for run in list_runs(db))


def test_nothing_is_made_beside_it(folder, forbid) -> None:
    forbid()
    assert names(folder) == ["first"]
    assert [p.name for p in folder.iterdir()] == ["scrpo.db"]


def test_a_log_that_was_left_is_read(folder, forbid) -> None:
    leave_log(folder)
    forbid()
    assert names(folder) == ["first", "second"]


def test_a_log_that_cannot_be_read_is_refused(folder, forbid) -> None:
    leave_log(folder)
    (folder / "scrpo.db-shm").unlink()
    forbid()
    with pytest.raises(UserError, match="newest rows") as caught:
        names(folder)
    assert len(caught.value.lines()) == 3


def test_a_live_database_is_read_with_its_log(folder, forbid) -> None:
    with Database.open(str(folder / "scrpo.db")) as db:
        start_run(db, command="collect", recipe=Recipe(), directory="", model="m", run_id="second")
        forbid()
        assert names(folder) == ["first", "second"]


def test_writing_and_migrating_are_refused_in_three_lines(folder, tmp_path, forbid) -> None:
    old_database(tmp_path / "old.db", 2, with_rows=True)
    forbid()
    with Database.open(str(folder / "scrpo.db"), create=False) as db, pytest.raises(UserError, match="for writing"):
        start_run(db, command="collect", recipe=Recipe(), directory="", model="m")
    with pytest.raises(UserError, match="Cannot write to the database's directory"):
        Database.open(str(folder / "scrpo.db"))
    with pytest.raises(UserError, match="older schema") as caught:
        Database.open(str(tmp_path / "old.db"), create=False)
    assert len(caught.value.lines()) == 3


@pytest.mark.parametrize("log", [False, True])
def test_commands_that_look_work_on_a_read_only_mount(folder, log) -> None:
    """A mount in a name space of its own, gone with its process."""
    mount = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("mounting needs more rights than this machine gives")
    if log:
        leave_log(folder)
    read = [sys.executable, "-c", READ, str(folder / "scrpo.db"), *LOOKS]
    command = ["unshare", "-m", "sh", "-c", f'{mount} && ! touch {folder}/x 2>&- && exec "$@"', "sh", *read]
    found = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=120)
    assert found.returncode == 0, found.stderr
    answers = {line: json.loads(text) for line, text in json.loads(found.stdout).items()}
    assert all("error" not in answer for answer in answers.values()), answers
    assert [run["id"] for run in answers["runs ls"]["runs"]] == (["second", "first"] if log else ["first"])
