"""`scrpo correct`: show the model its pooled errors, have it reflect and solve again, and measure what it repairs.

Each step is one transaction, and an interrupted correction goes on with the errors that the database has no row about,
and with what of their first step was answered (`training.half_step`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.gate import pooled_confidences, reflects, spelled
from scrpo_cli.evaluation.metrics import repair_rate, share
from scrpo_cli.evaluation.outcomes import padded, problem_means
from scrpo_cli.evaluation.protocol import Protocol
from scrpo_cli.evaluation.runner import Evaluator
from scrpo_cli.jobs.evaluate import gate_threshold
from scrpo_cli.jobs.runs import ActiveRun, note_fingerprint
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import attempts_by_id, attempts_of, living_entries, record_step, steps_of
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.groups import Origin
from scrpo_cli.rollout.prompts import reflection_request
from scrpo_cli.tasks.guard import stop_on_failures
from scrpo_cli.tracking.activity import now
from scrpo_cli.training import half_step
from scrpo_cli.training.runtime import Runtime, open_runtime
from scrpo_cli.types import Attempt, AttemptKind, PoolEntry

Report = Callable[[str], None]


def errors_to_correct(db: Database, run: ActiveRun) -> list[PoolEntry]:
    """The living entries of the run's pool: its first `limit`."""
    pool, limit = run.summary["pool"], run.summary["limit"]
    entries = living_entries(db, pool, limit=limit)
    if not entries:
        fill, stats = db.command("collect", "--pool", pool), db.command("pool", "stats")
        fix = f"Fill it with `{fill}`, or name another one (`{stats}`)."
        raise UserError(f"The pool '{pool}' holds no living errors.", db.where, fix)
    return entries


def correct_pool(db: Database, run: ActiveRun, report: Report) -> dict[str, Any]:
    """Correct what lives in the run's pool; what came of it, for the run's summary."""
    entries = errors_to_correct(db, run)  # before a model is loaded
    with open_runtime(run.recipe, run.run_id) as runtime:
        return correct_entries(db, run, runtime, entries, report)


def correct_entries(
    db: Database, run: ActiveRun, runtime: Runtime, entries: Sequence[PoolEntry], report: Report
) -> dict[str, Any]:
    """The run's `samples` corrections of each entry that it has not tried yet and that the gate lets through; the
    entries stay alive, their uses are counted.
    """
    note_fingerprint(db, run, runtime.chat)
    evaluator = Evaluator(protocol_of_corrections(runtime.recipe), runtime.engine, runtime.chat, runtime.task)
    threshold = gate_threshold(db, run, evaluator, [[e.problem for e in entries]], report)
    tried = {a.parent for a in attempts_of(db, run.run_id, phase="correct")}
    rest = [e for e in entries if e.attempt_id not in tried]
    asks = evaluator.protocol.gate.signal == "verdict"
    if not asks:  # no row would tell a resumed run which errors were held back, and its steps would be others
        rest, _ = let_through(db, evaluator, rest, threshold, run.run_id)
    size = runtime.recipe.optim.prompts_per_step
    first_step = len(steps_of(db, run.run_id)) + 1
    for step, start in enumerate(range(0, len(rest), size), start=first_step):
        batch = rest[start : start + size]
        errors = f"errors {start + 1} to {start + len(batch)} of {len(rest)}"
        now().whole(start, len(rest))
        now().stage(f"correcting {errors}")
        with half_step.keeping(run.directory, step, runtime.stamp, run.again, report) as answers:
            asking, limit = replace(evaluator, known=answers), threshold if asks else None
            chosen, asked = let_through(db, asking, batch, limit, f"{run.run_id}:{step}")
            attempts = correct_batch(run, runtime, chosen, step, answers) if chosen else []
            fixed = sum(a.reward for a in attempts)
            graded = sum(not np.isnan(a.outcome) for a in attempts)
            metrics = {"correct/fix_rate": fixed / graded} if graded else {}
            stop_on_failures(runtime.task, str(run.directory), run.again)
            record_step(db, run.run_id, StepRecord(step, "correct", [*asked, *attempts], metrics=metrics))
        half_step.drop(run.directory)
        failed = f", {len(attempts) - graded} not graded" if graded < len(attempts) else ""
        report(f"{errors}: {fixed:.0f} of {len(attempts)} repaired{failed}")
    corrections = attempts_of(db, run.run_id, phase="correct", kind=AttemptKind.CORRECTION.value)
    return summary(corrections, run) | gate_summary(runtime.recipe, threshold, entries, corrections)


