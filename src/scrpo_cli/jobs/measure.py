"""One micro-step of everything on this machine, by the code that a run uses: prefill and decoding at the longest
context, answers to the recipe's own problems and what the method asks after them, their grading, the update, the run's
own evaluation, a checkpoint, and what of it the database holds.

It happens in a temporary directory with a database of its own, and the policy ends with the weights that it began with:
nothing of it is left. Every part takes about `SECONDS` at most. On CUDA the device is waited for around each of them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.outcomes import Answers
from scrpo_cli.evaluation.parts import QUEUED, part_size
from scrpo_cli.jobs.budget import Budget
from scrpo_cli.jobs.checks import method_runs
from scrpo_cli.jobs.extrapolate import Long, Measured, Part
from scrpo_cli.jobs.limits import free_memory, has, memory_warning
from scrpo_cli.jobs.meter import RUN, Meter, bytes_a_token
from scrpo_cli.methods.base import ClipConfig, Credits, PhaseKind, Plan, completions_of, flat_credit
from scrpo_cli.methods.scrpo import corrections_of_an_error
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import record_step, start_run
from scrpo_cli.pool.records import StepRecord
from scrpo_cli.recipe.models import Recipe, TrackingConfig, WandbConfig
from scrpo_cli.rng import generator
from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.rollout.groups import Origin, grade_groups, sample_requests
from scrpo_cli.tracking.activity import now
from scrpo_cli.training.loop import Clock, credit
from scrpo_cli.training.session import Session, open_session
from scrpo_cli.types import Attempt, Completion, FinishReason, Group, PoolEntry, SampleRequest

SECONDS = 20.0
"""Of one part, about: what would take longer is cut off, or made of fewer rows."""
MORE = 8
"""Tokens that are decoded at the longest context."""
SHORTEST = 16
"""Tokens that an answer may have in the measurement, at least."""
TRIAL = 256
"""Tokens of the prompt that shows how fast this machine is."""
TRAINING = 4
"""Seconds of a trained token over those of a prompt token: forward, and twice as much backward, or thrice where the
forward pass is made again."""


def measure(recipe: Recipe, budget: Budget) -> Measured:
    """What `jobs.forecast` extrapolates from. UserError where the recipe cannot be measured here."""
    refuse(recipe, budget)
    silent = recipe.model_copy(update={"tracking": TrackingConfig(wandb=WandbConfig(mode="off"))})
    with tempfile.TemporaryDirectory(prefix="scrpo-measure-") as name:
        with Database.open(f"{name}/run.db") as db:
            start_run(db, command="train", recipe=silent, directory=name, model=recipe.model.name, run_id=RUN)
            begun = time.perf_counter()
            with open_session(silent, db, RUN, Path(name), start=None) as run, run.tracker:
                micro = Micro(run, budget)
                found = micro.measure(time.perf_counter() - begun)
        return replace(found, row_bytes=bytes_a_token(Path(name), silent, micro.attempts))


def refuse(recipe: Recipe, budget: Budget) -> None:
    """What has no rows of its own to measure, and what would bring the machine down."""
    for key, ref in method_runs(recipe):
        what = "The method learns from recorded runs, and a measurement samples everything that it needs."
        fix = "Leave out --measure: the run itself shows how long is left after its first steps."
        raise UserError(what, f"method.{key}: {ref}", fix)
    sizes = budget.sizes
    if sizes is None or not has(sizes.device):  # loading says what is wrong
        return
    free = free_memory(sizes.device)
    warning = memory_warning(recipe, sizes, free)
    if warning and (sizes.device == "cpu" or sizes.memory["weights"] > free):
        raise UserError("Nothing was measured.", f"model.name: {recipe.model.name}", warning)


class Micro:
    """One micro-step of an open session."""

    def __init__(self, run: Session, budget: Budget) -> None:
        self.run, self.budget = run, budget
        self.recipe, self.meter = run.recipe, Meter(run.policy.device.type)
        self.at_once = self.recipe.rollout.batch_size * (QUEUED if run.engine.has_own_weights else 1)
        """Rows of one generate call: an engine that fills freed slots by itself is slow while it has few."""
        self.attempts: list[Attempt] = []

    def measure(self, start: float) -> Measured:
        """Sampling comes first, as the update moves the weights; they are put back after it."""
        pace = self.pace()
        recipe, work = self.recipe, self.budget.evaluation
        now().stage("measuring: the longest rows")
        long = self.long(self.budget.context, recipe.rollout.group_size, self.run.needs.rollouts, pace)
        now().stage("measuring: the answers of a step")
        sampled = self.sampled()
        evaluation = evaluation_long = None
        if work is not None:
            now().stage("measuring: the evaluation")
            longer, samples = work.context > self.budget.context, self.run.evaluator.protocol.samples
            evaluation_long = self.long(work.context, samples, work.rollouts, pace) if longer else long
            evaluation = self.evaluation()
        now().stage("measuring: the update")
        with self.weights_kept(), ExitStack() as resting:
            _, lying_down = self.meter(lambda: resting.enter_context(self.run.engine.resting()))
            phases = [self.updated(part, groups, pace) for part, groups in sampled] + self.fits(sampled)
            update_token = self.longest_update(pace)
            _, getting_up = self.meter(resting.close)
        _, sync = self.meter(self.run.sync)
        _, checkpoint = self.meter(self.run.save)
        return Measured(
            device=self.run.policy.device.type,
            engine=self.run.engine.name,
            start=start,
            long=long,
            phases=phases,
            evaluation=evaluation,
            evaluation_long=evaluation_long,
            update_token=update_token,
            sync=lying_down + getting_up + sync,
            checkpoint=checkpoint,
            row_bytes=0.0,
            peaks=self.meter.peaks,
            memory=self.meter.memory,
            batch_size=getattr(self.run.engine, "batch_size", recipe.rollout.batch_size),
            microbatch_tokens=self.run.updater.microbatch_tokens,
        )

    # -- sampling --------------------------------------------------------------------------------------------------

    def pace(self) -> float:
        """Seconds of one prompt token, once everything is loaded and compiled: an upper bound for many at a time."""
        length = min(TRIAL, self.context(self.budget.context) - 1)
        self.generate([self.random_ids(length, 0)], 1)
        return self.generate([self.random_ids(length, 1)], 1)[1] / length

    def long(self, context: int, group: int, most_rows: int, pace: float) -> Long:
        """Random prompts of the longest context, each shared by a group as in a real step, and a few more tokens."""
        context = self.context(context)
        rows = min(self.at_once, most_rows)
        length = max(1, context - MORE)
        groups = max(1, min(-(-rows // group), int(SECONDS / (pace * length))))
        rows = min(rows, groups * group)
        prompts = [self.random_ids(length, i // group) for i in range(rows)]
        prefill, token = self.prefill_and_token(prompts)
        return Long(rows, context, prefill, token, self.prefill_and_token(prompts[:1])[1])

    def prefill_and_token(self, prompts: Sequence[Sequence[int]]) -> tuple[float, float]:
        """Seconds of the prompts with a first token, and of one more token for all rows."""
        _, first = self.generate(prompts, 1)
        answers, both = self.generate(prompts, MORE)
        more = max(len(answer.ids) for answer in answers) - 1
        return first, max(0.0, both - first) / max(1, more)

    def context(self, tokens: int) -> int:
        """At most the positions that the model has: what is longer was refused, or is an upper bound."""
        return tokens if self.run.positions is None else min(tokens, self.run.positions)

    def random_ids(self, length: int, index: int) -> list[int]:
        words = len(self.run.policy.tokenizer)
        return generator(self.recipe.seed, 0, RUN, index).integers(words, size=length).tolist()

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int) -> tuple[list[Completion], float]:
        keys = [RowKey(self.recipe.seed, 0, RUN, i) for i in range(len(prompts))]
        sampling = Sampling(self.recipe.rollout.temperature, tokens)
        return self.meter(lambda: self.run.engine.generate(prompts, sampling, keys), "sampling")

    def limit(self, requests: Sequence[SampleRequest], cap: int) -> int:
        """Tokens of an answer that the measurement has time for, by what the first few take."""
        prompts = [ids for request in requests for ids in [self.run.chat.prompt(request)] * request.samples]
        _, seconds = self.generate(prompts, SHORTEST)
        return min(cap, max(SHORTEST, int(SECONDS / seconds * SHORTEST)))

    def sampled(self) -> list[tuple[Part, list[Group]]]:
        """A part of the method's first step, and of every other kind of step that samples: they reflect on wrong
        answers of that one.
        """
        run = self.run
        plan = run.method.plan(1, [])
        if plan.reference:
            run.policy.set_reference(plan.reference, plan.reference_share)
        firsts = sum(request.samples for request in plan.requests)
        found = [self.step(plan, firsts)]
        for name, phase in run.needs.phases.items():
            if name != plan.phase and phase.rollouts:
                joint = phase.kind is PhaseKind.JOINT
                requests = self.reflections(found[0][1], phase.rollouts - joint * firsts)
                requests = [*plan.requests[: len(requests)], *requests] if joint else requests
                found.append(self.step(Plan(name, requests), phase.rollouts))
        return found

    def reflections(self, groups: Sequence[Group], rows: int) -> list[SampleRequest]:
        """At most so many rows of requests on one answer of each group, a wrong one where there is one."""
        size = corrections_of_an_error(self.recipe.method, self.recipe.rollout.group_size)
        shown = [min(group.attempts, key=lambda a: not a.is_reasoning_error) for group in groups[: -(-rows // size)]]
        return [self.run.method.prompts.reflection(PoolEntry.of(a, 1), size) for a in shown]

    def step(self, plan: Plan, planned: int) -> tuple[Part, list[Group]]:
        """As much of a plan as one generate call holds, with the rounds that the method asks for after it. `planned`:
        answers that a whole step plans.
        """
        requests = spread(plan.requests, self.at_once)
        here, groups, round = sum(r.samples for r in requests), list[Group](), 0
        seconds = {"sampling": 0.0, "grading": 0.0}
        cap = self.recipe.rollout.max_tokens
        limit = self.limit(requests, cap)
        while requests:
            origin = Origin(f"{RUN}:{plan.phase}", self.recipe.seed, 1, "rollout", group=len(groups), round=round)
            sampled, *taken = self.answered(requests, origin, limit)
            groups, round = [*groups, *sampled], round + 1
            seconds = {name: before + more for (name, before), more in zip(seconds.items(), taken, strict=True)}
            requests = self.run.method.next_round(1, groups, round)
        attempts = [a for group in groups for a in group.attempts]
        seconds["storing"] = self.store(attempts, plan.phase)
        return part_of(plan.phase, planned / here, attempts, seconds, limit, cap), groups

    def answered(
        self, requests: Sequence[SampleRequest], origin: Origin, limit: int
    ) -> tuple[list[Group], float, float]:
        """Groups, the seconds of sampling them, and those of grading them."""
        run, sampling = self.run, Sampling(self.recipe.rollout.temperature, limit)
        completions, sampled = self.meter(
            lambda: sample_requests(run.engine, run.chat, requests, sampling, origin), "sampling"
        )
        cfg, prefill = self.recipe.task.reflection, run.chat.prefill
        groups, graded = self.meter(lambda: grade_groups(run.task, cfg, requests, completions, origin, prefill))
        return groups, sampled, graded

    def evaluation(self) -> Part | None:
        """As many problems of the run's own evaluation as one generate call holds, with all that is asked of them."""
        run, protocol, found = self.run, self.run.evaluator.protocol, self.run.benchmark()
        if found is None:
            return None
        name, problems = found
        some = problems[: part_size(self.at_once, protocol.samples)]
        first = [SampleRequest(p, run.task.messages(p), protocol.samples) for p in some]
        limit = self.limit(first, protocol.max_tokens)
        evaluator = replace(run.evaluator, protocol=replace(protocol, max_tokens=limit))
        (_, attempts), sampling = self.meter(lambda: evaluator.answer(some, f"{RUN}:{name}", name), "evaluation")
        _, measuring = self.meter(lambda: evaluator.measure(Answers.of(attempts)), "evaluation")
        seconds = {"sampling": sampling, "measuring": measuring, "storing": self.store(attempts, name)}
        return part_of(f"task.{name}", len(problems) / len(some), attempts, seconds, limit, protocol.max_tokens)

    # -- the update ------------------------------------------------------------------------------------------------

    @contextmanager
    def weights_kept(self) -> Iterator[None]:
        """Inside, the adapter may move; afterwards it is what it was, and so is the policy's version."""
        policy = self.run.policy
        kept, version = [p.detach().clone() for p in policy.trainable()], policy.version
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(policy.trainable(), kept, strict=True):
                    parameter.copy_(value)
            policy.version = version

    def updated(self, part: Part, groups: Sequence[Group], pace: float) -> Part:
        """The part with the seconds of the update on it, as it was graded. Collected answers are not trained on."""
        if self.run.needs.phases[part.name].kind is PhaseKind.COLLECTION:
            return part
        taken = within(groups, SECONDS / (TRAINING * pace))
        plan = Plan(part.name)
        credits, crediting = self.meter(lambda: credit(self.run, plan, taken, Clock()), "update")
        _, training = self.meter(lambda: self.run.updater.update(1, completions_of(taken), credits), "update")
        live, share = sum(bool(row.mask_T.any()) for row in credits.rows), tokens_of(taken) / tokens_of(groups)
        return replace(
            part, seconds={**part.seconds, "update": (crediting + training) / share}, live=round(live / share)
        )

    def fits(self, sampled: Sequence[tuple[Part, Sequence[Group]]]) -> list[Part]:
        """A step that fits recorded answers, for a method that has one: on answers that were sampled here."""
        run, how = self.run, self.recipe.method.fitting
        name = next((n for n, phase in run.needs.phases.items() if phase.kind is PhaseKind.FIT), None)
        if name is None or how is None:
            return []
        size = how.completions
        examples = [
            Group(group.request, group.attempts[i : i + size])
            for group in sampled[0][1]
            for i in range(0, len(group.attempts) - size + 1, size)
        ][: how.batch]
        run.updater.recorded = True
        credits, crediting = self.meter(lambda: credit(run, Plan(name), examples, Clock()), "update")
        _, training = self.meter(lambda: run.updater.update(1, completions_of(examples), credits), "update")
        run.updater.recorded = False
        rows = size * len(examples)
        return [Part(name, how.batch / len(examples), rows, 0, 0, {"update": crediting + training}, 0, live=rows)]

    def longest_update(self, pace: float) -> float:
        """Seconds of one trained token in a full micro-batch of random rows of the longest context."""
        cap, group = self.recipe.rollout.max_tokens, self.recipe.rollout.group_size
        context = self.context(self.budget.context)
        completion = min(cap, context - 1)
        rows = -(-self.recipe.optim.tokens_per_microbatch // completion)
        rows = max(1, min(rows, int(SECONDS / (TRAINING * pace * context))))
        completions = [
            random_completion(self.random_ids(context - completion, i // group), self.random_ids(completion, 10**6 + i))
            for i in range(rows)
        ]
        beta = getattr(getattr(self.recipe.method, "kl", None), "beta", 0.0)
        credits = Credits(
            [flat_credit(completion, (-1.0) ** i, beta) for i in range(rows)], "masked_tokens", ClipConfig()
        )
        _, seconds = self.meter(lambda: self.run.updater.update(1, completions, credits), "update")
        return seconds / (rows * completion)

    # -- the database ----------------------------------------------------------------------------------------------

    def store(self, attempts: Sequence[Attempt], phase: str) -> float:
        """Seconds."""
        self.attempts += attempts
        record = StepRecord(len(self.attempts), phase, attempts)
        return self.meter(lambda: record_step(self.run.db, RUN, record))[1]


def part_of(
    name: str, whole: float, attempts: Sequence[Attempt], seconds: Mapping[str, float], limit: int, cap: int
) -> Part:
    return Part(
        name,
        whole,
        rows=len(attempts),
        tokens=sum(len(a.completion.ids) for a in attempts),
        prompt_tokens=sum(len(a.completion.prompt_ids) for a in attempts),
        seconds=dict(seconds),
        limit=limit,
        cut=sum(a.truncated for a in attempts) if limit < cap else 0,
    )


def spread(requests: Sequence[SampleRequest], rows: int) -> Sequence[SampleRequest]:
    """So many answers of a plan, at least one request, taken evenly from all of it."""
    planned = sum(request.samples for request in requests)
    count = max(1, min(len(requests), len(requests) * rows // planned))
    return [requests[i * len(requests) // count] for i in range(count)]


def within(groups: Sequence[Group], tokens: float) -> list[Group]:
    """The first groups that have so many tokens, at least one."""
    sizes = np.cumsum([tokens_of([group]) for group in groups])
    return list(groups[: max(1, int((sizes <= tokens).sum()))])


def tokens_of(groups: Sequence[Group]) -> int:
    return sum(len(c.prompt_ids) + len(c.ids) for c in completions_of(groups))


def random_completion(prompt: Sequence[int], ids: Sequence[int]) -> Completion:
    return Completion(prompt, ids, [0.0] * len(ids), "", FinishReason.LENGTH)
