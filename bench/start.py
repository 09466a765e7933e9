"""Seconds until a command says its first word, until its first piece of work is done, and until it ends.

python bench/start.py [--against DIR] [--rounds N] [--only A,B] [--quick]

Every run is a fresh process whose stdout and stderr are pipes. `--against` names another checkout: its
commands run in turn with those of this one, in alternating order, so that before and after are measured side by side.
"""

from __future__ import annotations

import compileall
import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from measuring import Grid, machine, options, report, shown, spread
from rich.console import Console

CHECKOUT = Path(__file__).parents[1]
HERE, THERE = "here", "against"
TRL = "trl --help"
ONE_STEP = ("--set", "optim.steps=1")
TWO_ARMS = ("--reflect-every", "2,never")


@dataclass(frozen=True)
class Command:
    """`scrpo ARGUMENTS`, or another program's. `work`: how the line begins that reports its first piece of work, if it
    has one.
    """

    arguments: tuple[str, ...]
    work: str | None = None
    program: str | None = None


COMMANDS = {
    "--help": Command(("--help",)),
    TRL: Command(("--help",), program="trl"),
    "recipe ls": Command(("recipe", "ls")),
    "pool ls": Command(("pool", "ls")),
    "runs ls": Command(("runs", "ls")),
    "grade": Command(("grade", "--gold", r"\frac{1}{\sqrt{2}}", "--answer", r"\frac{\sqrt{2}}{2}"), "correct"),
    "doctor": Command(("doctor",), r"ok +python"),
    "train": Command(("train", *ONE_STEP), "step 1/1 "),
    "collect": Command(("collect", "--limit", "16"), r"(problems \d+ to )?\d+( of |/)\d+( problems)?: "),
    "correct": Command(("correct", "--limit", "8"), r"(errors \d+ to )?\d+( of |/)\d+( errors)?: "),
    "eval": Command(("eval", "--limit", "25"), r"tiny: \d+ of \d+ problems, "),
    "ablate": Command(("ablate", *TWO_ARMS, "--seeds", "1", *ONE_STEP, "--set", "eval.limit=4"), ".*: started"),
}
"""Name -> what runs: every command that loads something heavy, and some that must not."""
FILL = ("collect", "--limit", "16")
"""Makes the database, with a run and a pool, that every measured command finds."""


@dataclass(frozen=True)
class Timing:
    """Seconds after the start of the process; `work` is None where the command reports no work."""

    first: float
    work: float | None
    total: float


