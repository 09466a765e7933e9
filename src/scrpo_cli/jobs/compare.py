"""One evaluation compared with another on the same problems, from what the database holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.metrics import compare_two_turns
from scrpo_cli.evaluation.outcomes import Key, Outcomes, read_answers, shared_problems, side_by_side
from scrpo_cli.evaluation.paired import UNDECIDED, compare, holm
from scrpo_cli.evaluation.power import Variation, measured
from scrpo_cli.evaluation.stats import ALPHA
from scrpo_cli.jobs.runs import is_alive, status_now
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.models import RunRow
from scrpo_cli.pool.queries import StoredEvaluation, evaluations_of, list_runs, problems_of, resolve_run

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

Scored = tuple[str, StoredEvaluation]
"""A run and an evaluation of it."""


def compare_runs(db: Database, run_id: str, other: str) -> dict[str, Any]:
    """A run minus another, for every benchmark that both have scored; of training runs what came after training.
    Several benchmarks are adjusted for (Holm).

    Raises UserError when they share no scored problem, or are one and the same run.
    """
    if run_id == other:
        fix = "Name another run, or one run alone: after training against before."
        raise UserError("A run is compared with itself.", f"run {other}", fix)
    ours, theirs = ({e.name: e for e in evaluations_of(db, run)} for run in (run_id, other))
    both = ours.keys() & theirs.keys()
    after = {ours[name].benchmark for name in both if ours[name].label == AFTER}
    names = sorted(name for name in both if not (ours[name].label == BEFORE and ours[name].benchmark in after))
    found = {name: compare_scored(db, (other, theirs[name]), (run_id, ours[name])) for name in names}
    result = {name: change for name, change in found.items() if change is not None}
    if not result:
        fix = f"It scored {', '.join(sorted(theirs)) or 'nothing'}; evaluate both on the same benchmark."
        raise UserError(f"Run {other} shares no scored problem with {run_id}.", f"run {other}", fix)
    return adjusted(result)


def earlier_run(
    db: Database, ref: str | None, graders: Mapping[str, str], problems: Mapping[str, set[Key]] | None = None
) -> str | None:
    """The run that an evaluation is compared with. `graders`: who grades each of its benchmarks; `problems`: theirs,
    where they are known. `last` is the newest evaluation that can be compared with it: it is done, and what both have
    scored was graded by the same grader.

    UserError before anything is sampled where the run has none of the benchmarks, or no run can be compared.
    """
    if ref is None:
        return None
    if ref != "last":
        run = resolve_run(db, ref)
        if why := incomparable(db, run, graders, None):
            raise UserError(f"Run {run.id} {why}.", f"--against {ref}", "Evaluate both on the same benchmark.")
        return run.id
    runs = [run for run in list_runs(db) if run.command == "eval"]
    reasons = {}
    for run in runs:
        reasons[run.id] = incomparable(db, run, graders, problems or {})
        if not reasons[run.id]:
            return run.id
    fix = f"The newest, {runs[0].id}, {reasons[runs[0].id]}." if runs else "Run one first, without --against."
    raise UserError("There is no earlier evaluation to compare with.", f"--against last, {db.where}", fix)


def incomparable(db: Database, run: RunRow, graders: Mapping[str, str], problems: Mapping[str, set[Key]] | None) -> str:
    """Why a run cannot be compared with what `graders` grade, or nothing. Without `problems` it was asked for by name:
    then it has only to share a benchmark, and other differences are warned of.
    """
    scored = {e.name: e for e in evaluations_of(db, run.id)}
    shared = scored.keys() & graders.keys()
    if not shared:
        return f"scored {', '.join(sorted(scored)) or 'nothing'}, and not {' or '.join(graders)}"
    if problems is None:
        return ""
    if run.status != "done":
        return f"has the status {status_now(run, is_alive(run))}"
    for name in sorted(shared):
        theirs = (scored[name].metrics.get("protocol") or {}).get("grader")
        if theirs != graders[name]:
            return f"was graded on {name} by {theirs}, and not by {graders[name]}"
    if any(name not in problems or problems[name] & problems_of(db, run.id, scored[name].phase) for name in shared):
        return ""
    return "scored other problems"


def compare_before_after(db: Database, run_id: str) -> dict[str, Any]:
    """A training run's evaluations after it minus those before it. Raises UserError where it has none."""
    result = changes_by_training(db, run_id)
    if not result:
        show = db.command("runs", "show", run_id)
        fix = f"Name a second run to compare it with; `{show}` lists what this one has scored."
        raise UserError("This run has no evaluation before and after training.", f"run {run_id}", fix)
    return adjusted(result)


