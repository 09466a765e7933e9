"""Commands that a sweep would start as processes, run in one: training runs over one base model (`training.packing`).

What each prints goes to files of its own, as theirs would. Who starts and who ends is said in a file, a JSON object a
line: on stdout libraries have their say too.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING

from scrpo_cli.signals import NOTICES, Stopped, handled
from scrpo_cli.streams import Routed, routed
from scrpo_cli.threads import in_a_thread
from scrpo_cli.tracking import activity

if TYPE_CHECKING:
    from scrpo_cli.training.packing import Seat

EVENTS = "events.jsonl"
"""Beside the file of the commands: who starts and who ends."""


@dataclass(frozen=True)
class Command:
    """`result` and `log` take its stdout and stderr."""

    name: str
    arguments: tuple[str, ...]
    result: str
    log: str


@dataclass(frozen=True)
class Event:
    """A command starts (without an exit code) or ends."""

    name: str
    exit_code: int | None = None
    seconds: float = 0.0


def write_commands(file: Path, commands: Sequence[Command]) -> None:
    file.write_text(json.dumps([asdict(command) for command in commands], indent=2), encoding="utf-8")


def run_commands(file: Path, most: int | None, run: Callable[[Sequence[str]], int]) -> None:
    """Those that `file` holds, `most` at a time; a signal stops all, and each saves its step."""
    from scrpo_cli.training.packing import Packing, Seat  # loads torch, which who writes commands does not need

    commands = [Command(**each) for each in json.loads(file.read_text(encoding="utf-8"))]
    packing, waiting = Packing(most or len(commands)), deque(commands)
    seats: list[Seat] = []
    running: dict[Future[int], tuple[Command, float]] = {}
    stopped = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped and signum not in NOTICES:
            raise Stopped
        stopped = True
        for seat in seats:
            seat.stop.asked = True

    with (
        handled(stop),
        routed() as streams,
        closing(packing),
        file.with_name(EVENTS).open("a", encoding="utf-8") as events,
    ):
        while (waiting and not stopped) or running:
            while waiting and not stopped and len(running) < (most or len(commands)):
                command = waiting.popleft()
                seats.append(Seat(packing))
                say(events, Event(command.name))
                running[in_a_thread(work(command, seats[-1], streams, run))] = command, time.monotonic()
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                command, began = running.pop(done)
                say(events, Event(command.name, done.result(), time.monotonic() - began))


def work(
    command: Command, seat: Seat, streams: tuple[Routed, Routed], run: Callable[[Sequence[str]], int]
) -> Callable[[], int]:
    """What a thread does: the command, in its turns."""

    def do() -> int:
        with open(command.result, "w", encoding="utf-8") as out, open(command.log, "a", encoding="utf-8") as err:
            for stream, file in zip(streams, (out, err), strict=True):
                stream.to(file)
            activity.have_own()
            with seat.working():
                return run(command.arguments)

    return do


def say(events: IO[str], event: Event) -> None:
    events.write(json.dumps(asdict(event)) + "\n")
    events.flush()
