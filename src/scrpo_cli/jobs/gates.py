"""The threshold of a gate for a command's run: given in the recipe, or fitted once and stored with the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scrpo_cli.evaluation.gate import VALIDATION, fit_gate, threshold_of, validation_problems
from scrpo_cli.evaluation.runner import Evaluator
from scrpo_cli.jobs.runs import ActiveRun
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import evaluations_of, record_evaluation
from scrpo_cli.types import Problem


def gate_threshold(
    db: Database,
    run: ActiveRun,
    evaluator: Evaluator,
    held_out: Sequence[Sequence[Problem]],
    report: Callable[[str], None],
) -> float | None:
    """None without a gate. A fit is stored as the run's evaluation `validation`: a resumed run takes it from there."""
    gate = evaluator.protocol.gate
    if gate.signal == "none":
        return None
    if gate.threshold is not None:
        return threshold_of(gate.threshold)
    if stored := [e.metrics["gate"] for e in evaluations_of(db, run.run_id) if e.benchmark == VALIDATION]:
        run.summary["gate_fit"] = stored[0]
        return threshold_of(stored[0]["threshold"])
    problems = validation_problems(evaluator)
    report(f"fitting the {gate.signal} gate on {len(problems)} validation problems")
    fit = fit_gate(evaluator, problems, held_out, f"{run.run_id}:0:{VALIDATION}")
    record_evaluation(db, run.run_id, 0, VALIDATION, fit.evaluation.metrics, fit.evaluation.attempts)
    run.summary["gate_fit"] = fit.metrics
    return fit.threshold
