"""`scrpo pool` through the real command line."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import record_step, start_run
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Grade, Problem, Verdict

EVIL = "[bold]so\x1b[2J the answer\n is 8"


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Pool `p`: an entry that was tried twice and repaired once, one that lives, one that is retired."""
    path = tmp_path / "pool.db"
    problem = Problem("3", "gsm8k", "What is 3+4?", "7")

    def made(step: int, sample: int, text: str, verdict: Verdict, parent: str | None = None) -> Attempt:
        kind = AttemptKind.CORRECTION if parent else AttemptKind.FIRST
        completion = Completion([1], [2], [-0.5], text, FinishReason.STOP)
        extracted = "7" if verdict is Verdict.CORRECT else "8"
        return Attempt(f"run:{step}:0:{sample}", problem, completion, Grade(verdict, extracted, None, "math-1"), kind,
                       1, sample, parent)  # fmt: skip

    with Database.open(str(path)) as database:
        start_run(database, command="train", recipe=Recipe(), directory="d", model="tiny", run_id="run")
        first = [made(1, s, EVIL, Verdict.WRONG) for s in range(3)]
        record_step(database, "run", StepRecord(1, "first", first, {a.id: "kept" for a in first}, "p"))
        tries = [
            made(6, 0, "I added wrongly. It is 7", Verdict.CORRECT, "run:1:0:0"),
            made(6, 1, "still 8", Verdict.WRONG, "run:1:0:0"),
        ]
        record_step(database, "run", StepRecord(6, "reflection", tries, {}, "p", [("run:1:0:2", "too_old")]))
    return path


def test_ls(scrpo, db: Path) -> None:
    found = scrpo("pool", "ls", "--db", db, "--json").json
    assert found["total"] == 2
    assert [e["attempt_id"] for e in found["entries"]] == ["run:1:0:0", "run:1:0:1"]
    assert (found["entries"][0]["uses"], found["entries"][0]["repairs"]) == (2, 1)
    shown = scrpo("pool", "ls", "--db", db, "--all", "--limit", 2, "--source", "gsm8k")
    assert "run:1:0:0" in shown.out
    assert "2 of 3 entries" in shown.out


def test_show(scrpo, db: Path) -> None:
    found = scrpo("pool", "show", "run:1:0:0", "--db", db, "--json").json
    (entry,) = found["entries"]
    assert entry == scrpo("pool", "ls", "--db", db, "--json").json["entries"][0], "one name for a field in both"
    assert entry["response"] == EVIL
    life = ("pool", "run_id", "added_step", "retired_step", "retired_reason")
    assert [entry[name] for name in life] == ["p", "run", 1, None, None]
    assert (found["uses"][0]["verdict"], found["uses"][0]["response"]) == ("correct", "I added wrongly. It is 7")
    shown = scrpo("pool", "show", "run:1:0:0", "--db", db).out
    for part in ("What is 3+4?", "gold answer: 7", "[bold]so", "wrong: extracted '8' (math-1)", "still 8"):
        assert part in shown
    assert "Used 2 times, repaired 1 times" in shown
    assert "\x1b" not in shown, "a model's answer cannot steer the terminal"


def test_show_by_prefix(scrpo, db: Path) -> None:
    assert scrpo("pool", "show", "run:1:0:2", "--db", db).code == 0
    many = scrpo("pool", "show", "run", "--db", db)
    assert many.code == 2
    assert "begins 3 pooled attempts" in many.err


@pytest.mark.parametrize("problem", ["3", "gsm8k/3"])
def test_show_a_problem(scrpo, db: Path, problem: str) -> None:
    entries = scrpo("pool", "ls", "--all", "--db", db, "--json").json["entries"]
    assert scrpo("pool", "show", problem, "--db", db, "--json").json == {"entries": entries}
    shown = scrpo("pool", "show", problem, "--db", db).out
    assert "What is 3+4?" in shown
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("run:")] == [
        f"run:1:0:{n}" for n in range(3)
    ]
    assert "too_old at step 6" in shown


def test_a_problem_of_two_sources_is_named_with_its_source(scrpo, db: Path) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("INSERT INTO problem SELECT 'other', id, text, answer, meta_json FROM problem")
        connection.execute("UPDATE attempt SET problem_source = 'other' WHERE id = 'run:1:0:1'")
    both = scrpo("pool", "show", "3", "--db", db)
    assert (both.code, "gsm8k/3, other/3" in both.err) == (2, True)
    (entry,) = scrpo("pool", "show", "other/3", "--db", db, "--json").json["entries"]
    assert (entry["attempt_id"], entry["problem_source"]) == ("run:1:0:1", "other")


def test_stats(scrpo, db: Path) -> None:
    found = scrpo("pool", "stats", "--db", db, "--json").json
    assert found["verdicts"] == {"wrong": 4, "correct": 1}
    assert found["decisions"] == {"kept": 3}
    assert found["repair_rate"]["value"] == 0.5
    assert found["repeated_mistakes"]["top"][0]["attempts"] == 4
    shown = scrpo("pool", "stats", "--pool", "p", "--db", db).out
    for part in ("Pool p", "alive 2, too_old 1", "3 of 3 errors kept", "50.0% [9.5, 90.5]", "oldest 5 steps (3-5: 2)"):
        assert part in shown


def test_stats_of_an_empty_database(scrpo, tmp_path: Path) -> None:
    Database.open(str(tmp_path / "empty.db")).dispose()
    assert scrpo("pool", "stats", "--db", tmp_path / "empty.db").code == 0
    assert scrpo("pool", "ls", "--db", tmp_path / "empty.db", "--json").json == {"total": 0, "entries": []}


