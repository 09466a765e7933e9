"""What a task is: problems in, a prompt for each, and a grade for each response."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
from scrpo_cli.types import Grade, Message, Problem, Verdict

CACHE_ITEMS = 50_000  # judgements that a task remembers


@dataclass(frozen=True)
class InjectionSource:
    """What a task can give to experiments on injected errors (`method.injection`); this one knows no worked answers."""

    kinds: Sequence[str] = ("copied", "other_model")
    """The values of `method.injection.kind` that go with the task."""

    def worked(self, problem: Problem) -> str | None:
        """A right worked answer that ends in the final answer; None where right attempts have to serve instead."""
        return None

    def slips(self, problem: Problem, where: str, rng: np.random.Generator) -> Iterator[str]:
        """Distinct worked answers whose first (`early`) or last (`late`) line is wrong, in random order."""
        return iter(())


class Task(Protocol):
    """Loads problems, phrases the prompt, grades responses. Training and evaluation grade through the same object."""

    name: str
    grader: str
    """Name and version of the grader, stored with every verdict."""
    error_kinds: Sequence[str]
    """The kinds of errors that `error_kind` tells apart; empty where it cannot tell."""
    injection: InjectionSource
    """What experiments on injected errors ask of it."""
    votes: bool
    """Whether final answers can be counted by a majority vote; programs cannot."""

    def problems(self, cfg: ProblemsConfig) -> Sequence[Problem]:
        """The problems of a split, in a fixed order; UserError where the source cannot be read."""
        ...

    def messages(self, problem: Problem) -> list[Message]:
        """The first turn."""
        ...

    def grade(self, pairs: Sequence[tuple[Problem, str]]) -> list[Grade]:
        """One grade for each (problem, response text), in order; a bad response never raises."""
        ...

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """One grade for each (reference answer, final answer): equivalence alone, nothing is extracted."""
        ...

    def unreadable(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """The problems, by id, whose reference answers cannot be read, with the reason: every response to them is a
        `grader_error`, whatever it says.
        """
        ...

    def error_kind(self, problem: Problem, response: str) -> str | None:
        """What went wrong first in a wrong response; None where the task cannot tell."""
        ...

    def close(self) -> None:
        """Ends the grading processes, if there are any."""
        ...


class BaseTask:
    """What most tasks have in common: their prompt from the recipe, no kinds of errors, nothing to close. A user's own
    task inherits from it and writes `name`, `grader`, `problems`, `grade` and `compare`.
    """

    error_kinds: Sequence[str] = ()
    injection: InjectionSource = InjectionSource()
    votes: bool = True

    def __init__(self, cfg: TaskConfig) -> None:
        self.cfg = cfg

    def messages(self, problem: Problem) -> list[Message]:
        """`task.system` (if any) and `task.prompt`; plain replacement, as problem texts are full of braces."""
        system: list[Message] = [{"role": "system", "content": self.cfg.system}] if self.cfg.system else []
        return [*system, {"role": "user", "content": self.cfg.prompt.replace("{problem}", problem.text)}]

    def unreadable(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """A task that reads no reference answers before it grades knows none."""
        return {}

    def error_kind(self, problem: Problem, response: str) -> str | None:
        """Steps in prose are not read."""
        return None

    def close(self) -> None:
        """Ends what the task started."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one answer, with the reason where it is not the comparison's own."""

    verdict: Verdict
    reason: str | None = None


def remember(cache: dict[Any, Judgement], judged: Mapping[Any, Judgement]) -> None:
    """The newest CACHE_ITEMS stay."""
    cache.update(judged)
    while len(cache) > CACHE_ITEMS:
        del cache[next(iter(cache))]
