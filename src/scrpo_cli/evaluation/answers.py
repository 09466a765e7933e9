"""All answers of one evaluation, put together from its attempts: sampled just now, stored earlier, or external.

The parts of an evaluation: `first`; `second`, `turn3`, ... or `feedback`, `refine`, ... for what followed; `repair`;
`verdict` for what a gate asked. Every number of an evaluation is a function of these attempts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scrpo_cli.evaluation.metrics import padded
from scrpo_cli.types import Attempt, FinishReason

FIRST, REPAIR, VERDICT = "first", "repair", "verdict"


@dataclass(frozen=True)
class Answers:
    """N problems, up to K samples. `later` holds what followed the first answers, a list for each further turn in
    their order; `repairs` and `asked` (by a gate) come on top.
    """

    first: list[list[Attempt]]
    later: list[list[Attempt]]
    repairs: list[Attempt]
    asked: list[Attempt]

    @classmethod
    def of(cls, attempts: Sequence[Attempt]) -> Answers:
        """In any order. Raises KeyError when an answer lacks the turn that others of its evaluation have."""
        parts: dict[str, list[Attempt]] = {}
        for attempt in sorted(attempts, key=lambda a: (a.group, a.sample)):
            parts.setdefault(attempt.part, []).append(attempt)
        rows: dict[int, list[Attempt]] = {}
        for attempt in parts.pop(FIRST, []):
            rows.setdefault(attempt.group, []).append(attempt)
        repairs, asked = parts.pop(REPAIR, []), parts.pop(VERDICT, [])
        later: list[list[Attempt]] = []
        before = flat([*rows.values()])
        for turn in sorted(parts.values(), key=lambda turn: turn[0].turn):
            by_parent = {a.parent: a for a in turn}
            before = [by_parent[a.id] for a in before]
            later.append(before)
        return cls([*rows.values()], later, repairs, asked)

    @property
    def attempts(self) -> list[Attempt]:
        return [*flat(self.first), *flat(self.later), *self.repairs, *self.asked]

    @property
    def turns(self) -> list[list[Attempt]]:
        """The turns that answer the problem, the first one included: what Self-Refine criticises in between is none."""
        return [flat(self.first), *(turn for turn in self.later if turn and turn[0].kind.answers)]

    def nested(self, values: Sequence[Any]) -> list[list[Any]]:
        """One value for each first answer, in order, by problem."""
        rest = iter(values)
        return [[next(rest) for _ in row] for row in self.first]

    def outcomes(self, turn: int = 0) -> np.ndarray:
        """(N, K) of an answering turn; NaN where the grader failed or a problem has fewer samples than others."""
        return padded(self.nested([a.outcome for a in self.turns[turn]]))

    @property
    def truncated(self) -> np.ndarray | None:
        """(N, K) of the first answers; None where it is not known of all of them."""
        if any(a.completion.finish is FinishReason.UNKNOWN for row in self.first for a in row):
            return None
        return padded([[float(a.truncated) for a in row] for row in self.first])


def flat(rows: Sequence[Sequence[Attempt]]) -> list[Attempt]:
    return [a for row in rows for a in row]


def count_tokens(attempts: Sequence[Attempt]) -> int:
    return sum(len(a.completion.ids) for a in attempts)
