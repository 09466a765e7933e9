"""A program against trusted tests: `check` starts both, watches them, and says how it ended.

The program and the tests live in two processes that share a pipe and nothing else (docs/data.md). `correct` is only
what the checker itself says; the program has no way to say it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from scrpo_cli.errors import UserError
from scrpo_cli.tasks.base import Judgement
from scrpo_cli.tasks.code.inside.kernel import MIB
from scrpo_cli.tasks.code.inside.wire import HEADER
from scrpo_cli.tasks.code.isolation import ENVIRONMENT, FLAGS, Isolation, Limits, candidates, new_uid, script
from scrpo_cli.tasks.code.usage import Excess, check_files, cpu_seconds, family, memory_bytes, remove
from scrpo_cli.types import Verdict

START_S = 60.0  # for two interpreters on a crowded machine
LOOK_S = 0.05  # between two looks at memory and disk


@dataclass(frozen=True, slots=True)
class Tests:
    """Trusted tests, run at module level in a process of their own: they pass if they end without an exception.

    The entry point is a function of the program; every other name must be bound in `code`. Where a prompt gives helpers
    that the tests use (`poly` in HumanEval/32), put their source into `code`: taken from the program, they could be
    replaced. `modules` (name, source) are importable on both sides, and objects of their classes may cross.
    """

    __test__ = False  # for pytest, which takes the name for a test's

    code: str
    entry_point: str
    modules: tuple[tuple[str, str], ...] = ()


def check(
    program: str, tests: Tests, limits: Limits, isolation: Isolation, given_up: threading.Event | None = None
) -> Judgement:
    """The verdict of the tests on a program. Safe to call from many threads; never raises for what a program does. Once
    `given_up` is set nobody waits for the verdict, and the program is ended.
    """
    try:
        with _Check(program, tests, limits, isolation) as running:
            return running.judgement(given_up or threading.Event())
    except OSError as error:  # no more processes, no more files: ours, not the program's
        return Judgement(Verdict.GRADER_ERROR, f"the sandbox did not start: {error}")


def find_isolation(level: str = "auto") -> Isolation:
    """The strongest isolation that works here, or the one asked for; UserError where it cannot be had."""
    if level not in ("auto", "namespaces", "process"):
        raise UserError(f"no isolation level {level!r}", "", "The levels are auto, namespaces and process.")
    reasons = []
    for candidate in candidates():
        if level in ("auto", candidate.level):
            if not (why := fault(candidate)):
                return candidate
            reasons.append(f"{candidate.level} by {candidate.how}: {why}")
    what = f"programs cannot be run at isolation level {level!r} here"
    fix = "Use Linux on x86-64 or ARM64 with user namespaces or bubblewrap; docs/data.md says how, also for Docker."
    raise UserError(what, "; ".join(reasons) or "this system has neither", fix)


@functools.cache
def fault(candidate: Isolation) -> str:
    """Runs a program; empty if that works, else why not."""
    judgement = check("def f():\n    return 42", Tests("assert f() == 42", "f"), Limits(), candidate)
    return "" if judgement.verdict is Verdict.CORRECT else judgement.reason or "failed"


class _Check:
    """The two processes of one check."""

    def __init__(self, program: str, tests: Tests, limits: Limits, isolation: Isolation) -> None:
        self.limits, self.isolation = limits, isolation
        self.for_program: dict[str, Any] = {
            "program": program,
            "modules": dict(tests.modules),
            "entry_point": tests.entry_point,
            "limits": asdict(limits) | {"cpu_s": math.ceil(limits.cpu_s) + 1},  # of each; of all together, see _excess
        }
        self.for_checker = {"program": self.for_program, "tests": tests.code, "entry_point": tests.entry_point}
        self.directory: Path | None = None
        self.state = ""
        """What the checker said last: `started` (the program's source runs), `ready`, `asked`."""
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> _Check:
        with contextlib.ExitStack() as stack:
            uid = new_uid()
            if self.isolation.needs_directory:
                self.directory = Path(os.path.realpath(tempfile.mkdtemp(prefix="scrpo-code-")))
                stack.callback(remove, self.directory)
                if uid is not None:
                    os.chown(self.directory, uid, uid)
            questions, request = os.pipe()
            answers, reply = os.pipe()
            stack.callback(os.close, request)  # while it is open the program waits, to be looked at when the tests end
            with contextlib.ExitStack() as ours:  # our ends of the pipes: the processes hold their own
                for descriptor in (questions, answers, reply):
                    ours.callback(os.close, descriptor)
                self.program = self._start(
                    self.isolation.command(self.limits, self.directory, uid), stdin=questions, stdout=reply
                )
                stack.callback(_end, self.program)
                self.for_program["files"] = self.isolation.files(self.directory)
                if self.directory and uid is None:  # the kernel counts all processes of the user
                    self.for_program["limits"]["processes"] += _threads_of_user()
                setup = stack.enter_context(_message(self.for_checker | {"requests": request, "answers": answers}))
                checker = [sys.executable, *FLAGS, "-c", script("checker")]
                self.checker = self._start(checker, stdin=setup, stdout=subprocess.PIPE, pass_fds=(request, answers))
                stack.callback(_end, self.checker)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _start(self, command: list[str], **channels: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, **channels, stderr=subprocess.DEVNULL, cwd="/", env=ENVIRONMENT, start_new_session=True
        )

    def judgement(self, given_up: threading.Event) -> Judgement:
        """Waits for the checker's word, the deadline, a limit, or until the check is given up."""
        deadline = time.monotonic() + START_S
        for report in self._reports():
            if given_up.is_set():
                return Judgement(Verdict.GRADER_ERROR, "the check was given up")
            if "verdict" in report:
                judgement = Judgement(Verdict(report["verdict"]), report["reason"] or None)
                return (judgement.verdict is Verdict.CORRECT and self._excess()) or judgement
            if "state" in report:
                self.state = report["state"]
                if self.state == "started":
                    deadline = time.monotonic() + self.limits.wall_s
            elif excess := self._excess():
                return excess
            if time.monotonic() > deadline:
                return self._late()
        if self.state in ("started", "asked"):  # when it reads what the program sends
            return Judgement(Verdict.WRONG, "the tests' process ended on the program's answer")
        return Judgement(Verdict.GRADER_ERROR, "the tests' process ended before it called the program")

    def _late(self) -> Judgement:
        if self.state:
            return Judgement(Verdict.TIMEOUT, f"the program took longer than {self.limits.wall_s:g} s")
        return Judgement(Verdict.GRADER_ERROR, f"the sandbox did not start within {START_S:g} s")

    def _reports(self) -> Iterator[dict[str, str]]:
        """What the checker says, and an empty report at every look; ends with the checker."""
        channel = self.checker.stdout
        assert channel is not None
        buffer = b""
        with selectors.DefaultSelector() as selector:
            selector.register(channel, selectors.EVENT_READ)
            while True:
                if not selector.select(LOOK_S):
                    yield {}
                    continue
                data = os.read(channel.fileno(), 1 << 16)
                if not data:
                    return
                *lines, buffer = (buffer + data).split(b"\n")
                yield from map(json.loads, lines)

    def _excess(self) -> Judgement | None:
        """Which limit the program's processes exceed together; each one has its own limits from the kernel. CPU time,
        unlike a clock, does not depend on what else the machine does.
        """
        pids = family(self.program.pid)
        if cpu_seconds(pids) > self.limits.cpu_s:
            return Judgement(Verdict.TIMEOUT, f"the program used more than {self.limits.cpu_s:g} s of CPU time")
        if memory_bytes(pids) > self.limits.memory_mib * MIB:
            return Judgement(Verdict.WRONG, f"the program used more than {self.limits.memory_mib} MiB of memory")
        try:
            if self.directory:
                check_files(self.directory, pids, self.limits)
        except Excess as excess:
            return Judgement(Verdict.WRONG, str(excess))
        return None


@contextlib.contextmanager
def _message(content: Any) -> Iterator[IO[bytes]]:
    """A file that holds one message: unlike a pipe it takes any length without a reader."""
    body = json.dumps(content).encode()
    with tempfile.TemporaryFile() as file:
        file.write(HEADER.pack(len(body)) + body)
        file.seek(0)
        yield file


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, at which the launcher ends all that the program left; SIGKILL for all where that does not help."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        for pid in family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
    if process.stdout:
        process.stdout.close()


def _threads_of_user() -> int:
    """Of all processes of this user: RLIMIT_NPROC is compared with their sum."""
    user, total = os.getuid(), 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            total += process.num_threads() if process.uids().real == user else 0
    return total
