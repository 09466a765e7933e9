"""What the shell offers on TAB, through the protocol by which its own script asks."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import typer.completion

from scrpo_cli.cli import completion
from scrpo_cli.cli.app import COMMANDS
from scrpo_cli.files import DEFAULT_DATABASE
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import finish_run, record_step, start_run
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.benchmark import shipped
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Grade, Problem, Verdict


@pytest.fixture
def offered(scrpo: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """The values that bash gets for a line; it ends where TAB is hit."""

    def ask(line: str) -> list[str]:
        monkeypatch.setenv("_SCRPO_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        outcome = scrpo()
        assert (outcome.code, outcome.err) == (0, ""), line
        return outcome.out.split()

    return ask


@pytest.fixture
def db(scrpo: Callable) -> Path:
    """The default database, with a training run that was interrupted and a pooled error; closed, as others leave it."""
    attempt = Attempt("a", Problem("train-7", "tiny", "1+1", "2"), Completion([1], [2], [-0.5], "3", FinishReason.STOP),
                      Grade(Verdict.WRONG, "3", None, "tiny/1"), AttemptKind.FIRST, 1, 0, None)  # fmt: skip
    with Database.open(None) as database:
        start_run(database, command="train", recipe=Recipe(), directory="d", model="tiny", run_id="2026-abcd")
        record_step(database, "2026-abcd", StepRecord(1, "first", [attempt], {"a": "kept"}, "mine"))
        finish_run(database, "2026-abcd", "interrupted", {})
        start_run(database, command="ablate", recipe=Recipe(), directory="d", model="tiny", run_id="2026-swee")
    return Path(DEFAULT_DATABASE)


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("scrpo ", [*COMMANDS]),
        ("scrpo tr", ["train"]),
        ("scrpo pool s", ["show", "stats"]),
        ("scrpo train --re", ["--recipe", "--reflect-every", "--resume"]),
        ("scrpo train --recipe tiny-", ["tiny-grpo"]),
        ("scrpo recipe show score-m", ["score-math", "score-mbpp"]),
        ("scrpo ablate -r tiny,compare/scrpo-s", ["tiny,compare/scrpo-solution"]),
        ("scrpo train -r folder/m", ["folder/mine.yaml"]),
        ("scrpo eval --benchmarks gsm8k,ma", ["gsm8k,math500"]),
        ("scrpo eval --second-turn re", ["reflect", "retry"]),
        ("scrpo collect --format ", ["jsonl", "lm-eval", "inspect"]),
        ("scrpo runs show ", ["last", "2026-swee", "2026-abcd"]),
        ("scrpo runs show la", ["last"]),
        ("scrpo runs show 2026-a", ["2026-abcd"]),
        ("scrpo eval --run 2026", ["2026-abcd"]),
        ("scrpo train --resume ", ["last", "2026-abcd"]),
        ("scrpo collect --resume ", []),
        ("scrpo ablate --extend 20", ["2026-swee"]),
        ("scrpo pool ls --pool ", ["mine"]),
        ("scrpo pool show tr", ["train-7"]),
    ],
)
def test_values(offered: Callable, db: Path, line: str, values: list[str]) -> None:
    Path("folder").mkdir()
    Path("folder/mine.yaml").touch()
    assert offered(line) == values


NOWHERE = (
    "scrpo runs show ",
    "scrpo pool ls --pool ",
    "scrpo train --resume ",
    "scrpo train --nosuch ",
    "scrpo runs show --db nowhere/x.db ",
    "scrpo runs show --db postgresql://nobody@localhost:1/x ",
    "scrpo eval --limit x --run ",
)


@pytest.mark.parametrize("line", NOWHERE)
def test_without_a_database_there_is_nothing_to_offer_and_nothing_is_made(offered: Callable, line: str) -> None:
    assert offered(line) == []
    assert not Path(".scrpo").exists()
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("line", ["scrpo nosuch ", "scrpo 'x ", "scrpo train --recipe=", "scrpo --db "])
def test_a_line_that_makes_no_sense_is_no_error(offered: Callable, line: str) -> None:
    offered(line)


@pytest.mark.parametrize("content", [b"", b"not a database at all"])
def test_a_broken_database_is_no_error(offered: Callable, content: bytes) -> None:
    Path("x.db").write_bytes(content)
    assert offered("scrpo runs show --db x.db ") == []
    assert Path("x.db").read_bytes() == content


def test_nothing_is_written_beside_a_database(offered: Callable, db: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in db.parent.iterdir()}
    assert "last" in offered("scrpo runs show ")
    assert {path: path.stat().st_mtime_ns for path in db.parent.iterdir()} == before


def test_while_another_process_writes(offered: Callable, db: Path) -> None:
    with closing(sqlite3.connect(db)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE run SET status = 'failed'")
        assert offered("scrpo runs show 2026-a") == ["2026-abcd"]


def test_names_are_those_of_the_program() -> None:
    assert {path for path, _ in completion.benchmarks(None, "")} == set(shipped())  # type: ignore[arg-type]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_of_the_shells(scrpo: Callable, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typer.completion, "_get_shell_name", lambda: shell)
    shown = scrpo("--show-completion")
    assert (shown.code, f"_SCRPO_COMPLETE=complete_{shell}" in shown.out) == (0, True)


def test_it_loads_nothing_heavy(db: Path) -> None:
    """Modules, not seconds: those depend on what else the machine does."""
    code = (
        "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); import scrpo_cli.__main__"
    )
    environment = os.environ | {"_SCRPO_COMPLETE": "complete_bash", "COMP_WORDS": "scrpo runs show ", "COMP_CWORD": "3"}
    done = subprocess.run([sys.executable, "-c", f"{code}; scrpo_cli.__main__.main()"], capture_output=True, text=True,
                          env=environment, check=False)  # fmt: skip
    assert "2026-abcd" in done.stdout
    assert not {"torch", "sqlalchemy", "sqlmodel", "transformers", "numpy"} & set(done.stderr.split())


@pytest.mark.parametrize("command", ["train", "advise", "collect", "correct", "eval", "ablate", "grade", "doctor", 
                                     "overlap", "power", "pool ls", "runs ls", "recipe ls"])  # fmt: skip
def test_help_at_80_columns_cuts_no_name_and_shows_no_type_of_a_flag(
    scrpo: Callable, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    shown = scrpo(*command.split(), "--help").out
    assert "bool" not in shown.lower()
    assert "…" not in shown
    named = set(re.findall(r"(?m)^│ \*? *(--[a-z-]+)", shown))
    assert {"--json", "--quiet", "--debug", "--help", "--db"} <= named
