"""The answers of one evaluation, and the one table of their outcomes that every number of it is a function of.

An evaluation's attempts (sampled just now, read from the database, or external responses) have parts: `first`;
`second`, `turn3`, ... or `feedback`, `refine`, ... for what followed; `repair`; `verdict` for what a gate asked.

Shapes: N problems, K samples. Outcomes are 0/1 floats; NaN marks an answer that does not count (its grader failed, or a
problem has fewer samples than others).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import attempts_of
from scrpo_cli.types import Attempt, AttemptKind, FinishReason, Verdict

FIRST, REPAIR, VERDICT = "first", "repair", "verdict"
NO_ANSWERS = (AttemptKind.FEEDBACK.value, AttemptKind.SELF_VERDICT.value)
"""Kinds of turns that do not answer the problem."""
MISSING = "missing"
Key = tuple[str, str]
"""Source and id of a problem."""


@dataclass(frozen=True)
class Outcomes:
    """Problems x samples by turn, aligned: row n of every array belongs to `problems[n]`, column k to the same sample.

    `repaired_NK` holds the outcome of the correction of each wrong first answer, NaN where none was tried; a second
    turn that reflects on every answer is the repair of the wrong ones.
    """

    problems: tuple[Key, ...]
    turns: tuple[np.ndarray, ...]
    repaired_NK: np.ndarray

    @property
    def first_NK(self) -> np.ndarray:
        return self.turns[0]

    @property
    def second_NK(self) -> np.ndarray:
        """All NaN where only one answer was asked for."""
        return self.turns[1] if len(self.turns) > 1 else np.full_like(self.first_NK, np.nan)

    @property
    def has_pairs(self) -> bool:
        """Whether some answer has a second one, both of which count."""
        return bool((~np.isnan(self.first_NK + self.second_NK)).any())

    def same(self, other: Outcomes) -> bool:
        """Whether the outcomes are the same, answer by answer, turn by turn."""
        ours, theirs = (*self.turns, self.repaired_NK), (*other.turns, other.repaired_NK)
        return len(ours) == len(theirs) and all(map(_equal, ours, theirs))


def side_by_side(evaluations: Sequence[Outcomes], problems: Sequence[Key]) -> Outcomes:
    """The samples of all evaluations as samples of each of `problems`, which all of them hold, in this order; the
    turns that all of them have.
    """
    places = [{problem: row for row, problem in enumerate(e.problems)} for e in evaluations]
    rows = [[place[problem] for problem in problems] for place in places]

    def joined(tables: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([table[chosen] for table, chosen in zip(tables, rows, strict=True)], axis=1)

    turns = zip(*(e.turns for e in evaluations), strict=False)
    return Outcomes(tuple(problems), tuple(map(joined, turns)), joined([e.repaired_NK for e in evaluations]))


def shared_problems(evaluations: Sequence[Outcomes]) -> list[Key]:
    """Those that all evaluations hold, sorted."""
    return sorted(set.intersection(*(set(e.problems) for e in evaluations))) if evaluations else []


def problem_means(values_NK: np.ndarray) -> np.ndarray:
    """(N,) mean over the samples of each problem that count; NaN where none does."""
    counted_NK = ~np.isnan(values_NK)
    sums_N = np.where(counted_NK, values_NK, 0.0).sum(axis=1)
    return np.where(counted_NK.any(axis=1), sums_N / np.maximum(1, counted_NK.sum(axis=1)), np.nan)


def padded(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """(N, K) from rows of uneven length, NaN at their ends."""
    values_NK = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for values_K, row in zip(values_NK, rows, strict=True):
        values_K[: len(row)] = row
    return values_NK


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=True)


@dataclass(frozen=True)
class Answers:
    """The attempts themselves. `later` holds what followed the first answers, a list for each further turn in their
    order; `repairs` and `asked` (by a gate) come on top.
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
        for turn in sorted(parts.values(), key=lambda turn: (turn[0].turn, turn[0].kind.answers)):
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
        """One value for each first answer, in order, a list for each problem."""
        rest = iter(values)
        return [[next(rest) for _ in row] for row in self.first]

    @property
    def outcomes(self) -> Outcomes:
        problems = tuple((row[0].problem.source, row[0].problem.id) for row in self.first)
        turns = tuple(padded(self.nested([a.outcome for a in turn])) for turn in self.turns)
        repaired = {a.parent: a.outcome for a in (self.repairs or self.reflections)}
        repaired_NK = [[repaired.get(a.id, np.nan) if repairable(a) else np.nan for a in row] for row in self.first]
        return Outcomes(problems, turns, padded(repaired_NK))

    @property
    def reflections(self) -> list[Attempt]:
        """Second answers that were told to correct a wrong one."""
        second = self.turns[1] if len(self.turns) > 1 else []
        return [a for a in second if a.kind is AttemptKind.CORRECTION]

    @property
    def truncated(self) -> np.ndarray | None:
        """(N, K) of the first answers; None where it is not known of all of them."""
        if any(a.completion.finish is FinishReason.UNKNOWN for row in self.first for a in row):
            return None
        return padded([[float(a.truncated) for a in row] for row in self.first])

    @property
    def tokens(self) -> int:
        return sum(len(a.completion.ids) for a in self.attempts)


def read_answers(db: Database, run_id: str, phase: str) -> Answers:
    """What a run answered in an evaluation (`StoredEvaluation.phase`)."""
    return Answers.of(attempts_of(db, run_id, phase=phase))


def left_out(answers: Answers) -> dict[str, dict[str, Any]]:
    """The answers that count in no sum and in no denominator, by part, where there are any: {"n", "of", "why"}, how
    many of how many, and how often for which reason. `missing` is a sample that a problem lacks and others have.
    """
    missing = answers.outcomes.first_NK.size - len(flat(answers.first))
    found = {}
    for part in filter(None, [flat(answers.first), *answers.turns[1:], answers.repairs]):
        absent = missing if part[0].part == FIRST else 0
        failed = [a for a in part if a.grade.verdict is Verdict.GRADER_ERROR]
        why = Counter(a.grade.reason or "no reason given" for a in failed) + Counter({MISSING: absent})
        if why:
            found[part[0].part] = {"n": why.total(), "of": len(part) + absent, "why": dict(why.most_common())}
    return found


def repairable(attempt: Attempt) -> bool:
    """Whether a wrong answer is shown to the model to be corrected: what was cut off is no reasoning error."""
    return attempt.is_reasoning_error and not attempt.truncated


def flat(rows: Sequence[Sequence[Attempt]]) -> list[Attempt]:
    return [a for row in rows for a in row]