def changes_by_training(db: Database, run_id: str) -> dict[str, dict[str, Any]]:
    """After minus before for each split that a training run was evaluated on."""
    by_label = {(e.benchmark, e.label): e for e in evaluations_of(db, run_id)}
    splits = sorted(name for name, label in by_label if label == BEFORE and (name, AFTER) in by_label)
    found = {s: compare_scored(db, (run_id, by_label[s, BEFORE]), (run_id, by_label[s, AFTER])) for s in splits}
    return {split: change for split, change in found.items() if change is not None}


def compare_scored(db: Database, a: Scored, b: Scored) -> dict[str, Any] | None:
    """b - a over the problems that both have: first answers (`compare`), `turns` where both have second ones, and
    `warnings`, what else than the model differs. None where they share no problem that counts.
    """
    of_a, of_b = (read_answers(db, run, evaluation.phase).outcomes for run, evaluation in (a, b))
    shared = shared_problems([of_a, of_b])
    ours, theirs = (side_by_side([each], shared) for each in (of_a, of_b))
    first = compare(ours.first_NK, theirs.first_NK)
    if first is None:
        return None
    turns = {}
    if ours.has_pairs and theirs.has_pairs:
        turns = compare_two_turns(ours.first_NK, ours.second_NK, theirs.first_NK, theirs.second_NK)
    notes = [*_protocol_warnings(a, b), *_size_warnings(of_a, of_b, len(shared))]
    notes += [*_left_out("a", ours.first_NK), *_left_out("b", theirs.first_NK)]
    return first | {"run": a[0], "shared": len(shared), "turns": turns, "warnings": notes}


def adjusted(changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`p_holm` for so many benchmarks, and the verdict with it."""
    for change, p in zip(changes.values(), holm([change["p"] for change in changes.values()]), strict=True):
        change["p_holm"] = p
        if p >= ALPHA and not change["verdict"].startswith(UNDECIDED):
            change["verdict"] += f" taken alone, but not as one of {len(changes)} benchmarks"
    return changes


def _protocol_warnings(a: Scored, b: Scored) -> list[str]:
    first, second = (_protocol(evaluation) for _, evaluation in (a, b))
    unknown = " and ".join(dict.fromkeys(run for run, evaluation in (a, b) if not _protocol(evaluation)))
    found = [f"The protocol of {unknown} is not stored: see for yourself that it is the same."] if unknown else []
    for key, words in MUST_AGREE.items():
        if key in first and key in second and first[key] != second[key]:
            values = "" if key == "prompt_sha256" else f" ({_short(first[key])} and {_short(second[key])})"
            found.append(f"Their {words} differ{values}: the difference may not be the model's.")
    return found


def _protocol(evaluation: StoredEvaluation) -> Mapping[str, Any]:
    return evaluation.metrics.get("protocol") or {}


def _size_warnings(a: Outcomes, b: Outcomes, shared: int) -> list[str]:
    found = []
    if shared < max(len(a.problems), len(b.problems)):
        found.append(f"Of {len(a.problems)} and {len(b.problems)} problems they share {shared}; only those count.")
    if a.first_NK.shape[1] != b.first_NK.shape[1]:
        found.append("They have different numbers of samples a problem: the test is approximate.")
    return found


def _left_out(side: str, first_NK: np.ndarray) -> list[str]:
    """That some answers to the shared problems do not count."""
    missing = int(np.isnan(first_NK).sum())
    return [f"Of {side}, {missing} of {first_NK.size} first answers do not count."] if missing else []


def _short(value: Any, most: int = 60) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}..."


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
        found = [read_answers(db, ref, each[name].phase).outcomes for ref, each in zip(refs, scored, strict=True)]
    shared = shared_problems(found)
    first, *rest = (side_by_side([each], shared).first_NK for each in found)
    return measured(first, rest[0] if rest else None, correlation)
