"""What a method may ask, phrased by the task and its chat template; implements `methods.base.Prompts`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.models import Recipe, TaskConfig
from scrpo_cli.rng import generator
from scrpo_cli.rollout import segments
from scrpo_cli.rollout.chat import Chat, informed_messages, next_turn, reflection_messages, shown_part
from scrpo_cli.tasks.base import Task
from scrpo_cli.tracking.activity import now
from scrpo_cli.types import Attempt, AttemptKind, Completion, PoolEntry, Problem, SampleRequest

AT_ONCE = 1000
"""Prompts that are tokenized at once."""


class TaskPrompts:
    """The prompts of a run: problems of its training split in a stateless order, first turns and reflections."""

    def __init__(self, recipe: Recipe, task: Task, chat: Chat, problems: Sequence[Problem]) -> None:
        self.recipe, self.task, self.chat, self.all = recipe, task, chat, problems
        self.per_step = recipe.optim.prompts_per_step
        self.error_kinds = task.error_kinds
        self.segments = recipe.task.reflection, chat.tokenizer, chat.prefill
        self.opens_thought = bool(chat.prefill)
        self._order = lru_cache(maxsize=2)(self.order)

    def problems(self, step: int, extra: int = 0) -> list[Problem]:
        """Slots [(step - 1) * P, step * P) of an endless stream of shuffled epochs, steps counted from 1; further draws
        of a step are its own shuffles.
        """
        if extra:
            drawn = generator(self.recipe.seed, step, "extra", extra).permutation(len(self.all))[: self.per_step]
            return [self.all[int(i)] for i in drawn]
        slots = range((step - 1) * self.per_step, step * self.per_step)
        return [self.all[int(self._order(slot // len(self.all))[slot % len(self.all)])] for slot in slots]

    def order(self, epoch: int) -> np.ndarray:
        return generator(self.recipe.seed, epoch, "order").permutation(len(self.all))

    def first(self, problem: Problem, samples: int) -> SampleRequest:
        return SampleRequest(problem, self.task.messages(problem), samples)

    def check(self, request: SampleRequest, attempt: Attempt) -> SampleRequest:
        return next_turn(request, attempt, self.recipe.task.check_prompt)

    def follow_up(self, request: SampleRequest, attempt: Attempt, text: str, kind: AttemptKind) -> SampleRequest:
        return next_turn(request, attempt, text, kind)

    def informed(self, request: SampleRequest, shown: Attempt, text: str) -> SampleRequest:
        response = shown_part(shown.completion.text, self.recipe.task.reflection, self.chat.tokenizer)
        messages = informed_messages(request.messages, response, text)
        return SampleRequest(request.problem, messages, request.samples, request.kind)

    def reflection(self, entry: PoolEntry, samples: int) -> SampleRequest:
        return reflection_request(self.task, self.chat, self.recipe.task, entry, samples)

    def reflection_mask(self, ids: Sequence[int], text: str) -> np.ndarray:
        return segments.reflection_mask(ids, text, *self.segments)

    def solution_mask(self, ids: Sequence[int], text: str) -> np.ndarray:
        return segments.solution_mask(ids, text, *self.segments)

    def solution(self, completion: Completion) -> Completion | None:
        return segments.solution_alone(completion, *self.segments)

    def ids(self, request: SampleRequest) -> list[int]:
        return self.chat.prompt(request)

    def error_kind(self, entry: PoolEntry) -> str | None:
        return self.task.error_kind(entry.problem, entry.response)


def reflection_request(task: Task, chat: Chat, cfg: TaskConfig, entry: PoolEntry, samples: int) -> SampleRequest:
    """Show a wrong answer to the model and ask it to reflect and correct: training, `correct` and `eval` alike."""
    first = task.messages(entry.problem)
    messages = reflection_messages(cfg, first, entry.problem, entry.response, chat.tokenizer)
    return SampleRequest(entry.problem, messages, samples, AttemptKind.CORRECTION, entry)


def check_prompt_budget(cfg: TaskConfig, task: Task, chat: Chat, problems: Sequence[Problem]) -> None:
    """Refuse a data set with a prompt over `task.max_prompt_tokens` before anything is sampled."""
    if not problems:
        where = f"task.train: {cfg.train.source}, split {cfg.train.split}"
        raise UserError("The data set is empty.", where, "Check its source, split and limit.")
    limit, over = cfg.max_prompt_tokens, []
    with now().doing("checking prompts"):
        for start in range(0, len(problems), AT_ONCE):
            now().progress(start, len(problems))
            part = problems[start : start + AT_ONCE]
            lengths = chat.lengths([task.messages(p) for p in part])
            over += [(p, n) for p, n in zip(part, lengths, strict=True) if n > limit]
    if over:
        worst, tokens = max(over, key=lambda pair: pair[1])
        raise UserError(
            f"{len(over)} of {len(problems)} prompts are over the budget of {limit} tokens.",
            f"task.max_prompt_tokens; the longest is {worst.source} {worst.id} with {tokens} tokens",
            f"Raise it (--set task.max_prompt_tokens={tokens}) or leave such problems out of the data.",
        )


def check_context(recipe: Recipe, chat: Chat, positions: int | None) -> None:
    """The method's longest prompt and its completion must fit the model, instructions and template included."""
    needs = recipe.method.needs(recipe.setting(chat.follow_up_tokens))
    if positions is not None and needs.context > positions:
        raise UserError(
            f"A prompt and its completion may need {needs.context} tokens and the model has {positions} positions.",
            "task.max_prompt_tokens, earlier answers, what is asked about them, and rollout.max_tokens",
            "Lower task.max_prompt_tokens, rollout.max_tokens or task.reflection.tail_tokens.",
        )
