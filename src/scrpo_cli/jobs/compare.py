"""One evaluation against another on the same problems, from what the database holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.answers import Answers
from scrpo_cli.evaluation.metrics import UNDECIDED, padded, paired
from scrpo_cli.evaluation.paired import compare_outcomes, compare_two_turns, holm
from scrpo_cli.evaluation.power import Variation, measured
from scrpo_cli.evaluation.stats import ALPHA
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import StoredEvaluation, attempts_of, evaluations_of, resolve_run
from scrpo_cli.types import AttemptKind

Key = tuple[str, str]
Outcomes = dict[Key, list[float]]

BEFORE, AFTER = "before", "after"
MUST_AGREE = {
    "grader": "graders",
    "task": "tasks",
    "prompt_sha256": "prompts",
    "prefill": "beginnings of answers",
    "temperature": "temperatures",
    "top_p": "top_p",
    "max_tokens": "token limits",
    "second_turn": "second turns",
}
"""What of the protocol has to be the same for a difference to be the model's."""


@dataclass(frozen=True)
class Stored:
    """One evaluation of a run: how it was made, and the outcomes of first and second answers by problem (N, K)."""

    run: str
    protocol: Mapping[str, Any]
    problems: list[Key]
    first_NK: np.ndarray
    second_NK: np.ndarray | None

    def of(self, problems: list[Key]) -> Stored:
        rows = {problem: n for n, problem in enumerate(self.problems)}
        chosen = [rows[problem] for problem in problems]
        second_NK = None if self.second_NK is None else self.second_NK[chosen]
        return Stored(self.run, self.protocol, problems, self.first_NK[chosen], second_NK)


def compare_runs(db: Database, run_id: str, other: str) -> dict[str, Any]:
    """A run minus another, for every benchmark that both have scored; of training runs what came after training.
    Several benchmarks are adjusted for (Holm).

    Raises UserError when they share no scored problem.
    """
    ours, theirs = ({e.name: e for e in evaluations_of(db, run)} for run in (run_id, other))
    both = ours.keys() & theirs.keys()
    after = {ours[name].benchmark for name in both if ours[name].label == AFTER}
    names = sorted(name for name in both if not (ours[name].label == BEFORE and ours[name].benchmark in after))
    found = {name: compare_stored(read(db, other, theirs[name]), read(db, run_id, ours[name])) for name in names}
    result = {name: change for name, change in found.items() if change is not None}
    if not result:
        fix = f"It scored {', '.join(sorted(theirs)) or 'nothing'}; evaluate both on the same benchmark."
        raise UserError(f"Run {other} shares no scored problem with {run_id}.", f"run {other}", fix)
    return adjusted(result)


def compare_before_after(db: Database, run_id: str) -> dict[str, Any]:
    """A training run's evaluations after it minus those before it. Raises UserError where it has none."""
    by_label = {(e.benchmark, e.label): e for e in evaluations_of(db, run_id)}
    splits = sorted(name for name, label in by_label if label == BEFORE and (name, AFTER) in by_label)
    pairs = {split: [read(db, run_id, by_label[split, when]) for when in (BEFORE, AFTER)] for split in splits}
    found = {split: compare_stored(*pair) for split, pair in pairs.items()}
    result = {split: change for split, change in found.items() if change is not None}
    if not result:
        fix = "Name a second run to compare it with; `scrpo runs show` lists what a run has scored."
        raise UserError("This run has no evaluation before and after training.", f"run {run_id}", fix)
    return adjusted(result)


def read(db: Database, run_id: str, evaluation: StoredEvaluation) -> Stored:
    answers = Answers.of(attempts_of(db, run_id, phase=evaluation.phase))
    keys = [(row[0].problem.source, row[0].problem.id) for row in answers.first]
    second_NK = answers.outcomes(1) if len(answers.turns) > 1 else None
    return Stored(run_id, evaluation.metrics.get("protocol") or {}, keys, answers.outcomes(), second_NK)


