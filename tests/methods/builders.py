"""Groups without an engine: completions whose tokens are characters."""

from __future__ import annotations

from scrpo_cli.methods.base import ClipConfig, Credits, MethodContext, Setting
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


class CharTokenizer:
    """Token ids are code points."""

    def decode(self, ids):
        return "".join(chr(i) for i in ids)

    def encode(self, text, add_special_tokens=False):
        return [ord(c) for c in text]


def credits_of(rows, normalizer, clip=ClipConfig(), **fields) -> Credits:
    """Under PPO's clip where a test does not care."""
    return Credits(rows, normalizer, clip, **fields)


class NoInjector:
    """For recipes without injected errors."""

    def inject(self, step, groups, count):
        raise AssertionError("nothing was to be injected")


def setting(**changes) -> Setting:
    numbers = {
        "prompts_per_step": 4, "group_size": 4, "max_tokens": 8, "max_prompt_tokens": 16, "shown_tokens": 8,
        "reflect_prompt": "reflect", "check_prompt": "check it", "steps": 9, "token_budget": None, "minibatches": 1,
        "seed": 0, "count_tokens": len,
    }  # fmt: skip
    return Setting(**numbers | changes)


def context(prompts, library=None, injector=None, **numbers) -> MethodContext:
    """What a method is given; `numbers` of its setting."""
    return MethodContext(setting(**numbers), prompts, library, lambda cfg: injector or NoInjector())


def problem(name: str = "p") -> Problem:
    return Problem(name, "test", f"question {name}", "1")


def entry(name: str = "p", added_step: int = 0) -> PoolEntry:
    return PoolEntry(f"bad-{name}-{added_step}", problem(name), "wrong", "2", added_step)


def attempt(
    reward: float,
    text: str = "abcd",
    name: str = "a",
    cut: bool = False,
    kind: AttemptKind = AttemptKind.FIRST,
    verdict: Verdict | None = None,
    round: int = 0,
) -> Attempt:
    verdict = verdict or (Verdict.CORRECT if reward else Verdict.WRONG)
    ids = [ord(c) for c in text]
    finish = FinishReason.LENGTH if cut else FinishReason.STOP
    completion = Completion([1], ids, [-1.0] * len(ids), text, finish)
    return Attempt(name, problem(), completion, Grade(verdict), kind, round=round)


def first_group(rewards, name: str = "p", **fields) -> Group:
    attempts = [attempt(r, name=f"{name}{i}", **fields) for i, r in enumerate(rewards)]
    return Group(SampleRequest(problem(name), [], len(attempts)), attempts)


def correction(rewards, texts, error: PoolEntry | None = None) -> Group:
    attempts = [
        attempt(r, text=t, name=f"c{i}", kind=AttemptKind.CORRECTION) for i, (r, t) in enumerate(zip(rewards, texts))
    ]
    error = error or entry()
    return Group(SampleRequest(error.problem, [], len(attempts), AttemptKind.CORRECTION, error), attempts)
