"""`scrpo advise`: sample first answers to some training problems and reflections on their errors, and say from both
whether reflecting is likely to pay.

Each batch is one transaction, and what is sampled depends on the seed and the number of its step, so an interrupted
sampling goes on with the first batch that is not in the database, and with what of it was answered
(`training.half_step`). All numbers are functions of the stored attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scrpo_cli.evaluation.advice import advise
from scrpo_cli.evaluation.worth import REFLECTION_WORDS, Shown, measure
from scrpo_cli.jobs.runs import ActiveRun, note_fingerprint
from scrpo_cli.methods.base import outcome_rewards
from scrpo_cli.methods.parts.pool import FilterConfig, decisions
from scrpo_cli.methods.scrpo import corrections_of_an_error, pool_rules
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import attempts_of, record_step, steps_of
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.groups import Origin
from scrpo_cli.rollout.prompts import TaskPrompts, check_prompt_budget
from scrpo_cli.tasks.guard import stop_on_failures, unreadable_references
from scrpo_cli.tracking.activity import now
from scrpo_cli.training import half_step
from scrpo_cli.training.runtime import Runtime, open_runtime
from scrpo_cli.types import KEPT, Attempt, AttemptKind, Group, PoolEntry, Problem, SampleRequest

Report = Callable[[str], None]
PHASE = "advise"


def sample_and_advise(db: Database, run: ActiveRun, report: Report) -> dict[str, Any]:
    """What the run's `problems` and `words` ask for, with the advice, for the run's summary."""
    with open_runtime(run.recipe, run.run_id) as runtime:
        note_fingerprint(db, run, runtime.chat)
        problems = chosen_problems(run, runtime, report)
        sample_all(db, run, runtime, first_requests(runtime, problems), 1, "first answers", report)
        firsts = stored_groups(db, run, problems, AttemptKind.FIRST)
        errors = errors_to_show(firsts, run.recipe)
        requests = reflection_requests(runtime, problems, errors)
        sample_all(db, run, runtime, requests, 1 + batches(len(problems), run.recipe), "reflections", report)
    corrected = stored_groups(db, run, [problems[n] for n in errors], AttemptKind.CORRECTION)
    counts = [count for _, count in errors.values()]
    reflected = {n: Shown(*each) for n, each in zip(errors, zip(corrected, counts, strict=True), strict=True)}
    words = run.summary["words"] or REFLECTION_WORDS
    found = measure(firsts, reflected, words) | {"pooled": pooled(firsts, run.recipe)}
    return {"run": run.run_id, "words": [*words], **found, "advice": advise(found)}


def chosen_problems(run: ActiveRun, runtime: Runtime, report: Report) -> list[Problem]:
    """The problems that a training run of this seed meets first: at most the run's `problems`."""
    everything, wanted = runtime.task.problems(run.recipe.task.train), run.summary["problems"]
    order = TaskPrompts(run.recipe, runtime.task, runtime.chat, everything).order(0)
    problems = [everything[int(i)] for i in order[:wanted]]
    check_prompt_budget(run.recipe.task, runtime.task, runtime.chat, problems)
    if len(problems) < wanted:
        report(f"warning: task.train has {len(problems)} problems, and {wanted} were asked for")
    for line in unreadable_references(runtime.task, problems, "task.train"):
        report(line)
    return problems


def first_requests(runtime: Runtime, problems: Sequence[Problem]) -> list[SampleRequest]:
    return [SampleRequest(p, runtime.task.messages(p), runtime.recipe.rollout.group_size) for p in problems]


def reflection_requests(
    runtime: Runtime, problems: Sequence[Problem], errors: Mapping[int, tuple[Attempt, int]]
) -> list[SampleRequest]:
    prompts = TaskPrompts(runtime.recipe, runtime.task, runtime.chat, problems)
    samples = corrections_of_an_error(runtime.recipe.method, runtime.recipe.rollout.group_size)
    return [prompts.reflection(PoolEntry.of(error), samples) for error, _ in errors.values()]


