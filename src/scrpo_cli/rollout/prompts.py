"""What a method may ask, phrased by the task and its chat template; implements `methods.base.Prompts`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.recipe.methods import PairSftConfig, RrrConfig, ScoreConfig, ScrpoConfig, StarConfig
from scrpo_cli.recipe.models import Recipe, TaskConfig
from scrpo_cli.rng import generator
from scrpo_cli.rollout.chat import Chat, next_turn, reflection_messages
from scrpo_cli.rollout.segments import reflection_mask
from scrpo_cli.tasks.base import Task
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, PoolEntry, Problem, SampleRequest


class TaskPrompts:
    """The prompts of a run: problems of its training split in a stateless order, first turns and reflections."""

    def __init__(self, recipe: Recipe, task: Task, chat: Chat, problems: Sequence[Problem]) -> None:
        self.recipe, self.task, self.chat, self.all = recipe, task, chat, problems
        self.per_step = recipe.optim.prompts_per_step
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

    def ids(self, request: SampleRequest) -> list[int]:
        return self.chat.prompt(request)

    def reflection(self, entry: PoolEntry, samples: int) -> SampleRequest:
        return reflection_request(self.task, self.chat, self.recipe.task, entry, samples)

    def error_kind(self, entry: PoolEntry) -> str | None:
        return self.task.error_kind(entry.problem, entry.response)

    def knows(self, text: str) -> bool:
        return text in self._texts

    @cached_property
    def _texts(self) -> set[str]:
        return {p.text for p in self.all}

    def worked(self, problem: Problem) -> str | None:
        return self.task.worked(problem)

    def slips(self, problem: Problem, where: str, rng: np.random.Generator) -> Iterator[str]:
        return self.task.slips(problem, where, rng)

    def written(self, problem: Problem, text: str, attempt_id: str, sample: int) -> Attempt:
        """Its log-probs are 0: nobody sampled it, and readers expect one a token."""
        ids = self.chat.tokenizer.encode(text, add_special_tokens=False)
        prompt_ids = self.chat.ids(self.task.messages(problem))
        completion = Completion(prompt_ids, ids, [0.0] * len(ids), text, FinishReason.UNKNOWN)
        (grade,) = self.task.grade([(problem, text)])
        return Attempt(attempt_id, problem, completion, grade, sample=sample)

    def reflection_mask(self, ids: Sequence[int], text: str) -> np.ndarray:
        return reflection_mask(ids, text, self.recipe.task.reflection, self.chat.tokenizer)


def reflection_request(task: Task, chat: Chat, cfg: TaskConfig, entry: PoolEntry, samples: int) -> SampleRequest:
    """Show a wrong answer to the model and ask it to reflect and correct: training, `correct` and `eval` alike."""
    first = task.messages(entry.problem)
    messages = reflection_messages(cfg, first, entry.problem, entry.response, chat.tokenizer)
    return SampleRequest(entry.problem, messages, samples, AttemptKind.CORRECTION, entry)


def check_task(recipe: Recipe, task: Task) -> None:
    """Refuse an experiment on kinds of errors that the task cannot tell apart or inject."""
    cfg = recipe.method
    if not isinstance(cfg, ScrpoConfig):
        return
    if cfg.pool.diversity == "error_kind" and not task.error_kinds:
        what = f"The task '{task.name}' cannot tell kinds of errors apart."
        raise UserError(what, "method.pool.diversity: error_kind", "Use problem or answer.")
    if cfg.injection.share and cfg.injection.kind not in task.injectable:
        what = f"The task '{task.name}' cannot inject '{cfg.injection.kind}' errors: it knows no worked steps."
        raise UserError(what, "method.injection.kind", f"Use {' or '.join(task.injectable)}.")


def check_prompt_budget(recipe: Recipe, task: Task, chat: Chat, problems: Sequence[Problem]) -> None:
    """Refuse a data set with a prompt over `task.max_prompt_tokens` before anything is sampled."""
    if not problems:
        where = f"task.train: {recipe.task.train.source}, split {recipe.task.train.split}"
        raise UserError("The data set is empty.", where, "Check its source, split and limit.")
    limit = recipe.task.max_prompt_tokens
    over = [(p, n) for p in problems if (n := len(chat.ids(task.messages(p)))) > limit]
    if over:
        worst, tokens = max(over, key=lambda pair: pair[1])
        raise UserError(
            f"{len(over)} of {len(problems)} prompts are over the budget of {limit} tokens.",
            f"task.max_prompt_tokens; the longest is {worst.source} {worst.id} with {tokens} tokens",
            f"Raise it (--set task.max_prompt_tokens={tokens}) or leave such problems out of the data.",
        )


def check_context(recipe: Recipe, positions: int | None) -> None:
    """The longest prompt and its completion must fit the model: a reflection holds the problem and an earlier answer,
    a conversation all answers so far.
    """
    method, longest = recipe.method, recipe.rollout.max_tokens
    shown, keys = 0, ["task.max_prompt_tokens", "rollout.max_tokens"]
    if isinstance(method, ScoreConfig | StarConfig | PairSftConfig):
        shown = longest * (method.turns - 1 if isinstance(method, ScoreConfig) else 1)
    elif isinstance(method, ScrpoConfig | RrrConfig):
        reflection = recipe.task.reflection
        shown = longest if reflection.show == "full" else min(longest, reflection.tail_tokens)
        keys.append("task.reflection.tail_tokens")
    need = recipe.task.max_prompt_tokens + shown + longest
    if positions is not None and need > positions:
        raise UserError(
            f"A prompt and its completion may need {need} tokens and the model has {positions} positions.",
            "task.max_prompt_tokens + earlier answers + rollout.max_tokens",
            f"Lower {', '.join(keys[:-1])} or {keys[-1]}.",
        )