def watch(process: subprocess.Popen[bytes], start: float, work: str | None) -> Timing:
    """Read both pipes of `process` to their end. ValueError where the line that `work` describes never came, with what
    came instead.
    """
    pattern = None if work is None else re.compile(work.encode())
    first = found = None
    rest: dict[IO[bytes], bytes] = {}
    said = b""
    with selectors.DefaultSelector() as selector:
        for each in filter(None, (process.stdout, process.stderr)):
            selector.register(each, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                pipe = cast(IO[bytes], key.fileobj)
                read = os.read(pipe.fileno(), 1 << 16)
                now = time.perf_counter() - start
                if not read:
                    selector.unregister(pipe)
                    continue
                first, said = now if first is None else first, said + read
                *lines, rest[pipe] = (rest.get(pipe, b"") + read).split(b"\n")
                if pattern and found is None and any(pattern.match(line) for line in lines):
                    found = now
    process.wait()
    if first is None or (pattern and found is None):
        raise ValueError(f"no line begins with {work or 'anything'}: {said.decode(errors='replace')[-1000:]}")
    return Timing(first, found, time.perf_counter() - start)


class Tree:
    """A copy of a checkout, compiled before anything is timed, and a database that it has filled."""

    def __init__(self, checkout: Path, directory: Path) -> None:
        self.source, self.filled, self.runs = directory / "src", directory / "filled", directory / "runs"
        for part in ("src", "recipes"):
            shutil.copytree(checkout / part, directory / part, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(self.source, quiet=1)
        self.filled.mkdir()
        subprocess.run([*self.scrpo, *FILL], cwd=self.filled, env=self.environment, capture_output=True, check=True)

    @property
    def scrpo(self) -> list[str]:
        return [sys.executable, "-m", "scrpo_cli"]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.source)}

    def time(self, command: Command) -> Timing:
        """One run of the command, in a directory of its own; RuntimeError where it fails."""
        directory = shutil.copytree(self.filled, self.runs)
        try:
            start = time.perf_counter()
            with subprocess.Popen(
                [*(self.scrpo if command.program is None else [str(beside(command.program))]), *command.arguments],
                cwd=directory,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process:
                timing = watch(process, start, command.work)
        finally:
            shutil.rmtree(directory)
        if process.returncode:
            said = f"{command.program or 'scrpo'} {' '.join(command.arguments)}"
            raise RuntimeError(f"{said} ended with {process.returncode} in {self.source}")
        return timing


def beside(program: str) -> Path:
    """Another program of this interpreter's environment."""
    return Path(sys.executable).with_name(program)


def measured(
    trees: Mapping[str, Tree], names: Sequence[str], rounds: int, seconds: float, console: Console
) -> dict[str, Any]:
    """Timings by command and tree; the trees take turns, and every round begins with another one. After `seconds` no
    further round begins.
    """
    end = time.monotonic() + seconds
    timings: dict[str, dict[str, list[Timing]]] = {name: {tree: [] for tree in trees} for name in names}
    for round in range(rounds):
        if round and time.monotonic() > end:
            break
        for name in names:
            for tree in in_turn(list(trees), round):
                timing = trees[tree].time(COMMANDS[name])
                timings[name][tree].append(timing)
                console.print(f"round {round + 1}, {tree}: {name}: {timing.first:.2f} s, in all {timing.total:.2f} s")
    return {name: summary(of_trees) for name, of_trees in timings.items()}


def in_turn(names: list[str], round: int) -> list[str]:
    return names if round % 2 == 0 else names[::-1]


def summary(timings: Mapping[str, Sequence[Timing]]) -> dict[str, Any]:
    """Of one command: spreads by tree, and of how many times as fast this tree was as the other in the same round."""
    found: dict[str, Any] = {}
    for measure in ("first", "work", "total"):
        seconds = {tree: [getattr(t, measure) for t in each] for tree, each in timings.items()}
        if None in next(iter(seconds.values())):
            continue
        found[measure] = {"seconds": {tree: spread(each) for tree, each in seconds.items()}, "rounds": seconds}
        if THERE in seconds:
            pairs = zip(seconds[THERE], seconds[HERE], strict=True)
            found[measure]["times_as_fast"] = spread(there / here for there, here in pairs)
    return found


WORDS = {"first": "first output", "work": "first work", "total": "end"}


def grid(found: Mapping[str, Any]) -> Grid:
    """One row for each command and measure; before and after where two trees were measured."""
    both = any(THERE in row["seconds"] for measures in found.values() for row in measures.values())
    names = [THERE, HERE] if both else [HERE]
    heads = {THERE: "against, s", HERE: "here, s"}
    columns = [*(heads[name] for name in names), *(["times as fast"] if both else [])]
    lines = []
    for name, measures in found.items():
        for i, (measure, row) in enumerate(measures.items()):
            cells = [shown(row["seconds"][tree], 2) for tree in names]
            ratio = [shown(row["times_as_fast"], 2)] if both else []
            lines.append(["" if i else f"`{name}`", WORDS[measure], *cells, *ratio])
    return Grid("Start-up, medians (quartiles)", ["command", "until", *columns], lines)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, which is measured side by side")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=150, help="after which no round begins (default 150)")
    parser.add_argument("--only", metavar="A,B", help=f"some of: {', '.join(COMMANDS)}")
    args = parser.parse_args()
    known = [name for name in COMMANDS if name != TRL or beside("trl").exists()]
    names = args.only.split(",") if args.only else known
    if unknown := [name for name in names if name not in COMMANDS]:
        parser.error(f"no such command: {', '.join(unknown)}; there are {', '.join(COMMANDS)}")
    console, before = Console(), machine()
    checkouts = {HERE: CHECKOUT} | ({THERE: args.against} if args.against else {})
    with tempfile.TemporaryDirectory() as directory:
        trees = {name: Tree(checkout, Path(directory, name)) for name, checkout in checkouts.items()}
        found = measured(trees, names, 1 if args.quick else args.rounds, args.seconds, console)
    data = {"before": before, "commands": found}
    data["arguments"] = {name: COMMANDS[name].arguments for name in names}
    report("start", [grid(found)], data, args.out)


if __name__ == "__main__":
    main()
