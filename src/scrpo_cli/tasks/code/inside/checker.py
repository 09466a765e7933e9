"""The trusted side: runs the tests; their entry point is a stand-in that asks the program's process.

It alone says `correct`, on a channel that the program never had, and it sees of the program plain values only. What the
program may cause (a wrong value, an exception, its end, an answer that cannot be read) is `wrong`, never
`grader_error`, which is left out of averages: a program must not be able to choose that.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import json
import os
import signal
import symtable
import sys
from collections.abc import Callable, Iterator
from typing import Any

from scrpo_cli.tasks.code.inside import kernel
from scrpo_cli.tasks.code.inside.wire import Heap, Malformed, Unsendable, classes_of, receive, send

MAX_TEXT = 300


class ProgramEnded(BaseException):
    """No answer will come any more. Not an Exception, so that tests which expect one do not take it for theirs."""


class TestsBroken(BaseException):
    """The tests cannot be run, whatever the program is."""


class Program:
    """The other process: its channel and how it fared."""

    def __init__(self, requests: int, answers: int, limit: int, report: Callable[[dict[str, str]], None]) -> None:
        self.calls = 0
        self.end: str | None = None
        self._requests, self._answers, self._limit, self._report = requests, answers, limit, report

    def start(self, setup: dict[str, Any]) -> None:
        """Its first message is written before a line of the program's source runs, so it can be believed."""
        with contextlib.suppress(BrokenPipeError):  # its launcher gave up, and has said why
            send(self._requests, setup)
        try:
            first = receive(self._answers, self._limit)
        except (OSError, EOFError, Malformed) as error:
            raise TestsBroken("the sandbox did not start") from error
        if first != {"started": True}:
            raise TestsBroken(f"the sandbox did not start: {first.get('failed')}")
        self._report({"state": "started"})
        reply = self._receive("while its source ran")
        if reply != {"ready": True}:
            raise self._ended(_text(reply, "broken"))
        self._report({"state": "ready"})

    def call(self, classes: dict[str, type], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer of the program's function; raises what that raised, as the nearest builtin exception."""
        if self.end is not None:
            raise ProgramEnded
        heap = Heap(classes)
        try:
            question = heap.pack((name, args, kwargs))
        except Unsendable as error:
            if self.calls:  # it may have come from an answer
                raise self._ended(f"the tests cannot go on with an answer: {error}") from None
            raise TestsBroken(f"the tests pass what cannot be sent: {error}") from error
        try:
            send(self._requests, question)
        except OSError:
            raise self._ended("the program ended before a call") from None
        if not self.calls:  # said before the answer is looked at: it may be made to kill this process
            self._report({"state": "asked"})
        reply = self._receive("during a call")
        self.calls += 1
        if not isinstance(reply, dict) or "ended" in reply:
            raise self._ended(f"a call ends with {_text(reply, 'ended')}")
        if "raised" in reply:
            raise _exception(reply)
        try:
            return heap.unpack(reply)
        except Malformed as error:
            raise self._ended(str(error)) from None

    def _receive(self, when: str) -> Any:
        try:
            return receive(self._answers, self._limit)
        except (EOFError, OSError):
            raise self._ended(f"the program ended {when}") from None
        except (Malformed, MemoryError) as error:
            raise self._ended(str(error)) from None

    def _ended(self, why: str) -> ProgramEnded:
        self.end = why
        return ProgramEnded(why)


def main() -> None:
    """Standard input holds the setup, standard output takes the reports; the tests get /dev/null for both."""
    channel = os.dup(1)
    setup = receive(0)
    os.dup2(2, 0)
    os.dup2(2, 1)

    def report(state: dict[str, str]) -> None:
        os.write(channel, json.dumps(state).encode() + b"\n")

    limits = setup["program"]["limits"]
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # tests that never end would outlive us
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # its memory is closed to other processes of the same user
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.limit("AS", max(limits["memory_mib"], 512) * kernel.MIB)
    kernel.limit("FSIZE", 0)
    program = Program(setup["requests"], setup["answers"], limits["answer_kib"] * 1024, report)
    verdict, reason = judge(program, setup)
    report({"verdict": verdict, "reason": reason})


def judge(program: Program, setup: dict[str, Any]) -> tuple[str, str]:
    """The verdict of the tests on the program."""
    try:
        code, classes = prepare(setup)
        program.start(setup["program"])
        entry_point = setup["entry_point"]

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            return program.call(classes, entry_point, args, kwargs)

        exec(code, {"__name__": "tests", entry_point: stand_in})
    except TestsBroken as error:
        return "grader_error", str(error)
    except BaseException as error:  # noqa: BLE001 - also SystemExit and KeyboardInterrupt
        if program.end is not None:
            return "wrong", program.end
        if not program.calls:
            return "grader_error", f"the tests fail before they call the program: {_described(error)}"
        return "wrong", _described(error)
    if program.end is not None:  # tests that catch everything do not forgive a program its end
        return "wrong", program.end
    return ("correct", "") if program.calls else ("grader_error", "the tests never call the program")


def prepare(setup: dict[str, Any]) -> tuple[Any, dict[str, type]]:
    """The compiled tests and the trusted modules' classes. A name that the tests leave open would be the program's to
    fill (HumanEval/32 tests roots by the program's own `poly`): only the entry point may be.
    """
    try:
        classes = classes_of(setup["program"]["modules"])
        code = compile(setup["tests"], "<tests>", "exec")
        unknown = open_names(setup["tests"]) - {setup["entry_point"]}
    except Exception as error:
        raise TestsBroken(f"the tests cannot be read: {_described(error)}") from error
    if unknown:
        raise TestsBroken(f"the tests use names that they do not define: {', '.join(sorted(unknown))}")
    return code, classes


def open_names(source: str) -> set[str]:
    """Names that a module reads and never binds. A star import may bind any name; then there is nothing to say."""
    module = symtable.symtable(source, "<tests>", "exec")
    scopes = list(_scopes(module))
    bound = {s.get_name() for s in module.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    bound |= {
        s.get_name() for scope in scopes for s in scope.get_symbols() if s.is_declared_global() and s.is_assigned()
    }
    read = {
        symbol.get_name()
        for scope in scopes
        for symbol in scope.get_symbols()
        if symbol.is_referenced() and (symbol.is_global() or scope is module)
    }
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    starred = any(alias.name == "*" for node in imports for alias in node.names)
    return set() if starred else read - bound - set(dir(builtins)) - {"__name__"}


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)


def _exception(reply: dict[str, Any]) -> Exception:
    """The first of the named classes that can be raised here. StopIteration would end a loop of the tests early, and
    with it their questions.
    """
    kinds = reply["raised"] if isinstance(reply["raised"], list) else []
    for name in kinds:
        cls = getattr(builtins, name, None) if isinstance(name, str) else None
        if (
            isinstance(cls, type)
            and issubclass(cls, Exception)
            and not issubclass(cls, StopIteration | StopAsyncIteration)
        ):
            try:
                return cls(_text(reply, "text"))
            except TypeError:  # UnicodeDecodeError and the like want more
                continue
    return RuntimeError(_text(reply, "text"))


def _text(reply: Any, key: str) -> str:
    """A text of the program's; whatever it is, at most a line."""
    value = reply.get(key) if isinstance(reply, dict) else None
    return " ".join(value.split())[:MAX_TEXT] if isinstance(value, str) else "an answer that cannot be read"


def _described(error: BaseException) -> str:
    """Its type, its text and the line of the tests."""
    trace, line = error.__traceback__, 0
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<tests>" else line
        trace = trace.tb_next
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a number of a million digits
        text = ""
    where = f" (line {line} of the tests)" if line else ""
    return " ".join(f"{type(error).__name__}{': ' if text else ''}{text}".split())[:MAX_TEXT] + where


if __name__ == "__main__":
    try:
        main()
    finally:
        sys.stdout = None  # type: ignore[assignment]
        os._exit(0)
