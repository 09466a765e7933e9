"""The first second: every long command says something before it imports what is slow, and then what it is doing; no
command imports what it does not need. By what is imported, not by the clock.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scrpo_cli.jobs import doctor as checks
from scrpo_cli.jobs.doctor import Check

TINY = ("--set", "tracking.wandb.mode=off", "--set", "optim.steps=1", "--set", "eval.limit=2")
SLOW = {
    *("torch", "transformers", "peft", "numpy", "scipy", "sympy", "math_verify", "latex2sympy2_extended"),
    *("sqlalchemy", "sqlmodel", "matplotlib", "wandb", "yaml", "pebble", "datasets", "pandas"),
}
"""Roots of what takes more than a moment to import, and of what a first line can do without."""
AT_FIRST_WORD = """
import os, sys

class FirstWord:
    def write(self, text):
        loaded = sorted({name.partition(".")[0] for name in sys.modules})
        sys.__stdout__.write(text.strip() + "\\n" + " ".join(loaded) + "\\n")
        sys.__stdout__.flush()
        os._exit(0)

    def flush(self): pass
    def isatty(self): return False

sys.stdout = sys.stderr = FirstWord()
from scrpo_cli.cli.app import main
main(sys.argv[1:])
"""
AT_THE_END = """
import atexit, sys
atexit.register(lambda: sys.stderr.write("\\n" + " ".join(sorted({name.partition(".")[0] for name in sys.modules}))))
from scrpo_cli.cli.app import main
main(sys.argv[1:])
"""


def fresh(code: str, *args: object, directory: Path) -> subprocess.CompletedProcess[str]:
    """The code in a new interpreter, to a successful end."""
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train"], "scrpo train: recipe tiny"),
        (["train", "--resume", "last"], "scrpo train: run last"),
        (["collect", "-r", "tiny-grpo"], "scrpo collect: recipe tiny-grpo"),
        (["correct"], "scrpo correct: recipe tiny"),
        (["eval"], "scrpo eval: recipe tiny"),
        (["eval", "--run", "last"], "scrpo eval: run last"),
        (["ablate"], "scrpo ablate: checking the arms"),
        (["doctor"], "scrpo doctor: recipe tiny"),
    ],
)
def test_the_first_line_comes_before_slow_imports(tmp_path: Path, args: list[str], says: str) -> None:
    line, loaded = fresh(AT_FIRST_WORD, *args, directory=tmp_path).stdout.splitlines()
    assert line == says
    assert not SLOW & set(loaded.split())


def test_grading_begins_before_its_processes_do(tmp_path: Path) -> None:
    """The rows are read first, so that a mistake in them stands alone."""
    args = ("grade", "--gold", "1/2", "--answer", "0.5")
    line, loaded = fresh(AT_FIRST_WORD, *args, directory=tmp_path).stdout.splitlines()
    assert line == "scrpo grade: 1 answer, task math"
    assert not {"torch", "scipy", "sympy", "math_verify", "sqlalchemy"} & set(loaded.split())


DATABASE = {"sqlalchemy", "sqlmodel"}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a database, a run and a pool, made from a file of responses; and what that imported."""
    directory = tmp_path_factory.mktemp("filled")
    row = {"id": "1", "problem": "1+1=?", "answer": "2", "response": "\\boxed{3}"}
    (directory / "rows.jsonl").write_text(json.dumps(row) + "\n")
    ended = fresh(AT_THE_END, "collect", "--from-jsonl", "rows.jsonl", directory=directory)
    (directory / "imported").write_text(ended.stderr.splitlines()[-1])
    return directory


@pytest.mark.parametrize(
    ("args", "needs"),
    [
        (["--help"], set()),
        (["train", "--help"], set()),
        (["recipe", "ls"], {"numpy", "yaml"}),
        (["pool", "ls"], {"numpy", "yaml", *DATABASE}),
        (["runs", "ls"], {"numpy", "yaml", *DATABASE}),
        (["eval", "--from-jsonl", "rows.jsonl"], {"numpy", "yaml", "pebble", "scipy", *DATABASE}),
    ],
)
def test_no_command_imports_what_it_does_not_need(filled: Path, args: list[str], needs: set[str]) -> None:
    loaded = set(fresh(AT_THE_END, *args, directory=filled).stderr.splitlines()[-1].split())
    assert not (SLOW - needs) & loaded


def test_external_responses_need_no_torch(filled: Path) -> None:
    assert not {"torch", "transformers", "scipy", "sympy"} & set((filled / "imported").read_text().split())


def test_a_run_says_what_it_does_until_its_first_step(scrpo: Callable, model_dir: Path) -> None:
    model = ("--set", f"model.name={model_dir}", "--set", "rollout.max_tokens=8", "--set", "task.train.limit=20")
    outcome = scrpo("train", *TINY, *model, "--json")
    assert outcome.code == 0
    said = outcome.err.splitlines()
    run = outcome.json["run"]
    stages = [
        "scrpo train: recipe tiny",
        f"run {run}: loading torch, transformers and peft",
        f"loading the model {model_dir}",
        "evaluating before training",
        "evaluating after training",
    ]
    assert [line for line in said if line in stages] == stages
    assert said.index(stages[3]) < next(i for i, line in enumerate(said) if line.startswith("step 1/1 "))
    assert scrpo("train", *TINY, *model, "--quiet", "--json").err == ""


@pytest.fixture
def two_checks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """`scrpo doctor` of two checks; what had been printed when the second one began."""
    before: list[str] = []

    def first(_: object) -> Iterator[Check]:
        yield Check("first", "ok", "fine")

    def second(_: object) -> Iterator[Check]:
        before.append(capsys.readouterr().out)
        yield Check("a longer name than the others", "warn", "so so", "mend it")

    monkeypatch.setattr(checks, "CHECKS", {"first": first, "second": second})
    return before


def test_doctor_shows_each_row_as_it_comes(scrpo: Callable, two_checks: list[str]) -> None:
    outcome = scrpo("doctor")
    assert [line.split() for line in two_checks[0].splitlines()] == [["ok", "first", "fine"]]
    assert "fine" not in outcome.out
    assert [line.strip() for line in outcome.out.splitlines()] == [
        "warn  a longer name than the others  so so",
        "-> mend it",
    ]


def test_doctor_with_json_is_one_document_at_the_end(scrpo: Callable, two_checks: list[str]) -> None:
    outcome = scrpo("doctor", "--json")
    assert two_checks == [""]
    assert [check["name"] for check in outcome.json["checks"]] == ["first", "a longer name than the others"]


LOADED = """
import atexit, sys

class Loaded:
    def __del__(self, write=sys.__stderr__.write): write("taken apart; ")

def at_exit():
    sys.stdout.write("all of it")
    sys.__stderr__.write("handlers run; ")

sys.loaded = Loaded()
from scrpo_cli import signals
from scrpo_cli.__main__ import main
hold = signals.hold
signals.hold = lambda: (atexit.register(at_exit), hold())  # once main has begun, as libraries do
main()
"""


@pytest.mark.parametrize(("args", "code"), [(["--version"], 0), (["runs", "show", "nothing"], 2)])
def test_the_shell_is_back_without_taking_apart_what_was_loaded(args: list[str], code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOADED, *args]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == code
    assert ended.stdout.endswith("all of it")
    assert ended.stderr.endswith("handlers run; ")