def batches(requests: int, recipe: Recipe, size: int | None = None) -> int:
    """Steps that so many requests take."""
    return -(-requests // (size or recipe.optim.prompts_per_step))


def sample_all(
    db: Database,
    run: ActiveRun,
    runtime: Runtime,
    requests: Sequence[SampleRequest],
    first: int,
    of: str,
    report: Report,
    phase: str = PHASE,
    part: str = "",
    size: int | None = None,
) -> None:
    """Sample and store what is not stored yet, `size` requests (else optim.prompts_per_step) a step from the step
    `first` on.
    """
    recipe, size = runtime.recipe, size or runtime.recipe.optim.prompts_per_step
    done = {s.step for s in steps_of(db, run.run_id)}
    for step, start in enumerate(range(0, len(requests), size), start=first):
        if step in done:
            continue
        batch = requests[start : start + size]
        what = f"{of}, problems {start + 1} to {start + len(batch)} of {len(requests)}"
        now().whole(start, len(requests))
        now().stage(f"sampling {what}")
        with half_step.keeping(run.directory, step, runtime.stamp, run.again, report) as answers:
            origin = Origin(f"{run.run_id}:{step}", recipe.seed, step, phase, part=part)
            attempts = [a for group in runtime.answer(batch, origin, answers) for a in group.attempts]
            stop_on_failures(runtime.task, str(run.directory), run.again)
            right = sum(a.reward for a in attempts)
            graded = sum(not np.isnan(a.outcome) for a in attempts)
            metrics = {f"{phase}/accuracy": right / graded} if graded else {}
            record_step(db, run.run_id, StepRecord(step, phase, attempts, metrics=metrics))
        half_step.drop(run.directory)
        failed = f", {len(attempts) - graded} not graded" if graded < len(attempts) else ""
        report(f"{what}: {right:.0f} of {len(attempts)} right{failed}")


def stored_groups(db: Database, run: ActiveRun, problems: Sequence[Problem], kind: AttemptKind) -> list[Group]:
    """The group of each problem, from the database: each was asked once."""
    found: dict[tuple[str, str], list[Attempt]] = {(p.source, p.id): [] for p in problems}
    for attempt in attempts_of(db, run.run_id, phase=PHASE, kind=kind.value):
        found[attempt.problem.source, attempt.problem.id].append(attempt)
    return [
        Group(SampleRequest(problem, (), len(attempts), kind), sorted(attempts, key=lambda a: a.sample))
        for problem, attempts in zip(problems, found.values(), strict=True)
    ]


def errors_to_show(firsts: Sequence[Group], recipe: Recipe) -> dict[int, tuple[Attempt, int]]:
    """One error of each problem that has one, drawn as an unfiltered pool would, and of how many; by the place of the
    problem.
    """
    rules = pool_rules(recipe.method)
    unfiltered = replace(rules, filter=FilterConfig(mode="none"), pool=rules.pool.model_copy(update={"per_prompt": 1}))
    decided = decisions(firsts, unfiltered, recipe.rollout.max_tokens, recipe.seed, 1)
    eligible = [[a for a in group.attempts if decided.get(a.id) in (KEPT, "not_drawn")] for group in firsts]
    return {n: (a, len(errors)) for n, errors in enumerate(eligible) for a in errors if decided[a.id] == KEPT}


def pooled(firsts: Sequence[Group], recipe: Recipe) -> dict[str, int]:
    """Problems with an error; of these, those with nothing else, and those of which the recipe's filter keeps one."""
    decided = decisions(firsts, pool_rules(recipe.method), recipe.rollout.max_tokens, recipe.seed, 1)
    wrong = [group for group in firsts if any(a.is_reasoning_error for a in group.attempts)]
    return {
        "with_errors": len(wrong),
        "all_wrong": sum(not np.nansum(outcome_rewards(group)) for group in wrong),
        "kept": sum(any(decided.get(a.id) == KEPT for a in group.attempts) for group in wrong),
    }
