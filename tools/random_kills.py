"""Real `scrpo` processes, stopped at random moments and taken up again, against ones that nobody disturbed.

    python tools/random_kills.py [--runs 25] [--seed N] [--commands train,eval]

Every run is stopped one to three times: by SIGKILL, or by SIGTERM, SIGHUP or SIGINT to all of its processes, anywhere
between its first moment and the time that the undisturbed one took. In the end all that it left must be the same: the
adapter, the optimizer's state, the rows of the database, metrics.jsonl without its times. The last line is the count,
the exit code 0 where it is whole.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from processes import ENVIRONMENT, UNSET, small  # noqa: E402
from run_rows import DATABASE, lines, rows_of  # noqa: E402

SECONDS = 600  # a hang is a failure
PARTS = {"rollout__batch_size": 4, "eval__samples": 2}  # of steps and of evaluations
TRAIN = small(optim__steps=8, checkpoint__every=2, eval__every=5, eval__repair="false", **PARTS)
SWEEP = [*TRAIN, "--set", "optim.max_generated_tokens=6000", "--set", "optim.steps=100"]
COMMANDS = {
    "train": ("train", "--reflect-every", "2", *TRAIN),
    "collect": ("collect", "--limit", "40", *small(method__filter__mode="none")),
    "correct": ("correct", "--limit", "24", "--samples", "2", *small()),
    "eval": ("eval", *small(eval__limit=60, eval__samples=2, rollout__batch_size=8)),
    "ablate": ("ablate", "--vary", "optim.lr=1e-5,1e-4", "--seeds", "1", "--jobs", "2", *SWEEP),
}
SHARES = {"train": 13, "collect": 3, "correct": 3, "eval": 3, "ablate": 3}  # of 25
SIGNALS = {signal.SIGKILL: 6, signal.SIGTERM: 2, signal.SIGHUP: 2, signal.SIGINT: 2}
MOST_STOPS = 3
Left = dict[str, Any]


@dataclass(frozen=True)
class Reference:
    """What a command leaves that nobody disturbs, where it began, and how long it took."""

    start: Path | None
    left: Left
    seconds: float


def environment() -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name not in UNSET}
    path = os.pathsep.join(filter(None, (str(ROOT / "src"), ours.get("PYTHONPATH"))))
    return ours | ENVIRONMENT | {"PYTHONPATH": path}


def start(arguments: Sequence[str], directory: Path) -> subprocess.Popen[bytes]:
    """In a session of its own: signals to its processes do not reach us."""
    with (directory / "stdout").open("wb") as out, (directory / "stderr").open("wb") as err:
        command = [sys.executable, "-m", "scrpo_cli", *arguments]
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        return subprocess.Popen(command, cwd=directory, env=environment(), start_new_session=True, **streams)


def recorded(directory: Path, command: str) -> list[dict[str, Any]]:
    """The rows of the runs of a command, oldest first; none where there is no database yet."""
    try:
        with closing(sqlite3.connect(f"file:{directory / DATABASE}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            found = connection.execute("SELECT * FROM run WHERE command = ? ORDER BY created_at", (command,))
            return [dict(row) for row in found]
    except sqlite3.OperationalError:
        return []


def what_is_left(directory: Path) -> Left:
    """By what a run is (command, arm, seed): all that must not depend on whether it was disturbed."""
    found: Left = {}
    for command in COMMANDS:
        for run in recorded(directory, command):
            key = f"{command} {run['arm'] or ''} seed {run['seed']}"
            if run["status"] == "done":
                assert key not in found, f"two finished runs of {key}"
                found[key] = left_by(Path(run["directory"]), run["id"]) | {"rows": rows_of(directory, run["id"])}
            elif not run["arm"]:  # a sweep may have begun a run that never came to a step
                found[key] = {"status": run["status"]}
    return found


def left_by(run: Path, run_id: str) -> Left:
    checkpoints = sorted((run / "checkpoints").glob("*"))
    left: Left = {
        "newest": [path.name for path in checkpoints[-1:]]
    }  # one before it may be of the step that was stopped
    if (metrics := run / "metrics.jsonl").exists():
        left["metrics"] = lines(metrics)
    if checkpoints:
        left["adapter"] = (checkpoints[-1] / "adapter_model.safetensors").read_bytes()
        left["optimizer"] = torch.load(checkpoints[-1] / "optimizer.pt", weights_only=True)
        left["progress"] = json.loads((checkpoints[-1] / "state.json").read_text())
    return left


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """Where they differ, by the path to it."""
    if isinstance(expected, dict) and isinstance(found, dict):
        both = [name for name in expected if name in found]
        lost = [f"{where}/{name} on one side only" for name in found.keys() ^ expected.keys()]
        return lost + [d for name in both for d in differences(found[name], expected[name], f"{where}/{name}")]
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        pairs = enumerate(zip(found, expected))
        return [d for i, (mine, other) in pairs for d in differences(mine, other, f"{where}/{i}")]
    same = torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected
    return [] if same else [where]


def stop(process: subprocess.Popen[bytes], signum: signal.Signals, moment: float) -> bool:
    """Send the signal `moment` seconds from now, as a terminal does to all processes but SIGKILL to one alone; whether
    it found the process alive.
    """
    try:
        process.wait(moment)
        return False
    except subprocess.TimeoutExpired:
        pass
    if signum == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, signum)
    return True


def disturbed(command: str, reference: Reference, draw: random.Random, directory: Path) -> tuple[list[str], list[str]]:
    """Stop a command and take it up again, to its end: what was done to it, and what is wrong with that."""
    if reference.start is not None:
        shutil.copytree(reference.start, directory, dirs_exist_ok=True)
    done: list[str] = []
    wrong: list[str] = []
    stops = draw.choice((1, 1, 1, 2, MOST_STOPS))
    arguments: Sequence[str] = COMMANDS[command]
    runs: list[dict[str, Any]] = []
    while True:
        killed = bool(runs) and runs[-1]["status"] == "running"  # and not yet taken up: an early signal leaves it so
        process = start(arguments, directory)
        signum = draw.choices(list(SIGNALS), list(SIGNALS.values()))[0]
        moment = draw.uniform(0, reference.seconds)
        hit = len(done) < stops and stop(process, signum, moment)
        code = process.wait(SECONDS)
        runs = recorded(directory, command)
        if hit:
            done.append(f"{signum.name} after {moment:.1f} s")
            wrong += misbehaviour(signum, code, directory, runs, killed)
        elif code == 0 and done:
            wrong += [f"{d} differs" for d in differences(what_is_left(directory), reference.left)][:5]
            return done, wrong + survivors(directory)
        elif code:
            said = (directory / "stderr").read_text()[-1000:]
            return done, [*wrong, f"exit code {code} of {' '.join(arguments[:3])}: {said}"]
        else:  # it was done before its moment came
            shutil.rmtree(directory / ".scrpo")
            if reference.start is not None:
                shutil.copytree(reference.start, directory, dirs_exist_ok=True)
            runs = []
        arguments = (command, "--resume", "last") if runs else COMMANDS[command]


def misbehaviour(signum: int, code: int, directory: Path, runs: Sequence[dict[str, Any]], killed: bool) -> list[str]:
    """What a process did on a signal that it should not have done. Before it recorded a run, Python may have been
    starting, which says and does as it likes.
    """
    if signum == signal.SIGKILL or not runs:
        return []
    said = (directory / "stderr").read_text()
    wrong = [f"{word!r} on stderr: {said[-1000:]}" for word in ("Traceback", "Exception ignored") if word in said]
    if code not in (0, 130):
        wrong.append(f"exit code {code} after signal {signum}: {said[-1000:]}")
    if code == 130 and runs[-1]["status"] == "running" and not killed:
        wrong.append(f"status running after signal {signum}: {said[-1000:]}")
    return wrong


def survivors(directory: Path) -> list[str]:
    """Processes that still work in the directory after all is done, given the time to notice."""
    deadline = time.monotonic() + 20
    while left := [p.info["pid"] for p in psutil.process_iter(["pid", "cwd"]) if p.info["cwd"] == str(directory)]:
        if time.monotonic() > deadline:
            return [f"processes {left} are left"]
        time.sleep(0.2)
    return []


def undisturbed(command: str, start_from: Path | None, directory: Path) -> Reference:
    if start_from is not None:
        shutil.copytree(start_from, directory, dirs_exist_ok=True)
    began = time.monotonic()
    code = start(COMMANDS[command], directory).wait(SECONDS)
    if code:
        raise SystemExit(f"{command} failed undisturbed: {(directory / 'stderr').read_text()}")
    return Reference(start_from, what_is_left(directory), time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--commands", default=",".join(COMMANDS), help="a,b: only these")
    options = parser.parse_args()
    names = options.commands.split(",")
    draw = random.Random(options.seed)
    print(f"{options.runs} runs, --seed {options.seed}", flush=True)
    order = [name for i in range(max(SHARES.values())) for name in names if i < SHARES[name]]
    kinds: Counter[str] = Counter()
    good = 0
    with tempfile.TemporaryDirectory(prefix="scrpo-kills-") as root:
        pool: Path | None = None
        if "correct" in names:  # it needs a pool
            pool = Path(root, "pool")
            pool.mkdir()
            undisturbed("collect", None, pool)
        references = {}
        for name in names:
            place = Path(root, f"undisturbed-{name}")
            place.mkdir()
            references[name] = undisturbed(name, pool if name == "correct" else None, place)
            print(f"{name}: undisturbed in {references[name].seconds:.1f} s", flush=True)
        for i in range(options.runs):
            name, place = order[i % len(order)], Path(root, f"run-{i}")
            place.mkdir()
            done, wrong = disturbed(name, references[name], draw, place)
            kinds.update(d.split()[0] for d in done)
            good += not wrong
            print(f"{i + 1:3d} {name}: {', '.join(done)}: {'; '.join(wrong) or 'the same'}", flush=True)
            shutil.rmtree(place, ignore_errors=True)
    print(", ".join(f"{n} {kind}" for kind, n in kinds.most_common()))
    print(f"{good} of {options.runs} killed runs ended as the undisturbed one")
    sys.exit(good != options.runs)


if __name__ == "__main__":
    main()