def compare_stored(a: Stored, b: Stored) -> dict[str, Any] | None:
    """b - a over the problems that both have: first answers, `turns` where both have second ones, and `warnings`, what
    else than the model differs. None where they share no problem that counts.
    """
    shared = sorted(set(a.problems) & set(b.problems))
    if not shared:
        return None
    notes = _warnings(a, b, len(shared))
    a, b = a.of(shared), b.of(shared)
    first = compare_outcomes(a.first_NK, b.first_NK)
    if first is None:
        return None
    turns = {}
    if a.second_NK is not None and b.second_NK is not None:
        turns = compare_two_turns(a.first_NK, a.second_NK, b.first_NK, b.second_NK)
    return first | {"run": a.run, "shared": len(shared), "turns": turns, "warnings": notes}


def adjusted(changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`p_holm` for so many benchmarks, and the verdict with it."""
    for change, p in zip(changes.values(), holm([change["p"] for change in changes.values()]), strict=True):
        change["p_holm"] = p
        if p >= ALPHA and not change["verdict"].startswith(UNDECIDED):
            change["verdict"] += f" taken alone, but not as one of {len(changes)} benchmarks"
    return changes


def _warnings(a: Stored, b: Stored, shared: int) -> list[str]:
    unknown = " and ".join(dict.fromkeys(run.run for run in (a, b) if not run.protocol))
    found = [f"The protocol of {unknown} is not stored: see for yourself that it is the same."] if unknown else []
    for key, words in MUST_AGREE.items():
        if key in a.protocol and key in b.protocol and a.protocol[key] != b.protocol[key]:
            values = "" if key == "prompt_sha256" else f" ({_short(a.protocol[key])} and {_short(b.protocol[key])})"
            found.append(f"Their {words} differ{values}: the difference may not be the model's.")
    if shared < max(len(a.problems), len(b.problems)):
        found.append(f"Of {len(a.problems)} and {len(b.problems)} problems they share {shared}; only those count.")
    if a.first_NK.shape[1] != b.first_NK.shape[1]:
        found.append("They have different numbers of samples a problem: the test is approximate.")
    return found


def _short(value: Any, most: int = 60) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}..."


def first_outcomes(db: Database, run_id: str, benchmark: str, label: str) -> Outcomes:
    """Outcomes of the first answers of a stored evaluation, by problem, samples in order."""
    (phase,) = {e.phase for e in evaluations_of(db, run_id) if (e.benchmark, e.label) == (benchmark, label)}
    attempts = attempts_of(db, run_id, phase=phase, kind=AttemptKind.FIRST.value)
    found: Outcomes = {}
    for attempt in sorted(attempts, key=lambda a: a.sample):
        found.setdefault((attempt.problem.source, attempt.problem.id), []).append(attempt.outcome)
    return found


def paired_outcomes(before: Outcomes, after: Outcomes) -> dict[str, Any] | None:
    """after - before over the problems that both have; None where they share none."""
    shared = sorted(before.keys() & after.keys())
    return paired(padded([before[k] for k in shared]), padded([after[k] for k in shared])) if shared else None


def variation_of(
    url: str | None, run: str, against: str | None, benchmark: str | None, correlation: float
) -> Variation:
    """Variances over the problems of a stored evaluation; how they change from run to run by a second run, if given.

    Raises UserError where the runs or the benchmark are not there, or share too little.
    """
    with Database.open(url, create=False) as db:
        refs = [resolve_run(db, ref).id for ref in (run, against) if ref]
        scored = [{e.name: e for e in evaluations_of(db, ref)} for ref in refs]
        names = sorted(set.intersection(*map(set, scored)))
        name = benchmark or next((n for n in names if scored[0][n].label != BEFORE), None)
        if name not in names:
            listed = ", ".join(names) or "nothing"
            raise UserError(
                f"There is no evaluation '{name}' to measure.", " and ".join(refs), f"They have scored {listed}."
            )
        first, *rest = (read(db, ref, found[name]) for ref, found in zip(refs, scored, strict=True))
    if not rest:
        return measured(first.first_NK, correlation=correlation)
    shared = sorted(set(first.problems) & set(rest[0].problems))
    return measured(first.of(shared).first_NK, rest[0].of(shared).first_NK)
