"""A run's stored attempts for others to read (docs/exports.md): lines in the shape that `scrpo grade`, `collect` and
`eval` read from a file, logs of Inspect, and a data set of Parquet files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.outcomes import REPAIR
from scrpo_cli.files import write_lines
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import EVALUATED, StoredEvaluation, attempts_of, evaluations_of, phases_of
from scrpo_cli.streams import is_stdout
from scrpo_cli.types import Attempt


def export_run(db: Database, run: RunRow, path: Path, *, everything: bool = False) -> int:
    """Write the answers of the run's evaluations, or all attempts, as JSONL; the number of lines. The file appears
    whole or not at all.
    """
    phases = phases_to_write(db, run, path, everything)
    rows = (row for phase, evaluation in phases.items() for row in rows_of(db, run, phase, evaluation))
    return write_lines(path, (json.dumps(row, ensure_ascii=False) for row in rows))


def export_inspect(db: Database, run: RunRow, folder: Path) -> tuple[int, int]:
    """Write the run's evaluations as logs of Inspect into a directory; how many logs and samples. UserError where
    inspect-ai is not installed, or nothing was evaluated to its end.
    """
    refuse_stream(folder, "inspect")
    evaluations = evaluations_of(db, run.id)
    if not evaluations:
        fix = f"`{db.command('runs', 'export', run.id, '--all', '-o', 'attempts.jsonl')}` writes what there is."
        raise UserError(f"Run {run.id} has no finished evaluation, which a log of Inspect is.", db.where, fix)
    if find_spec("inspect_ai") is None:
        raise UserError("inspect-ai is not installed.", "--format inspect", "pip install 'scrpo-cli[inspect]'")
    from scrpo_cli.jobs.inspect_log import write_logs

    return write_logs(db, run, evaluations, folder)


def refuse_stream(folder: Path, form: str) -> None:
    if is_stdout(folder):
        fix = "Name a directory with -o, or leave out --format."
        raise UserError(f"--format {form} writes a directory.", f"-o {folder}", fix)


def phases_to_write(db: Database, run: RunRow, path: Path, everything: bool) -> dict[str, StoredEvaluation | None]:
    """The phases of a run's attempts, evaluations with their numbers (none as long as one is not finished)."""
    phases = [phase for phase in phases_of(db, run.id) if everything or phase.startswith(EVALUATED)]
    if not phases:
        everything_too = db.command("runs", "export", run.id, "--all", "-o", str(path))
        fix = f"`{everything_too}` also writes what was sampled for training."
        raise UserError(f"Run {run.id} has no answers to a benchmark.", db.where, fix)
    unfinished = {p: StoredEvaluation(0, p.removeprefix(EVALUATED), {}) for p in phases if p.startswith(EVALUATED)}
    evaluated = unfinished | {e.phase: e for e in evaluations_of(db, run.id)}
    return {phase: evaluated.get(phase) for phase in phases}


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
