"""A run's stored attempts in the shape that `scrpo grade`, `collect` and `eval` read from a file (docs/grading.md)."""

from __future__ import annotations

import errno
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from scrpo_cli.errors import RunError, UserError
from scrpo_cli.evaluation.answers import FIRST, REPAIR, part, position
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import attempts_of, evaluations_of, phases_of
from scrpo_cli.types import Attempt

EVAL = "eval:"


def export_run(db: Database, run: RunRow, path: Path, *, everything: bool = False) -> int:
    """Write the answers of the run's evaluations, or all attempts; the number of lines. The file appears whole or not
    at all.
    """
    phases = [phase for phase in phases_of(db, run.id) if everything or phase.startswith(EVAL)]
    if not phases:
        fix = "`scrpo runs export --all` also writes what was sampled for training."
        raise UserError(f"Run {run.id} has no answers to a benchmark.", db.where, fix)
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _open(unfinished, compressed=path.suffix == ".gz") as file:
                rows = (row for phase in phases for row in rows_of(db, run, phase))
                count = sum(bool(file.write(json.dumps(row, ensure_ascii=False) + "\n")) for row in rows)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        kind = RunError if error.errno in (errno.ENOSPC, errno.EDQUOT) else UserError
        raise kind(f"Cannot write the file: {error.strerror}", str(path), "Name another place with -o.") from None
    return count


def _open(path: Path, *, compressed: bool) -> IO[str]:
    return gzip.open(path, "wt", encoding="utf-8") if compressed else path.open("w", encoding="utf-8")


def rows_of(db: Database, run: RunRow, phase: str) -> Iterator[dict[str, Any]]:
    """One benchmark or phase of training; of a benchmark all first answers, then the next turn, and so on."""
    attempts = attempts_of(db, run.id, phase=phase)
    if not phase.startswith(EVAL):
        yield from (row_of(a, run.model, a.sample, a.turn) | {"phase": phase, "run": run.id} for a in attempts)
        return
    benchmark = phase.removeprefix(EVAL)
    protocol = next((e.metrics.get("protocol") for e in evaluations_of(db, run.id) if e.benchmark == benchmark), None)
    prefill = (protocol or {}).get("prefill", "")
    sample: dict[str, int] = {}
    for a in sorted(attempts, key=lambda a: (a.turn, part(a.id), position(a.id))):
        sample[a.id] = sample.get(a.parent or "", a.sample)  # later turns have that of the answer they revise
        row = row_of(a, run.model, sample[a.id], turn_of(a)) | {"prefill": prefill, "benchmark": benchmark}
        yield row | {"run": run.id}


def turn_of(attempt: Attempt) -> int:
    """Counts the answers to the problem: a criticism has the number of the answer that follows it."""
    name = part(attempt.id)
    number = re.search(r"\d+$", name)
    return 1 if name == FIRST else int(number[0]) if number else 2


def row_of(attempt: Attempt, model: str, sample: int, turn: int) -> dict[str, Any]:
    problem, completion, grade = attempt.problem, attempt.completion, attempt.grade
    return {
        "id": problem.id,
        "source": problem.source,
        "problem": problem.text,
        "answer": problem.answer,
        "response": completion.text,
        "sample": sample,
        "turn": turn,
        "kind": REPAIR if part(attempt.id) == REPAIR else attempt.kind.value,
        "model": model,
        "verdict": grade.verdict.value,
        "extracted": grade.extracted,
        "reason": grade.reason,
        "grader": grade.grader,
        "tokens": len(completion.ids),
        "finish": completion.finish.value,
        "attempt": attempt.id,
        "parent": attempt.parent,
        "meta": dict(problem.meta),
    }
