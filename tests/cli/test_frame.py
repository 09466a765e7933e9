"""Exit codes, the three lines of an error, the one JSON document, and the list of commands."""

from __future__ import annotations

import importlib.machinery
import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer

from scrpo_cli.cli import app
from scrpo_cli.cli.common import DebugOption, JsonOption, Output, write_json
from scrpo_cli.errors import Interrupted, RunError, UserError

Install = Callable[[Callable], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make a function the command `scrpo work`."""

    def put(action: Callable) -> None:
        def work(number: int = 1, json: JsonOption = False, debug: DebugOption = False) -> None:
            """Works."""
            action()

        module = types.ModuleType("scrpo_cli.cli.fake")
        module.__spec__ = importlib.machinery.ModuleSpec("scrpo_cli.cli.fake", None)
        module.work = work  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "scrpo_cli.cli.fake", module)
        monkeypatch.setitem(app.COMMANDS, "work", ("fake:work", "Works, says the table."))

    return put


def throw(error: BaseException) -> Callable:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("what is wrong", "where it is", "how to mend it"), 2),
        (RunError("what is wrong", "where it is", "how to mend it"), 1),
        (Interrupted("what is wrong", "where it is", "how to mend it"), 130),
    ],
)
def test_our_errors_are_three_lines_and_an_exit_code(
    scrpo: Callable, install: Install, error: Exception, code: int
) -> None:
    install(throw(error))
    plain = scrpo("work")
    assert (plain.code, plain.out) == (code, "")
    assert plain.err.splitlines() == ["Error: what is wrong", "  where: where it is", "  fix: how to mend it"]
    machine = scrpo("work", "--json")
    assert machine.code == code
    assert machine.json == {
        "error": {"what": "what is wrong", "where": "where it is", "fix": "how to mend it", "exit_code": code}
    }
    assert machine.err == plain.err


def test_only_debug_shows_the_traceback(scrpo: Callable, install: Install) -> None:
    install(throw(UserError("wrong")))
    assert "Traceback" not in scrpo("work").err
    assert "Traceback" in scrpo("work", "--debug").err


def test_an_unexpected_exception_says_what_where_and_that_debug_tells_more(scrpo: Callable, install: Install) -> None:
    install(throw(ZeroDivisionError("no such number")))
    outcome = scrpo("work")
    assert (outcome.code, outcome.out) == (1, "")
    what, where, fix = outcome.err.splitlines()
    assert what == "Error: ZeroDivisionError: no such number"
    assert "test_frame.py:" in where
    assert "--debug" in fix


def test_ctrl_c_exits_130(scrpo: Callable, install: Install) -> None:
    install(throw(KeyboardInterrupt()))
    outcome = scrpo("work", "--json")
    assert (outcome.code, outcome.json["error"]["what"]) == (130, "Interrupted")


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_command_may_choose_its_exit_code(scrpo: Callable, install: Install, code: int) -> None:
    install(throw(typer.Exit(code)))
    outcome = scrpo("work")
    assert (outcome.code, outcome.err) == (code, "")


@pytest.mark.parametrize(
    ("args", "what", "where"),
    [
        (["wrk"], "Did you mean 'work'?", "scrpo"),
        (["zzz"], "No such command 'zzz'", "scrpo"),
        (["--zzz"], "No such option: --zzz", "scrpo"),
        (["work", "--numbr", "3"], "No such option: --numbr", "scrpo work"),
        (["work", "--number", "x"], "Invalid value for '--number'", "scrpo work"),
        (["work", "extra"], "unexpected extra argument", "scrpo work"),
        (["recipe", "show"], "Missing argument", "scrpo recipe show"),
        (["recipe", "shw"], "Did you mean 'show'?", "scrpo recipe"),
    ],
)
def test_a_wrong_command_line_exits_2(
    scrpo: Callable, install: Install, args: list[str], what: str, where: str
) -> None:
    install(throw(AssertionError("must not run")))
    outcome = scrpo(*args, "--json")
    assert outcome.code == 2
    assert what in outcome.json["error"]["what"]
    assert outcome.json["error"]["where"] == where
    assert outcome.json["error"]["fix"] == f"See `{where} --help`."
    assert len(outcome.err.splitlines()) == 3


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands_that_are_there(
    scrpo: Callable, install: Install, args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(throw(AssertionError("must not run")))
    monkeypatch.setitem(app.COMMANDS, "nowhere", ("no_such_module:run", "Is not there."))
    outcome = scrpo(*args)
    assert outcome.code == 0
    assert "Works, says the table." in outcome.out
    assert "nowhere" not in outcome.out


def test_every_command_has_help(scrpo: Callable) -> None:
    """Also that what the table names exists in its module."""
    for name in app.LazyGroup().list_commands(None):
        outcome = scrpo(name, "--help")
        assert (outcome.code, outcome.err) == (0, ""), name
        assert f"scrpo {name}" in outcome.out


def test_version(scrpo: Callable) -> None:
    outcome = scrpo("--version")
    assert (outcome.code, outcome.out.split()[0]) == (0, "scrpo")


def test_the_answer_goes_to_stdout_and_the_rest_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.say("on the way [bold]to[/bold] \\boxed{3}")  # a model's text is no markup
    output.result({"answer": 1}, "the [C] answer")
    assert capsys.readouterr() == ("the [C] answer\n", "on the way [bold]to[/bold] \\boxed{3}\n")


def test_quiet_says_only_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    output.say("on the way")
    output.result({}, "the answer")
    assert capsys.readouterr() == ("the answer\n", "")


def test_json_has_no_nan_and_takes_what_our_commands_have(capsys: pytest.CaptureFixture[str]) -> None:
    data = {
        "nan": float("nan"),
        "np": np.float32(0.5),
        "row": np.arange(2),
        "path": Path("a/b"),
        "error": UserError("x"),
    }
    write_json(data)
    assert json.loads(capsys.readouterr().out) == {"nan": None, "np": 0.5, "row": [0, 1], "path": "a/b", "error": "x"}


def test_a_closed_pipe_is_no_traceback() -> None:
    """`scrpo recipe schema | head -1`"""
    command = f"{sys.executable} -m scrpo_cli recipe schema | true"
    outcome = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in outcome.stderr
