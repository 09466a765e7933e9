"""Conversations, prompts and libraries without an engine: completions whose tokens are characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from methods.builders import CharTokenizer, problem

from scrpo_cli.recipe.models import ReflectionConfig
from scrpo_cli.rollout.chat import informed_messages, next_turn, user
from scrpo_cli.rollout.segments import reflection_mask, solution_mask
from scrpo_cli.types import (
    Attempt,
    AttemptKind,
    Completion,
    FinishReason,
    Grade,
    Group,
    PoolEntry,
    Problem,
    SampleRequest,
    Verdict,
)


class TurnPrompts:
    """`per_step` problems a step, named `step-round-place`; every ask is a user message."""

    error_kinds = ()

    def __init__(self, per_step: int = 2) -> None:
        self.per_step = per_step

    def problems(self, step: int, extra: int = 0) -> list[Problem]:
        return [problem(f"{step}-{extra}-{i}") for i in range(self.per_step)]

    def first(self, p: Problem, samples: int) -> SampleRequest:
        return SampleRequest(p, [user(p.text)], samples)

    def check(self, request: SampleRequest, attempt: Attempt) -> SampleRequest:
        return next_turn(request, attempt, "check it")

    def informed(self, request: SampleRequest, shown: Attempt, text: str) -> SampleRequest:
        messages = informed_messages(request.messages, shown.completion.text, text)
        return SampleRequest(request.problem, messages, request.samples)

    def reflection(self, entry: PoolEntry, samples: int) -> SampleRequest:
        return SampleRequest(entry.problem, [user("reflect")], samples, AttemptKind.CORRECTION, entry)

    def reflection_mask(self, ids: Sequence[int], text: str) -> np.ndarray:
        return reflection_mask(ids, text, ReflectionConfig(), CharTokenizer())

    def solution_mask(self, ids: Sequence[int], text: str) -> np.ndarray:
        return solution_mask(ids, text, ReflectionConfig(), CharTokenizer())

    def ids(self, request: SampleRequest) -> list[int]:
        return [ord(c) for message in request.messages for c in message["content"]]


class Recorded:
    """A library of attempts by run; those of the run itself under `own`."""

    def __init__(self, runs: Mapping[str, Sequence[Attempt]] | None = None, own: Sequence[Attempt] = ()) -> None:
        self.runs, self.own = runs or {}, own

    def attempts(self, runs: Sequence[str], texts_only: bool = False) -> list[Attempt]:
        return [a for name in runs for a in self.runs[name]] if runs else list(self.own)


def answer(
    reward: float,
    text: str = "abcd",
    name: str = "a",
    request: SampleRequest | None = None,
    finish: FinishReason = FinishReason.STOP,
    version: int = 0,
) -> Attempt:
    """A graded answer to `ask`, by default the first to problem p; NaN where the grader failed."""
    request = request or SampleRequest(problem(), [user("question p")], 1)
    verdict = Verdict.GRADER_ERROR if np.isnan(reward) else Verdict.CORRECT if reward else Verdict.WRONG
    ids = [ord(c) for c in text]
    completion = Completion([1, 2], ids, [-1.0] * len(ids), text, finish, version)
    return Attempt(name, request.problem, completion, Grade(verdict), request.kind, request.turn, 0, request.parent_id)


def conversations(rewards: Sequence[Sequence[float]], name: str = "p", text: str = "abcd") -> list[Group]:
    """The groups of one problem: first answers in one group, then each further turn in a group of its own.

    `rewards[i]` are the outcomes of conversation i, turn by turn.
    """
    prompts = TurnPrompts()
    first = prompts.first(problem(name), len(rewards))
    ends = [answer(r[0], text, f"{name}.{i}.1", first) for i, r in enumerate(rewards)]
    groups = [Group(first, list(ends))]
    requests = [first] * len(rewards)
    for turn in range(2, max(map(len, rewards)) + 1):
        for i, r in enumerate(rewards):
            if len(r) >= turn:
                requests[i] = prompts.check(requests[i], ends[i])
                ends[i] = answer(r[turn - 1], text, f"{name}.{i}.{turn}", requests[i])
                groups.append(Group(requests[i], [ends[i]]))
    return groups


def of_turn(groups: Sequence[Group], values: Sequence[object], turn: int) -> list:
    """Of one value a completion (groups in order, samples in order) those of a turn."""
    attempts = [a for g in groups for a in g.attempts]
    return [v for a, v in zip(attempts, values, strict=True) if a.turn == turn]


def renamed(attempt: Attempt, name: str, p: Problem) -> Attempt:
    return replace(attempt, id=name, problem=p)
