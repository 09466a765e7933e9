"""A run's stored attempts in the shape that `scrpo grade`, `collect` and `eval` read from a file (docs/data.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.outcomes import REPAIR
from scrpo_cli.files import write_lines
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import EVALUATED, StoredEvaluation, attempts_of, evaluations_of, phases_of
from scrpo_cli.types import Attempt


def export_run(db: Database, run: RunRow, path: Path, *, everything: bool = False) -> int:
    """Write the answers of the run's evaluations, or all attempts; the number of lines. The file appears whole or not
    at all.
    """
    phases = [phase for phase in phases_of(db, run.id) if everything or phase.startswith(EVALUATED)]
    unfinished = {p: StoredEvaluation(0, p.removeprefix(EVALUATED), {}) for p in phases if p.startswith(EVALUATED)}
    evaluated = unfinished | {e.phase: e for e in evaluations_of(db, run.id)}
    if not phases:
        everything_too = db.command("runs", "export", run.id, "--all", "-o", str(path))
        fix = f"`{everything_too}` also writes what was sampled for training."
        raise UserError(f"Run {run.id} has no answers to a benchmark.", db.where, fix)
    rows = (row for phase in phases for row in rows_of(db, run, phase, evaluated.get(phase)))
    return write_lines(path, (json.dumps(row, ensure_ascii=False) for row in rows))


def rows_of(db: Database, run: RunRow, phase: str, evaluation: StoredEvaluation | None) -> Iterator[dict[str, Any]]:
    """One benchmark or phase of training; of a benchmark all first answers, then the next turn, and so on."""
    attempts = attempts_of(db, run.id, phase=phase)
    if evaluation is None:
        yield from (row_of(a, run.model, a.sample) | {"phase": phase, "run": run.id} for a in attempts)
        return
    prefill = (evaluation.metrics.get("protocol") or {}).get("prefill", "")
    sample: dict[str, int] = {}
    for a in sorted(attempts, key=lambda a: (a.turn, a.part, a.group, a.sample)):
        sample[a.id] = sample.get(a.parent or "", a.sample)  # later turns have that of the answer they revise
        row = row_of(a, run.model, sample[a.id]) | {"prefill": prefill, "benchmark": evaluation.name}
        yield row | {"run": run.id}


def row_of(attempt: Attempt, model: str, sample: int) -> dict[str, Any]:
    problem, completion, grade = attempt.problem, attempt.completion, attempt.grade
    return {
        "id": problem.id,
        "source": problem.source,
        "problem": problem.text,
        "answer": problem.answer,
        "response": completion.text,
        "sample": sample,
        "turn": attempt.turn,
        "kind": REPAIR if attempt.part == REPAIR else attempt.kind.value,
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
