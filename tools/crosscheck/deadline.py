"""Score rows one by one in a process that can be killed. Standard library only: it runs in every environment."""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing as mp
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Scorer = Callable[[Mapping[str, Any]], dict[str, Any]]
DEADLINE_S, START_S = 30.0, 300.0


def score_rows(make: Callable[[], Scorer], rows: Sequence[Mapping[str, Any]], deadline_s: float) -> Iterator[dict]:
    """One score for each row, in order. `make` builds the scorer inside the process.

    A row that takes longer than its deadline, raises or kills its process has `verdict` None and a `note`.
    """
    process, pipe = None, None
    for row in rows:
        if process is None or pipe is None:
            process, pipe = _start(make)
        pipe.send(row)
        try:
            score = pipe.recv() if pipe.poll(deadline_s) else None
        except EOFError:
            score = {"note": "the grader's process died"}
            deadline_over = True
        else:
            deadline_over = score is None
        if deadline_over:
            process.kill()
            process.join()
            process = None
        yield {"verdict": None, "extracted": None, **(score or {"note": f"no verdict within {deadline_s:g} s"})}
    if process is not None:
        process.kill()
        process.join()


def _start(make: Callable[[], Scorer]) -> tuple[Any, Connection]:
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(make, theirs), daemon=True)
    process.start()
    theirs.close()
    if not ours.poll(START_S):
        raise SystemExit("the grader's process does not start")
    ours.recv()
    return process, ours


def _serve(make: Callable[[], Scorer], pipe: Connection) -> None:
    scorer = make()
    pipe.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            row = pipe.recv()
            try:
                pipe.send(scorer(row))
            except Exception as error:  # noqa: BLE001  # whatever the grader raises is what is to be recorded
                pipe.send({"note": f"{type(error).__name__}: {error}"[:200]})


def main(make: Callable[[], Scorer], packages: Sequence[str]) -> None:
    """The command line of a scorer: reads generations, writes one score a line, the versions in the first one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("generations", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--deadline", type=float, default=DEADLINE_S, help="seconds for each row")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.generations.read_text(encoding="utf-8").splitlines()]
    with args.out.open("w", encoding="utf-8") as out:
        out.write(json.dumps({"versions": {name: version(name) for name in packages}}) + "\n")
        for row, score in zip(rows, score_rows(make, rows, args.deadline)):
            out.write(json.dumps({"row": row["row"], **score}) + "\n")
            if row["row"] % 1000 == 0:
                out.flush()
                print(f"{row['row']} of {len(rows)}", flush=True)
