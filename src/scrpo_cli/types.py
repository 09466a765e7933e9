"""The words of the project as plain data: problem, completion, grade, attempt, group, credit. Standard library and
numpy only; every other package may import this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypedDict

import numpy as np

KEPT = "kept"
"""The filter decision that puts an attempt into the error pool; any other says why it stays out."""


class Message(TypedDict):
    """One chat message, in the form that chat templates take."""

    role: str
    content: str


class Verdict(StrEnum):
    """What grading says; never a bare 0. Truncation is a finish reason, not a verdict."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"  # no final answer could be extracted
    TIMEOUT = "timeout"  # the grader hit its deadline on this item
    GRADER_ERROR = "grader_error"  # the grader itself failed on this item; excluded from groups and averages
    UNGRADED = "ungraded"  # no answer to the problem was asked for: there is nothing to grade

    @classmethod
    def _missing_(cls, value: object) -> Verdict | None:
        return cls.GRADER_ERROR if value == "error" else None  # its word in files of earlier versions

    @property
    def reward(self) -> float:
        """The outcome reward: 1 for correct, 0 for anything else."""
        return float(self is Verdict.CORRECT)


class FinishReason(StrEnum):
    """Why generation ended."""

    STOP = "stop"  # end-of-sequence token
    LENGTH = "length"  # truncated at max_tokens
    UNKNOWN = "unknown"  # of an external response


class AttemptKind(StrEnum):
    """Which question an attempt answers."""

    FIRST = "first"  # the problem alone
    CHECK = "check"  # second turn, not told whether the first answer was right (SCoRe)
    CORRECTION = "correction"  # told that the earlier answer was wrong: reflect, then solve again (ScRPO)
    RETRY = "retry"  # told that it was wrong: solve again without reflecting
    FEEDBACK = "feedback"  # a criticism of its own answer, no answer (Self-Refine)
    REFINE = "refine"  # the turn after the feedback: solve again in its light (Self-Refine)
    SELF_VERDICT = "self_verdict"  # asked whether its own answer is right, no answer

    @property
    def answers(self) -> bool:
        """Whether it is an answer to the problem, which can be right or wrong."""
        return self not in (AttemptKind.FEEDBACK, AttemptKind.SELF_VERDICT)


@dataclass(frozen=True, slots=True)
class Problem:
    """One task item. `id` is unique inside `source`; `meta` holds level, subject, tests and the like."""

    id: str
    source: str
    text: str
    answer: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grade:
    """A verdict with what it was based on. `grader` names the grader and its version."""

    verdict: Verdict
    extracted: str | None = None
    reason: str | None = None
    grader: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine returned. `ids` (T,) are the source of truth (end token included, if it was sampled) and
    `text` is derived from them; `logprobs` (T,) are the sampled log-probs at the sampling temperature.
    """

    prompt_ids: Sequence[int]
    ids: Sequence[int]
    logprobs: Sequence[float]
    text: str
    finish: FinishReason
    policy_version: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A graded completion for a problem. `id` is deterministic, so an attempt can name its `parent` (the attempt that
    it revises) before either is stored; nothing is read back from it. `group` counts the groups of its step, or of its
    `part` of an evaluation; `round` is the round of sampling inside a training step, from 0.
    """

    id: str
    problem: Problem
    completion: Completion
    grade: Grade
    kind: AttemptKind = AttemptKind.FIRST
    turn: int = 1
    sample: int = 0
    parent: str | None = None
    part: str = ""
    group: int = 0
    round: int = 0

    @property
    def reward(self) -> float:
        return self.grade.verdict.reward

    @property
    def outcome(self) -> float:
        """The reward, or NaN where the grader itself failed or there was no answer to grade: such an attempt leaves
        every baseline and average.
        """
        return float("nan") if self.grade.verdict in (Verdict.GRADER_ERROR, Verdict.UNGRADED) else self.reward

    @property
    def truncated(self) -> bool:
        return self.completion.finish is FinishReason.LENGTH

    @property
    def is_reasoning_error(self) -> bool:
        """Wrong or without an answer; a grader's timeout or failure says nothing about the reasoning."""
        return self.grade.verdict in (Verdict.WRONG, Verdict.UNPARSABLE)


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """A pooled error as a method sees it: the wrong attempt, its problem and its life so far."""

    attempt_id: str
    problem: Problem
    response: str
    extracted: str | None
    added_step: int
    uses: int = 0
    repairs: int = 0
    injected: str = ""
    """The kind of error that an experiment injected; empty for what a policy sampled."""
    confidence: float | None = None
    """Mean log-prob of its tokens; None where nobody sampled them."""

    @classmethod
    def of(cls, attempt: Attempt, added_step: int = 0) -> PoolEntry:
        """An attempt as an error that may be shown to the model, pooled or not."""
        return cls(attempt.id, attempt.problem, attempt.completion.text, attempt.grade.extracted, added_step)


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One prompt to sample `samples` completions from; what comes back is one group.

    `parent` is the pooled error that a correction is shown. `previous` is the attempt whose conversation goes on: the
    prompt extends its token ids, and `messages` end with its text and the follow-up. `begun` is how the answer begins:
    the model goes on from there, so it stands in the prompt and is graded with what follows.
    """

    problem: Problem
    messages: Sequence[Message]
    samples: int
    kind: AttemptKind = AttemptKind.FIRST
    parent: PoolEntry | None = None
    previous: Attempt | None = None
    begun: str = ""

    @property
    def parent_id(self) -> str | None:
        """The attempt that the answers revise."""
        if self.previous is not None:
            return self.previous.id
        return self.parent.attempt_id if self.parent else None

    @property
    def turn(self) -> int:
        """The number of the answer that is asked for: 1 for first answers. What comes between two answers (a criticism,
        a self-verdict) has the number of the answer that it leads to.
        """
        if self.previous is not None:
            return self.previous.turn + self.previous.kind.answers
        return 1 if self.kind is AttemptKind.FIRST else 2


@dataclass(frozen=True, slots=True)
class Group:
    """The graded attempts sampled from one and the same prompt."""

    request: SampleRequest
    attempts: Sequence[Attempt]

    @property
    def rewards_G(self) -> np.ndarray:
        return np.array([a.reward for a in self.attempts])


@dataclass(frozen=True, slots=True)
class Credit:
    """What every token of one completion (T,) earns: advantage, loss mask (0/1) and KL coefficient. Statistics of the
    update are also kept apart by `part` (`turn1`, `turn2`), where a method names parts. `reference_prompt`: ids after
    which the reference reads the completion, where they are not those that it was sampled after.
    """

    advantage_T: np.ndarray
    mask_T: np.ndarray
    kl_T: np.ndarray
    part: str = ""
    reference_prompt: Sequence[int] = ()
