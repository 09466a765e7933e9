"""Long work in several sittings: `scrpo` commands one after the other, none of which starts once time is up. What is
done is read from a database each time, so that the same call goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from scrpo_cli.ablation.executors.base import Executor, Finished, Job
from scrpo_cli.errors import Interrupted, RunError, ScrpoError
from scrpo_cli.files import file_stem


@dataclass(frozen=True)
class Part:
    """A piece of the work, and the commands that complete it (none: it is complete), asked for when its turn comes."""

    name: str
    to_do: Callable[[], Sequence[Sequence[str]]]


def sit(parts: Sequence[Part], what: tuple[str, str], logs: Path, db: str, minutes: float, executor: Executor) -> None:
    """Complete part after part. One that fails is left for the next time, and the others go on; RunError then.

    `what`: the words for one part and for several; `logs`: a directory for what the commands say.
    """
    one, several = what
    end, failed = time.monotonic() + 60 * minutes, []
    for number, part in enumerate(parts, start=1):
        for command in part.to_do():
            if time.monotonic() > end:
                print(f"time is up before {one} {number} of {len(parts)} ({part.name}); run it again")
                return
            print(f"{one} {number} of {len(parts)}, {part.name}: scrpo {command[0]}", flush=True)
            stem = f"{file_stem(part.name)}-{command[0]}"
            job = Job(part.name, (*command, "--db", db, "--json"), logs / f"{stem}.json", logs / f"{stem}.log")
            if ended := run_job(executor, job):
                failed.append(f"{part.name}: {ended} ({job.log})")
                break
    if failed:
        raise RunError(f"{len(failed)} {several} failed", "; ".join(failed), "Run the same command again.")
    print(f"all {len(parts)} {several} are done")


def run_job(executor: Executor, job: Job) -> str:
    """What went wrong, or nothing. An interruption ends the job, which saves its state."""
    with closing(executor.run([job])) as events:
        (ended,) = [event for event in events if isinstance(event, Finished)]
    return (ended.error or f"exit code {ended.exit_code}") if ended.exit_code else ""


def parser(prog: str, doc: str | None, one: str) -> tuple[argparse.ArgumentParser, argparse._SubParsersAction]:
    """With the actions `run` and `show` and what every such tool is told; `one` is the word for a part."""
    found = argparse.ArgumentParser(prog=prog, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = found.add_subparsers(dest="action", required=True)
    running = actions.add_parser("run", help="start what is missing, and go on with what was interrupted")
    where = running.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=int, default=1, help="runs at a time")
    where.add_argument("--packed", action="store_true", help="all runs of a sweep in one process")
    running.add_argument("--minutes", type=float, default=float("inf"), help=f"start no {one} after these")
    showing = actions.add_parser("show", help="write the tables")
    showing.add_argument("-o", dest="output", metavar="PAGE", type=Path, required=True, help="an existing page")
    for action in actions.choices.values():
        action.add_argument("--db", required=True, help="a path or an SQLAlchemy URL")
    return found, actions


def place_of(options: argparse.Namespace) -> list[str]:
    """Where the runs of a sweep work, as options of `scrpo ablate`."""
    return ["--executor", "packed"] if options.packed else ["--jobs", str(options.jobs)]


def reported(work: Callable[[], None]) -> int:
    """The exit code of a tool."""
    try:
        work()
    except ScrpoError as error:
        print(*error.lines(), sep="\n", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped; what was recorded is safe.", "Run the same command again.", sep="\n", file=sys.stderr)
        return Interrupted.exit_code
    return 0
