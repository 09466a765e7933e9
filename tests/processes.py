"""`scrpo` in a process of its own, which a test may kill, limit or signal.

The processes are forked from one server that has imported torch and transformers (some seconds of CPU each time
otherwise) and has run nothing; what runs in them is the console entry, as an installed `scrpo` calls it.
"""

from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "200",
    "NO_COLOR": "1",
}
UNSET = ("SCRPO_DB", "WANDB_API_KEY", "WANDB_MODE")
SMALL = {
    "tracking.wandb.mode": "off",
    "rollout.group_size": 4,
    "rollout.max_tokens": 64,
    "optim.prompts_per_step": 4,
    "eval.limit": 4,
    "eval.samples": 1,
}
"""A recipe's sizes for a test: seconds on one core."""
SECONDS = 300  # a hang is a failure
SERVER: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
Hook = Callable[[], None]
"""Called in the new process before `scrpo` starts; a module-level function or an object that can be pickled."""


def small(**more: object) -> list[str]:
    """--set options that make a recipe small; `more` with `__` for dots."""
    sets = SMALL | {name.replace("__", "."): value for name, value in more.items()}
    return [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]


@dataclass(frozen=True)
class Outcome:
    """What a command left behind; `code` is minus the signal's number where one killed it."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as the one JSON document that it must be."""
        return json.loads(self.out)


@dataclass(frozen=True)
class SignalAt:
    """The process sends itself `signum` at the nth call of `target` ("module:Class.function"), before it or after."""

    target: str
    call: int
    when: str = "before"
    signum: int = signal.SIGKILL

    def __call__(self) -> None:
        module, path = self.target.split(":")
        *owners, name = path.split(".")
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        original, calls = getattr(owner, name), iter(range(1, sys.maxsize))

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            now = next(calls) == self.call
            if now and self.when == "before":
                os.kill(os.getpid(), self.signum)
            result = original(*args, **kwargs)
            if now and self.when == "after":
                os.kill(os.getpid(), self.signum)
            return result

        setattr(owner, name, replacement)


@dataclass(frozen=True)
class SignalInStep:
    """SIGTERM when the nth batch that step `step` samples is finished."""

    step: int
    batch: int

    def __call__(self) -> None:
        from scrpo_cli.rollout.transformers_engine import TransformersEngine

        original, batches = TransformersEngine.generate, count(1)

        def generate(engine: Any, prompts: Any, sampling: Any, keys: Any, finished: Any = lambda found: None) -> Any:
            def heard(found: Any) -> None:
                finished(found)
                if keys[0].step == self.step and next(batches) == self.batch:
                    self.strike()

            return original(engine, prompts, sampling, keys, heard)

        TransformersEngine.generate = generate  # type: ignore[method-assign]

    def strike(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


class FailureInStep(SignalInStep):
    """The engine gives up then."""

    def strike(self) -> None:
        from scrpo_cli.errors import RunError

        raise RunError("The engine is gone.", "rollout.engine", "Start it again.")


@dataclass(frozen=True)
class RowsAsked:
    """Adds to `file` what the engine is asked for: a line `step purpose row` for each answer."""

    file: Path

    def __call__(self) -> None:
        from scrpo_cli.rollout.transformers_engine import TransformersEngine

        original = TransformersEngine.generate

        def generate(engine: Any, prompts: Any, sampling: Any, keys: Any, *finished: Any) -> Any:
            with self.file.open("a") as file:
                file.writelines(f"{key.step} {key.purpose} {key.index}\n" for key in keys)
            return original(engine, prompts, sampling, keys, *finished)

        TransformersEngine.generate = generate  # type: ignore[method-assign]

    def read(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []


@dataclass(frozen=True)
class FileSizeLimit:
    """Writing a file beyond `size` bytes fails, which is as near to a full disk as an ordinary user can get."""

    size: int

    def __call__(self) -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


def start_server() -> None:
    """Import what is slow to import, once; under ENVIRONMENT, for some of it is read at import."""
    if SERVER.get_start_method() == "forkserver":
        from multiprocessing import forkserver

        SERVER.set_forkserver_preload(["scrpo_cli.cli.app", "scrpo_cli.jobs.train", "transformers.generation"])
        forkserver.ensure_running()


def run_scrpo(
    args: Sequence[object], directory: Path, hooks: Sequence[Hook] = (), environment: Mapping[str, str] | None = None
) -> Outcome:
    """`scrpo ARGS` in `directory`, to its end."""
    return ended(*start_scrpo(args, directory, hooks, environment or {}))


def start_scrpo(
    args: Sequence[object], directory: Path, hooks: Sequence[Hook], environment: Mapping[str, str], name: str = ""
) -> tuple[Any, list[Path]]:
    """The process and the files of its stdout and stderr."""
    files = [directory / f".stdout{name}", directory / f".stderr{name}"]
    given = ([str(a) for a in args], directory, files, list(hooks), ENVIRONMENT | dict(environment))
    process = SERVER.Process(target=_main, args=given)
    process.start()
    return process, files


def ended(process: Any, files: Sequence[Path]) -> Outcome:
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
    out, err = (file.read_text() for file in files)
    return Outcome(int(process.exitcode or 0), out, err)


def _main(args: list[str], directory: Path, files: list[Path], hooks: list[Hook], environment: dict[str, str]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a suite that runs under nohup inherits "ignore"
    os.chdir(directory)
    for name in UNSET:
        os.environ.pop(name, None)
    os.environ.update(environment)
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
    from scrpo_cli.__main__ import main

    for hook in hooks:
        hook()
    sys.argv = ["scrpo", *args]
    main()
