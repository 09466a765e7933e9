"""Controlled experiments: wrong attempts of a chosen kind, injected into the error pool at a chosen share.

    early, late    a worked answer whose first (last) line is wrong, carried on consistently
    copied         a right worked answer that ends in the wrong answer of another problem of the step
    off_by_one     a right worked answer that ends in the right answer plus or minus one (integers)
    other_model    a wrong attempt of another model at this problem, from a recorded run

A right worked answer is the task's own or, where it has none, a right attempt of the problem's group. The task grades
what is injected, and only `wrong` is: never a right answer, never one that cannot be read.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, repeat
from typing import TypeVar

import numpy as np

from scrpo_cli.errors import UserError
from scrpo_cli.methods.base import Library
from scrpo_cli.methods.scrpo import InjectionConfig
from scrpo_cli.rng import generator
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.tasks.base import Task
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Group, Problem, Verdict

T = TypeVar("T")
RecordedErrors = Mapping[str, Sequence[str]]
"""Wrong answers of another model by problem text: the same problem has other ids elsewhere."""

_INTEGER = re.compile(r"-?\d+")


class ErrorInjector:
    """Makes wrong attempts of one kind; implements `methods.base.Injector`. Longer ones than `max_tokens` are passed
    over: no prompt has room for them. Raises UserError where the task cannot make this kind, or the run holds none.
    """

    def __init__(
        self,
        cfg: InjectionConfig,
        task: Task,
        chat: Chat,
        problems: Sequence[Problem],
        library: Library,
        max_tokens: int,
        seed: int,
    ) -> None:
        self.cfg, self.task, self.chat, self.problems, self.library = cfg, task, chat, problems, library
        self.max_tokens, self.seed = max_tokens, seed
        if cfg.share and cfg.kind not in task.injection.kinds:
            what = f"The task '{task.name}' cannot inject '{cfg.kind}' errors: it knows no worked steps."
            raise UserError(what, "method.injection.kind", f"Use {' or '.join(task.injection.kinds)}.")
        if cfg.share and cfg.kind == "other_model" and not self.recorded:
            what = f"Run {cfg.run} has no wrong first answer to a training problem."
            fix = "Name a run of `scrpo collect --from-jsonl` on these problems."
            raise UserError(what, "method.injection.run", fix)

    @cached_property
    def recorded(self) -> RecordedErrors:
        """The other model's wrong first answers to the problems of this run."""
        known = {p.text for p in self.problems}
        found: dict[str, list[str]] = {}
        for attempt in self.library.attempts([str(self.cfg.run)], texts_only=True):
            wrong = attempt.kind is AttemptKind.FIRST and attempt.grade.verdict is Verdict.WRONG
            if wrong and attempt.problem.text in known:
                found.setdefault(attempt.problem.text, []).append(attempt.completion.text)
        return found

    def inject(self, step: int, groups: Sequence[Group], count: int) -> list[Attempt]:
        """At most `count` attempts at the problems of a first-answer step, which take turns in random order."""
        injected: list[Attempt] = []
        for problem, text in in_turn(self.sources(step, groups)):
            attempt = self.written(problem, text, f"{groups[0].attempts[0].id}:injected:{len(injected)}", len(injected))
            if attempt.grade.verdict is Verdict.WRONG and len(attempt.completion.ids) <= self.max_tokens:
                injected.append(attempt)
            if len(injected) == count:
                break
        return injected

    def written(self, problem: Problem, text: str, attempt_id: str, sample: int) -> Attempt:
        """A first answer that nobody sampled, tokenized and graded; its log-probs are 0: readers expect one a token."""
        ids = self.chat.tokenizer.encode(text, add_special_tokens=False)
        prompt_ids = self.chat.ids(self.task.messages(problem))
        completion = Completion(prompt_ids, ids, [0.0] * len(ids), text, FinishReason.UNKNOWN)
        (grade,) = self.task.grade([(problem, text)])
        return Attempt(attempt_id, problem, completion, grade, sample=sample)

    def sources(self, step: int, groups: Sequence[Group]) -> list[Iterator[tuple[Problem, str]]]:
        order = generator(self.seed, step, "plant").permutation(len(groups))  # as it was called: the same draws
        randoms = [generator(self.seed, step, "plant", 1 + int(i)) for i in order]
        return [
            zip(repeat(groups[i].request.problem), self.wrong_texts(groups[i], groups, rng), strict=False)
            for i, rng in zip(order, randoms, strict=True)
        ]

    def wrong_texts(self, group: Group, groups: Sequence[Group], rng: np.random.Generator) -> Iterator[str]:
        """Distinct attempts at the problem of `group`, in random order."""
        problem = group.request.problem
        if self.cfg.kind in ("early", "late"):
            yield from self.task.injection.slips(problem, self.cfg.kind, rng)
        elif self.cfg.kind == "other_model":
            yield from shuffled(self.recorded.get(problem.text, []), rng)
        elif (worked := right_worked(group, self.task)) is not None:
            head, tail = worked
            answers = neighbours(problem.answer) if self.cfg.kind == "off_by_one" else wrong_answers(groups, problem)
            yield from (f"{head}{answer}{tail}" for answer in shuffled(answers, rng))


def in_turn(sources: Sequence[Iterator[T]]) -> Iterator[T]:
    """One of each source, then the next of each; a source that has ended is passed over."""
    left = deque(sources)
    while left:
        source = left.popleft()
        for item in islice(source, 1):
            yield item
            left.append(source)


def shuffled(texts: Sequence[str], rng: np.random.Generator) -> list[str]:
    distinct = list(dict.fromkeys(texts))
    return [distinct[i] for i in rng.permutation(len(distinct))]


def right_worked(group: Group, task: Task) -> tuple[str, str] | None:
    """What stands before and after the final answer of a right worked answer."""
    problem = group.request.problem
    right = [(a.completion.text, a.grade.extracted) for a in group.attempts if a.reward == 1]
    own = task.injection.worked(problem)
    for text, answer in [(own, problem.answer)] if own is not None else right:
        if answer and answer in text:
            head, _, tail = text.rpartition(answer)
            return head, tail
    return None


def wrong_answers(groups: Sequence[Group], problem: Problem) -> list[str]:
    """Final answers of wrong attempts at the other problems of a step."""
    attempts = [a for g in groups if g.request.problem != problem for a in g.attempts]
    return [a.grade.extracted for a in attempts if a.grade.verdict is Verdict.WRONG and a.grade.extracted]


def neighbours(answer: str) -> list[str]:
    """An integer's two; none of anything else."""
    plain = answer.replace(",", "").strip()
    return [str(int(plain) - 1), str(int(plain) + 1)] if _INTEGER.fullmatch(plain) else []
