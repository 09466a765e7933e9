"""Worker processes hear nothing of what a terminal sends, and none outlives whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SECONDS = 60
PARENT = """
import functools, os, signal, sys, time
from scrpo_cli.tasks.processes import KillableProcesses
if __name__ == "__main__":
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, lambda *_: None)
    workers = KillableProcesses(1, 600.0, functools.partial(print, flush=True), ("started",))
    print(workers.map(time.sleep, [(float(sys.argv[1]),)], ""), flush=True)
    workers.close()
"""


def start(directory: Path, seconds: float) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A process in a group of its own whose worker sleeps, and the worker, which may still be starting."""
    (directory / "parent.py").write_text(PARENT)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    parent = subprocess.Popen([sys.executable, directory / "parent.py", str(seconds)], start_new_session=True, **pipes)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        children = psutil.Process(parent.pid).children()
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        if workers:
            return parent, workers[0]
        time.sleep(0.01)
    raise AssertionError("no worker started")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_sends_to_all_ends_no_worker_and_prints_nothing(tmp_path: Path, signum: int) -> None:
    parent, _ = start(tmp_path, 0.5)
    for _ in range(5):  # from the worker's first moment on
        os.killpg(parent.pid, signum)
        time.sleep(0.1)
    out, err = parent.communicate(timeout=SECONDS)
    assert (out, err) == ("started\n[None]\n", "")


def test_a_worker_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent, worker = start(tmp_path, 600)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    parent.kill()
    parent.wait()
    gone, _ = psutil.wait_procs([worker], timeout=SECONDS)
    assert gone == [worker]


CHECK = """
from scrpo_cli.tasks.code.execute import Tests, check, find_isolation
from scrpo_cli.tasks.code.isolation import Limits
box = find_isolation()
print("found", flush=True)
check("def f(): pass", Tests("while True: pass", "f"), Limits(wall_s=600, cpu_s=600), box)
"""


def test_tests_that_never_end_do_not_outlive_a_command_that_is_killed(tmp_path: Path) -> None:
    command = subprocess.Popen([sys.executable, "-c", CHECK], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert command.stdout is not None
    assert command.stdout.readline() == "found\n"
    deadline = time.monotonic() + SECONDS
    started: list[psutil.Process] = []
    while not any(child.cpu_times().user > 1 for child in started):  # the tests run
        assert time.monotonic() < deadline
        time.sleep(0.1)
        started = psutil.Process(command.pid).children(recursive=True)
    command.kill()
    command.wait()
    gone, left = psutil.wait_procs(started, timeout=SECONDS)
    assert (len(gone) >= 2, left) == (True, [])
