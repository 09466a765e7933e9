"""`scrpo collect`: sample a policy on problems, or take answers made elsewhere, grade, and keep the wrong ones.

Each step is one transaction and its problems are a pure function of its number, so an interrupted collection goes on
with the first step that is not in the database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrpo_cli.errors import UserError
from scrpo_cli.methods.base import outcome_rewards
from scrpo_cli.methods.filters import KEPT, admit
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import attempts_of, record_step, steps_of, waiting
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.models import FilterConfig, PoolConfig, Recipe, ScrpoConfig
from scrpo_cli.rollout.groups import Origin, grade_groups, sample_asks
from scrpo_cli.rollout.prompts import check_prompt_budget
from scrpo_cli.tasks.base import Task
from scrpo_cli.tasks.responses import PairRow, ResponseRow
from scrpo_cli.training.launch import Launch
from scrpo_cli.types import Ask, Attempt, Completion, FinishReason, Group, Problem

if TYPE_CHECKING:
    from scrpo_cli.training.lab import Lab  # loads torch, which an import of answers does not need

Report = Callable[[str], None]
IMPORT_CHUNK = 2000  # problems of one transaction when answers are imported


def collect_samples(db: Database, run: Launch, lab: Lab, pool: str, limit: int | None, report: Report) -> None:
    """Sample `rollout.group_size` first answers of each training problem (the first `limit`) and pool the errors."""
    recipe = lab.recipe
    problems = lab.task.problems(recipe.task.train)
    problems = problems[: limit if limit is not None else len(problems)]
    check_prompt_budget(recipe, lab.task, lab.chat, problems)
    done = {s.step for s in steps_of(db, run.run_id)}
    size = recipe.optim.prompts_per_step
    for step, start in enumerate(range(0, len(problems), size), start=1):
        if step in done:
            continue
        asks = [Ask(p, lab.task.messages(p), recipe.rollout.group_size) for p in problems[start : start + size]]
        origin = Origin(f"{run.run_id}:{step}", recipe.seed, step, "collect")
        completions = sample_asks(lab.engine, lab.chat, asks, lab.sampling, origin)
        groups = grade_groups(lab.task, recipe.task.reflection, asks, completions, origin)
        decisions = decide(groups, *filters(recipe), recipe.seed, step)
        store(db, run, step, pool, groups, decisions)
        report(f"{min(start + size, len(problems))}/{len(problems)} problems: {describe(groups, decisions)}")


def collect_rows(
    db: Database, run: Launch, task: Task, rows: Sequence[ResponseRow | PairRow], pool: str, *, use_filter: bool
) -> None:
    """Grade answers made elsewhere and pool every wrong one (or, with `use_filter`, what the recipe's filter keeps)."""
    groups, models = imported_groups(task, rows, run.run_id)
    flt, keep = filters(run.recipe) if use_filter else (FilterConfig(mode="none"), everything())
    for step, start in enumerate(range(0, len(groups), IMPORT_CHUNK), start=1):
        part = groups[start : start + IMPORT_CHUNK]
        store(db, run, step, pool, part, decide(part, flt, keep, run.recipe.seed, step), models)


def filters(recipe: Recipe) -> tuple[FilterConfig, PoolConfig]:
    """The recipe's pool filter, or the default one for methods without a pool."""
    cfg = recipe.method
    return (cfg.filter, cfg.pool) if isinstance(cfg, ScrpoConfig) else (FilterConfig(), PoolConfig())


def everything() -> PoolConfig:
    return PoolConfig(per_prompt="all", include_truncated=True)


def decide(
    groups: Sequence[Group], flt: FilterConfig, pool: PoolConfig, seed: int, step: int
) -> dict[str, str]:
    decisions: dict[str, str] = {}
    for i, group in enumerate(groups):
        decisions |= admit(group, outcome_rewards(group), flt, pool, seed, step, i)
    return decisions


def store(
    db: Database,
    run: Launch,
    step: int,
    pool: str,
    groups: Sequence[Group],
    decisions: Mapping[str, str],
    models: Mapping[str, str] | None = None,
) -> None:
    attempts = [a for g in groups for a in g.attempts]
    metrics = {"collect/accuracy": sum(a.reward for a in attempts) / len(attempts), "collect/attempts": len(attempts)}
    record_step(db, run.run_id, StepRecord(step, "collect", attempts, decisions, pool, [], metrics, models or {}))


def describe(groups: Sequence[Group], decisions: Mapping[str, str]) -> str:
    attempts = [a for g in groups for a in g.attempts]
    right = sum(a.reward for a in attempts)
    kept = sum(d == KEPT for d in decisions.values())
    return f"{right:.0f} of {len(attempts)} right, {kept} of {len(decisions)} errors kept"


# -- answers made elsewhere --------------------------------------------------------------------------------------


def imported_groups(
    task: Task, rows: Sequence[ResponseRow | PairRow], prefix: str
) -> tuple[list[Group], dict[str, str]]:
    """One group a problem, with every first-turn answer to it, and attempt id -> model for answers that name one."""
    first = [row for row in rows if complete(row).turn == 1]
    by_problem = [list(same) for _, same in groupby(sorted(first, key=problem_key), key=problem_key)]
    problems = [problem_of(same[0]) for same in by_problem]
    pairs = [(p, row.response) for p, same in zip(problems, by_problem, strict=True) for row in same]
    grades = iter(task.grade(pairs))
    models: dict[str, str] = {}
    groups = []
    for g, (problem, same) in enumerate(zip(problems, by_problem, strict=True)):
        attempts = []
        for s, row in enumerate(same):
            attempt_id = f"{prefix}:1:{g}:{s}"
            attempts.append(Attempt(attempt_id, problem, imported(row.response), next(grades), sample=s))
            if row.model:
                models[attempt_id] = row.model
        groups.append(Group(Ask(problem, task.messages(problem), len(same)), attempts))
    return groups, models


def complete(row: ResponseRow | PairRow) -> ResponseRow:
    """A full response with its problem and answer, or a UserError that names the line."""
    fix = "Name the fields with --map ours=theirs; the whole file is refused."
    if isinstance(row, PairRow):
        raise UserError("A pool needs full responses, and this row is a (gold, pred) pair.", row.where, fix)
    if row.problem is None or row.answer is None:
        missing = "problem" if row.problem is None else "answer"
        raise UserError(f"The row has no `{missing}`.", row.where, fix)
    return row


def problem_key(row: ResponseRow) -> tuple[str, str]:
    return row.source, row.id


def problem_of(row: ResponseRow) -> Problem:
    return Problem(row.id, row.source, row.problem or "", row.answer or "", dict(row.meta))


def imported(text: str) -> Completion:
    """A completion without token ids: it was sampled elsewhere."""
    return Completion([], [], [], text, FinishReason.UNKNOWN)


def named_source(rows: Sequence[ResponseRow | PairRow], path: Path) -> list[ResponseRow | PairRow]:
    """Rows that do not name their source take the file's name, so that ids of two files do not meet."""
    name = path.name.split(".")[0]
    return [replace(r, source=name) if isinstance(r, ResponseRow) and r.source == "jsonl" else r for r in rows]


def totals(db: Database, run: Launch, pool: str) -> dict[str, Any]:
    """Counts of a collection from the database: attempts by verdict, entries that it added to the pool."""
    attempts = attempts_of(db, run.run_id, phase="collect")
    return {
        "run": run.run_id,
        "pool": pool,
        "attempts": len(attempts),
        "verdicts": dict(Counter(a.grade.verdict.value for a in attempts)),
        "kept": sum(e.attempt_id.startswith(f"{run.run_id}:") for e in waiting(db, pool)),
    }
