"""The training loop: plan -> sample -> grade -> credit -> update -> sync -> commit -> save -> evaluate."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from scrpo_cli.errors import Interrupted, RunError
from scrpo_cli.evaluation.outcomes import read_answers
from scrpo_cli.evaluation.parts import part_size, parts_left
from scrpo_cli.evaluation.runner import Start
from scrpo_cli.methods.base import ClipConfig, Credits, PhaseKind, Plan, PoolChange, completions_of, no_credit
from scrpo_cli.pool.queries import (
    StepMetrics,
    StoredEvaluation,
    attempts_of,
    evaluations_of,
    living_entries,
    record_answers,
    record_evaluation,
    record_step,
    seconds_of,
    steps_of,
)
from scrpo_cli.pool.records import StepRecord, injected_model
from scrpo_cli.rollout.groups import Origin, grade_groups, sample_requests
from scrpo_cli.tasks.guard import too_many_failures
from scrpo_cli.tracking.activity import now
from scrpo_cli.tracking.jsonl import read_metrics
from scrpo_cli.training import health
from scrpo_cli.training.budget import cut_to_fit
from scrpo_cli.training.half_step import Answers, keeping
from scrpo_cli.training.monitors import watch
from scrpo_cli.training.packing import own_time
from scrpo_cli.training.session import Session
from scrpo_cli.types import Attempt, Group, Problem

LOWER = "Start a new run with a lower optim.lr or a higher kl.beta."


def train(run: Session) -> dict[str, Any]:
    """Run to the end of the budget and return the evaluations before and after, by label.

    Raises Interrupted after a signal and RunError at a warning of `monitors.stop` or when the grader fails too often,
    with all that is finished saved.
    """
    evaluations = {"before": evaluate(run, "before") if run.progress.step == 0 else known(run, "before")}
    history = steps_of(run.db, run.run_id)
    run.seconds = seconds_of(history)
    while not run.finished:
        validate_if_due(run, history)
        step = run.progress.step + 1
        now().stage(f"step {step}", at_once=False)
        clock = Clock()
        pool = living_entries(run.db, run.pool)
        longest = run.recipe.rollout.max_tokens
        plan = cut_to_fit(run.method.plan(step, pool), history, run.tokens_left, longest)
        sampled = roll_out_or_stop(run, step, plan, clock)
        if plan.reference:
            run.updater.set_reference(plan.reference, plan.reference_share)
        run.updater.recorded = bool(plan.recorded)
        groups = plan.recorded or sampled
        credits = credit(run, plan, groups, clock)
        change = run.method.after_sampling(step, sampled, pool)
        with clock("train"), now().doing("training"), run.engine.resting():
            stats = run.updater.update(step, completions_of(groups), credits)
            if plan.recorded:  # sampled by an older policy, perhaps after another prompt: no drift of the sampler
                stats = {k: v for k, v in stats.items() if not k.startswith("train/drift")}
        run.method.after_update(step, stats)
        with clock("sync"):
            stats |= run.sync()
        cfg = run.recipe.monitors
        kind = run.needs.phases[plan.phase].kind
        metrics = stats | health.step_metrics(plan.phase, kind, sampled, credits, pool, step, cfg) | clock.metrics()
        found = watch([*history, StepMetrics(step, plan.phase, {**metrics})], cfg)
        metrics |= found.metrics
        commit(run, step, plan.phase, sampled, change, metrics)
        history.append(StepMetrics(step, plan.phase, {**metrics}))
        stop_if_grader_fails(run)
        for line in found.news.values():
            run.tracker.event(line)
        alarm = next((line for name, line in found.news.items() if name in cfg.stop), None)
        if step % run.recipe.checkpoint.every == 0 or run.finished or run.stop.asked or alarm:
            run.save()
        stop_if_asked(run, step, None if run.finished else alarm)
    evaluations["after"] = evaluate(run, "after")
    return evaluations


def validate_if_due(run: Session, history: Sequence[StepMetrics]) -> None:
    """Between two steps, so that a run which was stopped after the first of them does it when it is taken up again."""
    step, every, every_tokens = run.progress.step, run.recipe.eval.every, run.recipe.eval.every_tokens
    if not step:
        return
    before = history[-2].metrics["tokens/total"] or 0.0 if len(history) > 1 else 0.0
    reached = every_tokens and run.progress.generated_tokens // every_tokens > before // every_tokens
    if reached or (every and step % every == 0):
        evaluate(run, f"step{step}")


def stop_if_asked(run: Session, step: int, alarm: str | None) -> None:
    """By a signal, or by the first line of a monitor that `monitors.stop` names: a resumed run goes on from there."""
    if run.stop.asked:
        what = f"Stopped after step {step}; everything so far is saved."
        raise Interrupted(what, str(run.directory), run.again)
    if alarm:
        what = f"Stopped after step {step}, as monitors.stop asks; everything so far is saved. {alarm}"
        raise RunError(what, str(run.directory), run.again)


def stop_if_grader_fails(run: Session) -> None:
    """With the last step saved; a resumed run counts anew."""
    if failing := too_many_failures(run.task):
        if run.progress.step:
            run.save()
        what = f"Stopped after step {run.progress.step}; everything so far is saved. {failing}"
        fix = f"Mend the grader ({run.task.grader}) or raise task.grading.max_failed. {run.again}"
        raise RunError(what, str(run.directory), fix)


def roll_out_or_stop(run: Session, step: int, plan: Plan, clock: Clock) -> list[Group]:
    """The step's graded groups. A signal is not waited for: the answers that are finished are kept beside the database,
    which holds whole steps, and a resumed run samples the rest with the same draws. Raises Interrupted then. So they
    are where the engine fails.
    """
    with keeping(run.directory, step, run.stamp, run.again, run.tracker.event) as answers:
        try:
            with run.stop.at_once():
                return roll_out(run, step, plan, clock, answers)
        except (KeyboardInterrupt, RunError):
            if run.progress.step:
                run.save()
            raise


def roll_out(run: Session, step: int, plan: Plan, clock: Clock, answers: Answers | None = None) -> list[Group]:
    """Sample and grade what the plan asks, and what the method asks on top once it has seen the verdicts. Of all that
    it asks, what is among `answers` is not sampled again; new ones join them.
    """
    groups: list[Group] = []
    requests, round, asked = plan.requests, 0, 0
    check_promise(run, plan, 0, [])
    while requests:
        asked += sum(request.samples for request in requests)
        check_promise(run, plan, asked, [])
        origin = Origin(f"{run.run_id}:{step}", run.recipe.seed, step, "rollout", group=len(groups), round=round)
        with clock("sample"), now().doing("sampling"):
            completions = sample_requests(run.engine, run.chat, requests, run.sampling, origin, answers)
        with clock("grade"):
            groups += grade_groups(
                run.task, run.recipe.task.reflection, requests, completions, origin, run.chat.prefill
            )
        check_promise(run, plan, asked, groups)
        round += 1
        requests = run.method.next_round(step, groups, round)
    return groups


def check_promise(run: Session, plan: Plan, requests: int, groups: Sequence[Group]) -> None:
    """Budgets, checks and monitors rest on what the method says of itself. Raises RunError where it does more."""
    fix = f"Correct `needs` of the method {run.recipe.method.name}."
    if plan.phase not in run.needs.phases:
        raise RunError(f"The method plans a step '{plan.phase}' that its needs do not name.", str(run.directory), fix)
    most = run.needs.phases[plan.phase].rollouts
    if requests > most:
        what = f"The method asks for {requests} completions in a step '{plan.phase}'; it said {most} at most."
        raise RunError(what, str(run.directory), fix)
    longest = max((len(c.prompt_ids) for c in completions_of(groups)), default=0) + run.sampling.max_tokens
    if run.positions is not None and longest > run.positions:
        what = f"A prompt and its completion may take {longest} tokens; the model has {run.positions} positions"
        raise RunError(f"{what}, and the method said {run.needs.context} at most.", str(run.directory), fix)


def credit(run: Session, plan: Plan, groups: Sequence[Group], clock: Clock) -> Credits:
    """What the method says; what is only collected earns nothing."""
    if run.needs.phases[plan.phase].kind is PhaseKind.COLLECTION:
        rows = [no_credit(len(c.ids)) for c in completions_of(groups)]
        return Credits(rows, "masked_tokens", ClipConfig(kind="none"))
    with clock("train"):
        uses = run.method.uses_log_ratios
        log_ratios = run.updater.log_ratios(completions_of(groups)) if uses else None
    with clock("credit"):
        return run.method.credit(groups, log_ratios)


def commit(
    run: Session, step: int, phase: str, groups: Sequence[Group], change: PoolChange, metrics: dict[str, float]
) -> None:
    """One transaction for everything of the step; then the metrics file. A checkpoint comes only after both."""
    attempts = [a for g in groups for a in g.attempts]
    generated = run.progress.generated_tokens + sum(len(a.completion.ids) for a in attempts)
    metrics["tokens/total"] = generated
    if bad := [k for k, v in metrics.items() if not math.isfinite(v)]:
        raise RunError(
            f"Step {step} measured {metrics[bad[0]]} in {', '.join(bad)}; nothing of it was kept.",
            str(run.directory),
            LOWER,
        )
    if not all(p.isfinite().all() for p in run.policy.trainable()):  # before a checkpoint holds them
        what = f"The adapter's weights are not finite numbers after step {step}; nothing of it was kept."
        raise RunError(what, str(run.directory), LOWER)
    models = {a.id: injected_model(change.injected_kind) for a in change.injected}
    written, retired = [*attempts, *change.injected], list(change.retired)
    record = StepRecord(step, phase, written, dict(change.decisions), run.pool, retired, metrics, models)
    record_step(run.db, run.run_id, record)
    run.step_is_done(step, generated, metrics["seconds/step"])
    run.mend(step - 1)
    run.tracker.log(step, metrics)


def evaluate(run: Session, label: str) -> dict[str, Any] | None:
    """Evaluate on the run's benchmark, store every sample, log the headline numbers; None without a benchmark.

    It comes after a checkpoint of its step: what of it was stored before a kill is not done again. Raises Interrupted
    at a signal.
    """
    kind = "eval" if label in ("before", "after") else "validation"
    found = run.benchmark() if kind == "eval" else run.problems_of("validation")
    if found is None:
        return None
    name, problems = found
    step = run.progress.step
    metrics = known(run, label)
    if metrics is None:
        if step:
            run.save()
        stored = StoredEvaluation(step, name, {}, label)
        try:
            with run.stop.at_once():
                answer_in_parts(run, problems, stored)
        except KeyboardInterrupt:
            what = f"Stopped in an evaluation after step {step}, which is saved; a resumed run goes on with it."
            raise Interrupted(what, str(run.directory), run.again) from None
        metrics = run.evaluator.measure(read_answers(run.db, run.run_id, stored.phase))
        record_evaluation(run.db, run.run_id, step, name, metrics, [], label)
    run.mend(step)
    if not any(row["step"] == step and f"{kind}/accuracy" in row for row in read_metrics(run.directory)):
        run.tracker.log(step, health.evaluation_metrics(metrics, kind))
    return metrics


def answer_in_parts(run: Session, problems: Sequence[Problem], evaluation: StoredEvaluation) -> None:
    """Sample and store what the database lacks of an evaluation."""
    step, name = evaluation.step, evaluation.benchmark
    when = {"before": "before training", "after": "after training"}.get(evaluation.label, f"after step {step}")

    def answer(batch: Sequence[Problem], start: Start) -> list[Attempt]:
        done = f": {start.problems} of {len(problems)} problems" if start.problems else ""
        now().stage(f"evaluating {when}{done}", at_once=not done)
        return run.evaluator.answer(batch, f"{run.run_id}:{step}:{evaluation.name}", name, start)[1]

    stored = attempts_of(run.db, run.run_id, phase=evaluation.phase)
    size = part_size(run.recipe.rollout.batch_size, run.evaluator.protocol.samples, run.engine.has_own_weights)
    for part in parts_left(problems, stored, size, answer):
        stop_if_grader_fails(run)  # before it is stored: a resumed run grades it anew
        record_answers(run.db, run.run_id, step, evaluation.name, part.attempts)


def known(run: Session, label: str) -> dict[str, Any] | None:
    """An evaluation that an earlier part of this run has stored."""
    return next((e.metrics for e in evaluations_of(run.db, run.run_id) if e.label == label), None)


class Clock:
    """Seconds by phase of one step."""

    def __init__(self) -> None:
        self.start = own_time()
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = own_time()
        try:
            yield
        finally:
            self.seconds[phase] += own_time() - start

    def metrics(self) -> dict[str, float]:
        total = own_time() - self.start
        return {f"seconds/{k}": v for k, v in self.seconds.items()} | {"seconds/step": total}