def protocol_of_corrections(recipe: Recipe) -> Protocol:
    """Reflects on every first answer, sampled as the corrections are: what a gate is fitted on."""
    cfg = recipe.rollout
    protocol = replace(Protocol.of(recipe), turns=2, second_turn="reflect", repair=False)
    return replace(protocol, temperature=cfg.temperature, top_p=1.0, max_tokens=cfg.max_tokens)


def let_through(
    db: Database, evaluator: Evaluator, entries: Sequence[PoolEntry], threshold: float | None, prefix: str
) -> tuple[list[PoolEntry], list[Attempt]]:
    """The entries that are reflected on, and what the model was asked to decide that."""
    if threshold is None:
        return list(entries), []
    attempts = attempts_by_id(db, [e.attempt_id for e in entries])
    confidence_E, asked = pooled_confidences(evaluator, entries, attempts, prefix)
    return [e for e, requests in zip(entries, reflects(confidence_E, threshold), strict=True) if requests], asked


def correct_batch(
    run: ActiveRun, runtime: Runtime, entries: Sequence[PoolEntry], step: int, answers: half_step.Answers
) -> list[Attempt]:
    requests = [
        reflection_request(runtime.task, runtime.chat, runtime.recipe.task, e, run.summary["samples"]) for e in entries
    ]
    origin = Origin(f"{run.run_id}:{step}", runtime.recipe.seed, step, "correct")
    return [a for group in runtime.answer(requests, origin, answers) for a in group.attempts]


def gate_summary(
    recipe: Recipe, threshold: float | None, entries: Sequence[PoolEntry], corrections: Sequence[Attempt]
) -> dict[str, Any]:
    """The gate and its coverage: the share of the errors that were reflected on, clustered by problem."""
    if threshold is None:
        return {}
    tried = {a.parent for a in corrections}
    by_problem: dict[tuple[str, str], list[float]] = {}
    for e in entries:
        by_problem.setdefault((e.problem.source, e.problem.id), []).append(float(e.attempt_id in tried))
    gate = {"signal": recipe.eval.gate.signal, "threshold": spelled(threshold)}
    return {"gate": gate | {"errors": len(entries), "coverage": share(padded(list(by_problem.values())))}}


def summary(attempts: Sequence[Attempt], run: ActiveRun) -> dict[str, Any]:
    """The repair rate over errors, clustered by problem: each error counts with the mean of its corrections."""
    by_error: dict[str, list[float]] = {}
    by_problem: dict[tuple[str, str], list[str]] = {}
    for attempt in attempts:
        error = attempt.parent or ""
        if error not in by_error:
            by_problem.setdefault((attempt.problem.source, attempt.problem.id), []).append(error)
        by_error.setdefault(error, []).append(attempt.outcome)
    mean = dict(zip(by_error, problem_means(padded([*by_error.values()])), strict=True))
    repaired_NK = padded([[mean[e] for e in errors] for errors in by_problem.values()])
    wrong_NK = np.where(np.isnan(repaired_NK), np.nan, 0.0)
    rate = repair_rate(wrong_NK, repaired_NK) if by_problem else {"value": None, "ci95": None, "wrong": 0}
    return {
        "run": run.run_id,
        "errors": len(by_error),
        "corrections": len(attempts),
        "not_graded": sum(bool(np.isnan(a.outcome)) for a in attempts),
        "repair_rate": rate,
        "solved_by_any": sum(bool(repaired > 0) for repaired in mean.values()),
    }