def test_export_and_import(scrpo, db: Path, tmp_path: Path) -> None:
    file, new = tmp_path / "p.jsonl", tmp_path / "new.db"
    assert scrpo("pool", "export", "-o", file, "--db", db, "--json").json == {"file": str(file), "entries": 3}
    assert "3 entries and 3 attempts were new" in scrpo("pool", "import", file, "--db", new).out
    assert "nothing was written" in scrpo("pool", "import", file, "--db", new).out
    first, again = (scrpo("pool", "export", "-o", tmp_path / "q.jsonl", "--db", place).code for place in (db, new))
    assert first == again == 0
    assert scrpo("pool", "ls", "--db", new, "--json").json["total"] == 2


def test_a_bad_line_imports_nothing(scrpo, db: Path, tmp_path: Path) -> None:
    file, new = tmp_path / "p.jsonl", tmp_path / "new.db"
    scrpo("pool", "export", "-o", file, "--db", db)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "{", lines[2]]))
    failed = scrpo("pool", "import", file, "--db", new)
    assert failed.code == 2
    assert f"{file}:2" in failed.err
    assert "Nothing was imported" in failed.err
    assert scrpo("pool", "ls", "--db", new, "--json").json["total"] == 0


def test_ungraded_answers_are_sent_to_collect(scrpo, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps({"id": "1", "problem": "1+1", "answer": "2", "response": "3"}))
    failed = scrpo("pool", "import", file)
    assert failed.code == 2
    assert "scrpo collect --from-jsonl" in failed.err


def test_prune(scrpo, db: Path) -> None:
    dry = scrpo("pool", "prune", "--older-than-steps", 4, "--retired", "--dry-run", "--db", db)
    assert "2 living entries would be retired, 1 retired ones would be deleted" in dry.out
    assert scrpo("pool", "ls", "--all", "--db", db, "--json").json["total"] == 3
    done = scrpo("pool", "prune", "--older-than-steps", 4, "--retired", "--db", db, "--json").json
    assert done == {"retired": 2, "deleted": 1, "dry_run": False}
    assert scrpo("pool", "ls", "--all", "--db", db, "--json").json["total"] == 2
    assert scrpo("pool", "prune", "--db", db).code == 2


def test_the_database_of_the_environment(scrpo, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRPO_DB", str(db))
    assert scrpo("pool", "ls", "--json").json["total"] == 2


# --- databases that cannot be used ----------------------------------------------------------------------------------


def failed(outcome, code: int, *parts: str) -> None:
    """Three lines on stderr, the same as JSON on stdout, and the exit code."""
    assert outcome.code == code
    assert len(outcome.err.splitlines()) == 3
    error = outcome.json["error"]
    assert all(error[name] for name in ("what", "where", "fix"))
    for part in parts:
        assert part in outcome.err


def test_no_database(scrpo, tmp_path: Path) -> None:
    failed(scrpo("pool", "ls", "--json"), 2, "There is no database", ".scrpo/scrpo.db", "scrpo collect")
    assert not list(tmp_path.iterdir())


def test_a_newer_database(scrpo, db: Path) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("INSERT INTO migration VALUES ('m999_future')")
    before = db.read_bytes()
    failed(scrpo("pool", "stats", "--db", db, "--json"), 2, "newer than this program", "m999_future")
    failed(scrpo("pool", "prune", "--pool", "p", "--db", db, "--json"), 2, "newer")
    assert db.read_bytes() == before


def test_a_corrupt_database(scrpo, db: Path) -> None:
    db.write_bytes(db.read_bytes()[:4096] + b"\xa5" * 8192)
    failed(scrpo("pool", "ls", "--db", db, "--json"), 2, "damaged", ".recover")


def test_a_file_that_is_none(scrpo, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: tiny\n" * 50)
    failed(scrpo("pool", "ls", "--db", tmp_path / "recipe.yaml", "--json"), 2, "Not a database")


def test_a_locked_database(scrpo, db: Path) -> None:
    with closing(sqlite3.connect(db)) as other:
        other.execute("BEGIN IMMEDIATE")
        locked = scrpo("pool", "prune", "--pool", "p", "--db", f"sqlite:///{db}?timeout=0.1", "--json")
        failed(locked, 2, "locked by another process", str(db))
        assert scrpo("pool", "ls", "--db", db, "--json").json["total"] == 2, "looking needs no lock"


def test_a_full_disk(scrpo, db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "p.jsonl"
    scrpo("pool", "export", "-o", file, "--db", db)
    big = json.loads(file.read_text().splitlines()[0]) | {"attempt_id": "big", "response": "x" * 100_000}
    file.write_text(json.dumps(big))
    from scrpo_cli.pool import db as module

    def full(connection: sqlite3.Connection, record: object) -> None:
        """SQLite's own word for a full disk, without filling one."""
        connect(connection, record)
        connection.execute(f"PRAGMA max_page_count={connection.execute('PRAGMA page_count').fetchone()[0]}")

    connect = module._on_connect
    monkeypatch.setattr(module, "_on_connect", full)
    failed(scrpo("pool", "import", file, "--db", db, "--json"), 1, "disk is full", "Free disk space")
    monkeypatch.undo()
    assert scrpo("pool", "ls", "--all", "--db", db, "--json").json["total"] == 3
    assert len(scrpo("runs", "ls", "--db", db, "--json").json["runs"]) == 1
