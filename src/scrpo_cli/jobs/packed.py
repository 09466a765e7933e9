"""Commands that a sweep would start as processes, run in one: training runs over one base model (`training.packing`).

What each prints goes to files of its own, as theirs would. Who starts and who ends is said on stdout, a JSON object a
line.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import ModelConfig, Recipe
from scrpo_cli.signals import NOTICES, Stopped, handled
from scrpo_cli.streams import Routed, routed
from scrpo_cli.threads import in_a_thread
from scrpo_cli.tracking import activity

if TYPE_CHECKING:
    from scrpo_cli.training.packing import Seat

OTHERWISE = "or take another executor."


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


def check_packed(recipes: Sequence[Recipe]) -> None:
    """UserError where runs under them cannot share a base model, or would start a vLLM each, with a base of its own."""
    first = recipes[0].model
    for recipe in recipes:
        if recipe.model != first:
            key = next(key for key in ModelConfig.model_fields if getattr(recipe.model, key) != getattr(first, key))
            values = f"{getattr(first, key)} and {getattr(recipe.model, key)}"
            fix = f"Put arms of other models into sweeps of their own, {OTHERWISE}"
            raise UserError("Packed runs share one base model and its settings.", f"model.{key}: {values}", fix)
        if recipe.rollout.engine == "vllm":
            raise no_vllm("vllm")


def no_vllm(engine: str) -> UserError:
    what = "Packed runs cannot share a vLLM inside of their process."
    fix = f"Set rollout.engine to transformers, or to vllm_server beside a server, {OTHERWISE}"
    return UserError(what, f"rollout.engine: {engine}", fix)


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

    with handled(stop), routed() as streams:
        while (waiting and not stopped) or running:
            while waiting and not stopped and len(running) < (most or len(commands)):
                command = waiting.popleft()
                seats.append(Seat(packing))
                say(Event(command.name))
                running[in_a_thread(work(command, seats[-1], streams, run))] = command, time.monotonic()
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                command, began = running.pop(done)
                say(Event(command.name, done.result(), time.monotonic() - began))


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


def say(event: Event) -> None:
    sys.stdout.write(json.dumps(asdict(event)) + "\n")
    sys.stdout.flush()
