"""One evaluation against another on the same problems, from what the database holds."""

from __future__ import annotations

from typing import Any

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.metrics import padded, paired
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import attempts_of, evaluations_of
from scrpo_cli.types import AttemptKind

Outcomes = dict[tuple[str, str], list[float]]


def first_outcomes(db: Database, run_id: str, benchmark: str) -> Outcomes:
    """Outcomes of the first answers of a stored evaluation, by problem, samples in order."""
    attempts = attempts_of(db, run_id, phase=f"eval:{benchmark}", kind=AttemptKind.FIRST.value)
    found: Outcomes = {}
    for attempt in sorted(attempts, key=lambda a: a.sample):
        found.setdefault((attempt.problem.source, attempt.problem.id), []).append(attempt.outcome)
    return found


def paired_outcomes(before: Outcomes, after: Outcomes) -> dict[str, Any] | None:
    """after - before over the problems that both have; None where they share none."""
    shared = sorted(before.keys() & after.keys())
    return paired(padded([before[k] for k in shared]), padded([after[k] for k in shared])) if shared else None


def compare_runs(db: Database, run_id: str, other: str) -> dict[str, Any]:
    """An eval run minus an earlier one, for every benchmark that both have scored."""
    theirs = {e.benchmark for e in evaluations_of(db, other)}
    result = {}
    for name in sorted({e.benchmark for e in evaluations_of(db, run_id)} & theirs):
        change = paired_outcomes(first_outcomes(db, other, name), first_outcomes(db, run_id, name))
        if change is not None:
            result[name] = change | {"run": other}
    if not result:
        fix = f"It scored {', '.join(sorted(theirs)) or 'nothing'}; evaluate both on the same benchmark."
        raise UserError(f"Run {other} shares no scored problem with this one.", f"--against {other}", fix)
    return result
