"""What a signal, a reader that goes away and a kill leave behind, whatever the command: a word, a code, a status."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from processes import ENVIRONMENT, SignalAt, small
from run_rows import execute

SIZES = small(optim__steps=3, eval__every="null", eval__repair="false", method__filter__mode="none")
LOADING = "scrpo_cli.training.runtime:load_policy"
RUNS = {
    "train-loading": (("train",), SignalAt(LOADING, 1, "before", signal.SIGTERM)),
    "collect-loading": (("collect", "--limit", 8), SignalAt(LOADING, 1, "after", signal.SIGHUP)),
    "collect": (("collect", "--limit", 8), SignalAt("scrpo_cli.jobs.collect:record_step", 2, "before", signal.SIGTERM)),
    "advise": (("advise",), SignalAt("scrpo_cli.jobs.advise:record_step", 1, "before", signal.SIGTERM)),
    "eval": (("eval",), SignalAt("scrpo_cli.evaluation.runner:sample_requests", 1, "after", signal.SIGHUP)),
}


@dataclass(frozen=True)
class Ignored:
    """`nohup`: the command starts with hangups ignored."""

    def __call__(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


@dataclass(frozen=True)
class NobodyReads:
    """`| head`, when it has ended: from the first call of `target` ("module:function") on."""

    descriptor: int
    target: str

    def __call__(self) -> None:
        module, name = self.target.split(":")
        owner = importlib.import_module(module)
        original = getattr(owner, name)

        def replacement(*args: Any, **kwargs: Any) -> Any:
            self.close()
            return original(*args, **kwargs)

        setattr(owner, name, replacement)

    def close(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, self.descriptor)
        os.close(writer)


def statuses(directory: Path) -> list[str]:
    return [status for (status,) in execute(directory, "SELECT status FROM run ORDER BY created_at")]


@pytest.mark.parametrize(("command", "hook"), RUNS.values(), ids=RUNS)
def test_a_signal_is_answered_in_three_lines_and_the_run_is_interrupted(scrpo_process, tmp_path, command, hook):
    stopped = scrpo_process(*command, *SIZES, hooks=[hook])
    ((run,),) = execute(tmp_path, "SELECT id FROM run")
    assert (stopped.code, statuses(tmp_path)) == (130, ["interrupted"]), stopped.err
    assert stopped.err.splitlines()[-1] == f"  fix: Continue with `scrpo {command[0]} --resume {run}`."
    assert [line[:8] for line in stopped.err.splitlines()[-3:]] == ["Error: S", "  where:", "  fix: C"]


def test_nohup_keeps_a_command_alive(scrpo_process, tmp_path) -> None:
    hangup = SignalAt("scrpo_cli.jobs.collect:record_step", 1, "before", signal.SIGHUP)
    outcome = scrpo_process("collect", "--limit", 4, *SIZES, hooks=[Ignored(), hangup])
    assert (outcome.code, statuses(tmp_path)) == (0, ["done"]), outcome.err


def test_without_a_reader_training_stops_saves_and_can_go_on(scrpo_process, tmp_path) -> None:
    stopped = scrpo_process("train", *SIZES, hooks=[NobodyReads(2, LOADING)])
    assert (stopped.code, statuses(tmp_path)) == (130, ["interrupted"])
    (steps,) = execute(tmp_path, "SELECT count(*) FROM step")[0]
    assert steps < 3
    (run,) = (tmp_path / ".scrpo/runs").iterdir()
    assert len(list(run.glob("checkpoints/step-*"))) == min(steps, 1)
    unread = NobodyReads(1, LOADING)  # the answer is not wanted
    resumed = scrpo_process("train", "--resume", "last", hooks=[unread])
    assert (resumed.code, statuses(tmp_path)) == (0, ["done"]), resumed.err
    assert "Error" not in resumed.err


def scrpo(*arguments: str, directory: Path, code: str = "", **streams: Any) -> subprocess.Popen[str]:
    """`scrpo` from Python's first moment on; `code` comes before its first line."""
    code = f"import sys; sys.argv = ['scrpo', *sys.argv[1:]]\n{code}\nfrom scrpo_cli.__main__ import main\nmain()"
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    environment = os.environ | ENVIRONMENT
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=directory, env=environment, text=True, **given
    )


IN_IMPORT = """
import builtins, os
original, wanted = builtins.__import__, {name!r}
def patched(name, *args, **kwargs):
    global wanted
    if name == wanted:
        wanted = None
        os.kill(os.getpid(), {signum})
    return original(name, *args, **kwargs)
builtins.__import__ = patched
"""


IMPORTS = [
    ("scrpo_cli", signal.SIGINT),  # the first of all
    ("scrpo_cli.cli.app", signal.SIGTERM),
    ("typer", signal.SIGHUP),
    ("pydantic", signal.SIGINT),
    ("sqlalchemy", signal.SIGTERM),
]


