"""`scrpo correct`: show the model its pooled errors, have it reflect and solve again, and measure what it repairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.metrics import padded, repair_rate
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import attempts_of, record_step, steps_of, waiting
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.rollout.groups import Origin, grade_groups, sample_asks
from scrpo_cli.rollout.prompts import reflection_ask
from scrpo_cli.training.lab import Lab
from scrpo_cli.training.launch import Launch
from scrpo_cli.types import Attempt, PoolEntry


def errors_to_correct(db: Database, run: Launch) -> list[PoolEntry]:
    """The living entries of the run's pool (its first `limit`) that this run has not tried yet."""
    pool, limit = run.summary["pool"], run.summary["limit"]
    entries = waiting(db, pool)
    if not entries:
        fix = "Fill it with `scrpo collect`, or name another one (`scrpo pool stats`)."
        raise UserError(f"The pool '{pool}' holds no living errors.", db.where, fix)
    tried = {a.parent for a in attempts_of(db, run.run_id)}
    rest = [e for e in entries if e.attempt_id not in tried]
    return rest if limit is None else rest[: limit - len(tried)]


def correct_pool(
    db: Database, run: Launch, lab: Lab, entries: Sequence[PoolEntry], report: Callable[[str], None]
) -> dict[str, Any]:
    """The run's `samples` corrections of each entry; the entries stay alive, their uses are counted."""
    size = lab.recipe.optim.prompts_per_step
    first_step = len(steps_of(db, run.run_id)) + 1
    for step, start in enumerate(range(0, len(entries), size), start=first_step):
        attempts = correct_batch(run, lab, entries[start : start + size], step)
        fixed = sum(a.reward for a in attempts)
        metrics = {"correct/fix_rate": fixed / len(attempts)}
        record_step(db, run.run_id, StepRecord(step, "correct", attempts, metrics=metrics))
        report(f"{min(start + size, len(entries))}/{len(entries)} errors: {fixed:.0f} of {len(attempts)} repaired")
    return summary(attempts_of(db, run.run_id, phase="correct"), run)


def correct_batch(run: Launch, lab: Lab, entries: Sequence[PoolEntry], step: int) -> list[Attempt]:
    asks = [reflection_ask(lab.task, lab.chat, lab.recipe.task, e, run.summary["samples"]) for e in entries]
    origin = Origin(f"{run.run_id}:{step}", lab.recipe.seed, step, "correct")
    completions = sample_asks(lab.engine, lab.chat, asks, lab.sampling, origin)
    groups = grade_groups(lab.task, lab.recipe.task.reflection, asks, completions, origin, lab.chat.prefill)
    return [a for g in groups for a in g.attempts]


def summary(attempts: Sequence[Attempt], run: Launch) -> dict[str, Any]:
    """The repair rate over errors, clustered by problem: each error counts with the mean of its corrections."""
    by_error: dict[str, list[float]] = {}
    by_problem: dict[tuple[str, str], list[str]] = {}
    for attempt in attempts:
        error = attempt.parent or ""
        if error not in by_error:
            by_problem.setdefault((attempt.problem.source, attempt.problem.id), []).append(error)
        by_error.setdefault(error, []).append(attempt.outcome)
    repaired_NK = padded([[mean_graded(by_error[e]) for e in errors] for errors in by_problem.values()])
    wrong_NK = np.where(np.isnan(repaired_NK), np.nan, 0.0)
    rate = repair_rate(wrong_NK, repaired_NK) if by_problem else {"value": None, "ci95": None, "wrong": 0}
    return {
        "run": run.run_id,
        "errors": len(by_error),
        "corrections": len(attempts),
        "repair_rate": rate,
        "solved_by_any": sum(np.nanmax(r) > 0 for r in by_error.values() if not np.isnan(r).all()),
    }


def mean_graded(outcomes: Sequence[float]) -> float:
    graded = [x for x in outcomes if not np.isnan(x)]
    return float(np.mean(graded)) if graded else np.nan
