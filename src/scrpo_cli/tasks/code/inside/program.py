"""The untrusted side: confines itself, runs the program's source, then answers calls of its functions.

Nothing here is a line of defence after the source has run: the program may change all of it, and all it can change is
its own answers.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

from scrpo_cli.tasks.code.inside import kernel
from scrpo_cli.tasks.code.inside.wire import Heap, Unsendable, classes_of, receive, send

MAX_TEXT = 1_000  # characters of an exception's text


def main() -> None:
    """Standard input carries the calls and standard output the answers; the program gets /dev/null for both."""
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(2, 0)
    os.dup2(2, 1)
    setup = receive(requests)
    try:
        kernel.confine(setup["limits"], setup["files"])
    except (OSError, ValueError) as error:
        send(answers, {"failed": str(error)})
        return
    send(answers, {"started": True})
    try:
        classes, module = load(setup)
    except BaseException as error:  # noqa: BLE001 - SystemExit too: what stops the program is its own fault
        send(answers, {"broken": f"the program stops with {described(error)}"})
        return
    if not callable(getattr(module, setup["entry_point"], None)):
        send(answers, {"broken": f"the program defines no function {setup['entry_point']}"})
        return
    send(answers, {"ready": True})
    serve(requests, answers, module, classes, setup["limits"]["answer_kib"] * 1024)


def load(setup: dict[str, Any]) -> tuple[dict[str, type], ModuleType]:
    """Runs the source as a module of its own; not as __main__, so that a script's part at its end does not run."""
    classes = classes_of(setup["modules"])
    module = sys.modules["solution"] = ModuleType("solution")
    exec(compile(setup["program"], "<program>", "exec"), module.__dict__)
    return classes, module


def serve(requests: int, answers: int, module: ModuleType, classes: dict[str, type], limit: int) -> None:
    """One answer for each call, until the checker closes."""
    while True:
        try:
            message = receive(requests)
        except EOFError:
            return
        try:
            send(answers, answer(message, module, classes, limit), limit)
        except (Unsendable, MemoryError) as error:  # too long
            send(answers, {"ended": described(error)})


def answer(message: Any, module: ModuleType, classes: dict[str, type], limit: int) -> dict[str, Any]:
    """The packed result of a call, or what was raised; Unsendable if it is too long."""
    heap = Heap(classes, opaque=True, limit=limit)
    name, args, kwargs = heap.unpack(message)
    try:
        return heap.pack(getattr(module, name)(*args, **kwargs))
    except Unsendable:  # not an exception of the function, which the tests may expect
        raise
    except Exception as error:  # noqa: BLE001 - handed to the tests, which may expect it
        kinds = [cls.__name__ for cls in type(error).__mro__ if cls.__module__ == "builtins"]
        return {"raised": kinds, "text": described(error)}
    except BaseException as error:  # noqa: BLE001
        return {"ended": described(error)}


def described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:MAX_TEXT]


if __name__ == "__main__":
    try:
        main()
    finally:
        os._exit(0)  # no exit handlers, no waiting for the program's threads