@pytest.mark.parametrize(("module", "signum"), IMPORTS, ids=[module for module, _ in IMPORTS])
def test_a_signal_during_imports_prints_no_traceback(tmp_path, module, signum) -> None:
    process = scrpo("runs", "ls", directory=tmp_path, code=IN_IMPORT.format(name=module, signum=int(signum)))
    out, err = process.communicate(timeout=60)
    wanted = "Error: Interrupted\n  where: scrpo runs ls\n  fix: Run the same command again.\n"
    assert (process.returncode, out, err) == (130, "", wanted)


def test_an_interruption_that_python_cannot_raise_is_not_lost(tmp_path) -> None:
    in_a_destructor = """
class Dying:
    def __del__(self):
        import os
        os.kill(os.getpid(), 2)
        for _ in range(1000): pass
import scrpo_cli.cli.app, typer, time
typer.main.get_command = lambda app: (globals().update(x=Dying()), globals().__delitem__("x"), time.sleep(60))
"""
    process = scrpo("runs", "ls", directory=tmp_path, code=in_a_destructor)
    _, err = process.communicate(timeout=50)
    assert (process.returncode, err.splitlines()[0]) == (130, "Error: Interrupted")


AT_EXIT = "import atexit, os; atexit.register(lambda: (os.kill(os.getpid(), {signum}), print('too late', flush=True)))"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_after_the_answer_changes_nothing_but_the_time(tmp_path, signum) -> None:
    process = scrpo("recipe", "schema", directory=tmp_path, code=AT_EXIT.format(signum=int(signum)))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err, "too late" in out) == (0, "", False)
    assert out.startswith("{")


@pytest.mark.parametrize("arguments", [("recipe", "schema"), ("recipe", "ls", "--json"), ("--help",)])
def test_head_may_end_before_us(tmp_path, arguments) -> None:
    process = scrpo(*arguments, directory=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(60)) == ("", 0)


def test_closed_streams_get_no_file_of_ours(tmp_path) -> None:
    shell = f"{sys.executable} -m scrpo_cli collect --limit 4 {' '.join(SIZES)} <&- >&- 2>&-"
    assert subprocess.run(shell, shell=True, cwd=tmp_path, env=os.environ | ENVIRONMENT, check=False).returncode == 0
    assert statuses(tmp_path) == ["done"]


@pytest.fixture
def killed(scrpo_process, tmp_path) -> Path:
    """The directory of a collection that was killed after its first step."""
    hook = SignalAt("scrpo_cli.jobs.collect:record_step", 2)
    assert scrpo_process("collect", "--limit", 8, *SIZES, hooks=[hook]).code == -signal.SIGKILL
    (run,) = (tmp_path / ".scrpo/runs").iterdir()
    return run


def test_a_killed_run_is_told_from_a_running_one(scrpo_process, tmp_path, killed) -> None:
    def listed(*arguments: str) -> list[tuple[str, bool | None]]:
        return [(row["status"], row["alive"]) for row in scrpo_process("runs", "ls", "--json", *arguments).json["runs"]]

    def shown() -> str:
        lines = scrpo_process("runs", "show", "last").out.splitlines()
        return next(line for line in lines if line.strip().startswith("status"))

    assert listed() == listed("--status", "killed") == [("killed", False)]
    assert listed("--status", "running") == []
    assert "no process works on it" in shown()
    assert scrpo_process("pool", "stats", "--json").json["runs"] == {"killed": 1}
    assert statuses(tmp_path) == ["running"], "reading changes no row"
    with FileLock(killed / ".lock"):
        assert listed() == listed("--status", "running") == [("running", True)]
        assert "process" in shown()
        assert scrpo_process("pool", "stats", "--json").json["runs"] == {"running": 1}
    (killed / ".owner.json").write_text('{"pid": 4711, "host": "another"}')
    assert listed() == [("running", None)]
    assert "process 4711 on another" in shown()
    away = killed.rename(tmp_path / "away")
    assert listed() == [("running", None)]
    assert "running?" in scrpo_process("runs", "ls").out
    away.rename(killed)
    assert scrpo_process("collect", "--resume", "last").code == 0
    assert listed() == [("done", False)]
    assert not (killed / ".owner.json").exists()


def test_of_two_that_take_up_a_run_one_is_refused_and_told_by_whom(tmp_path, killed) -> None:
    both = [scrpo("collect", "--resume", "last", "--json", directory=tmp_path) for _ in range(2)]
    said = {p.returncode: err for p in both for _, err in [p.communicate(timeout=120)]}
    if set(said) == {0, 2}:  # on a crowded machine one may be done before the other begins
        assert "Another process is working on run" in said[2]
        assert "by process" in said[2]
    assert set(said) <= {0, 2}
    assert statuses(tmp_path) == ["done"]
    assert execute(tmp_path, "SELECT count(*) FROM attempt") == [(32,)]
