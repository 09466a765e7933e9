"""An evaluation in parts that survive a kill: a part is a few problems with everything that is asked about them.

Each is stored in one transaction. What a part samples depends on nothing but the recipe and the problems before it, so
an evaluation that was stopped anywhere and taken up again ends with the same rows as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from scrpo_cli.evaluation.outcomes import FIRST, REPAIR
from scrpo_cli.evaluation.runner import Start
from scrpo_cli.types import Attempt, Problem

QUEUED = 8
"""Batches in a part of an engine that fills freed slots by itself."""


@dataclass(frozen=True)
class Part:
    """Everything that was answered about some problems; with them, the first `problems` of the evaluation are done."""

    problems: int
    attempts: Sequence[Attempt]


def parts_left(
    problems: Sequence[Problem],
    stored: Sequence[Attempt],
    size: int,
    answer: Callable[[Sequence[Problem], Start], Sequence[Attempt]],
) -> Iterator[Part]:
    """What `stored` lacks, `size` problems at a time; `answer` samples a part that begins where it is told."""
    start = Start(len({a.group for a in stored if a.part == FIRST}), repairs_in(stored))
    while start.problems < len(problems):
        batch = problems[start.problems : start.problems + size]
        attempts = answer(batch, start)
        start = Start(start.problems + len(batch), start.repairs + repairs_in(attempts))
        yield Part(start.problems, attempts)


def repairs_in(attempts: Sequence[Attempt]) -> int:
    return sum(a.part == REPAIR for a in attempts)


def part_size(batch_size: int, samples: int, queues: bool = False) -> int:
    """Problems whose first answers fill a batch of `rollout.batch_size`; several for an engine that `queues`: while the
    last answers of a part come to their end, most of its slots are empty.
    """
    return max(1, (QUEUED if queues else 1) * batch_size // samples)
