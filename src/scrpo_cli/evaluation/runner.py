"""Evaluate a policy on problems: first answers, and on request further turns and repairs of wrong answers.

Every evaluation of a recipe uses the same random numbers, so that two policies are compared on common draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scrpo_cli.evaluation.changes import changes
from scrpo_cli.evaluation.metrics import by_turn, repair_rate, summarize, two_turn
from scrpo_cli.evaluation.outcomes import FIRST, REPAIR, VERDICT, Answers, flat, left_out, repairable
from scrpo_cli.evaluation.protocol import Protocol
from scrpo_cli.evaluation.voting import scaling_metrics, vote_classes
from scrpo_cli.rollout.base import Engine, RowKey, Sampling
from scrpo_cli.rollout.chat import Chat, next_turn
from scrpo_cli.rollout.groups import Origin, grade_groups, sample_requests
from scrpo_cli.rollout.prompts import reflection_request
from scrpo_cli.tasks.base import Task
from scrpo_cli.tracking.activity import now
from scrpo_cli.types import Attempt, AttemptKind, Completion, Group, PoolEntry, Problem, SampleRequest

SHOWN = {FIRST: "first answers", "second": "second answers", REPAIR: "repairs", VERDICT: "verdicts"}
"""How the progress of a part is headed."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one benchmark (see docs/evaluation.md) and the answers behind them."""

    metrics: dict[str, Any]
    answers: Answers

    @property
    def attempts(self) -> list[Attempt]:
        return self.answers.attempts


@dataclass(frozen=True)
class Start:
    """What of an evaluation came before a part of it: problems, and repairs."""

    problems: int = 0
    repairs: int = 0


@dataclass(frozen=True)
class Evaluator:
    """Who answers, and how."""

    protocol: Protocol
    engine: Engine
    chat: Chat
    task: Task
    known: dict[RowKey, Completion] | None = None
    """Of a step that may be stopped: what of it is answered (`sample_requests`)."""

    def run(self, problems: Sequence[Problem], prefix: str, name: str) -> Evaluation:
        """Answers to all problems and what they come to. Attempt ids start with `prefix`."""
        answers = Answers.of(self.answer(problems, prefix, name)[1])
        return Evaluation(self.measure(answers), answers)

    def measure(self, answers: Answers) -> dict[str, Any]:
        return measure(answers, self.task, self.protocol) | {"tokens": answers.tokens}

    def answer(
        self, problems: Sequence[Problem], prefix: str, name: str, start: Start | None = None
    ) -> tuple[list[Group], list[Attempt]]:
        """The groups of first answers, and every attempt: first answers, then what is asked on top. A part that begins
        at `start` samples what it would have in an evaluation of all problems at once.
        """
        start = start or Start()
        requests = [SampleRequest(p, self.task.messages(p), self.protocol.samples) for p in problems]
        first = self.sample(requests, prefix, name, FIRST, start.problems)
        later = self.later_turns(first, prefix, name, start.problems * self.protocol.samples)
        attempts = [*flat_groups(first), *flat(later)]
        if self.protocol.repair:
            attempts += self.repairs(first, later, prefix, name, start.repairs)
        return first, attempts

    def sample(
        self,
        requests: Sequence[SampleRequest],
        prefix: str,
        name: str,
        part: str,
        before: int = 0,
        sampling: Sampling | None = None,
    ) -> list[Group]:
        """One part of the evaluation, `before` of whose requests were sampled earlier."""
        row = before * requests[0].samples
        origin = Origin(prefix, self.protocol.seed, 0, f"eval:{name}:{part}", before, row, part)
        with now().doing(SHOWN.get(part, part)):
            sampling = sampling or self.protocol.sampling
            completions = sample_requests(self.engine, self.chat, requests, sampling, origin, self.known)
            cfg = self.protocol.task.reflection
            return grade_groups(self.task, cfg, requests, completions, origin, self.chat.prefill)

    def later_turns(self, first: Sequence[Group], prefix: str, name: str, before: int = 0) -> list[list[Attempt]]:
        """What `second_turn` asks after every answer, turn by turn: a list of attempts for each further turn."""
        cfg, groups, found = self.protocol.task, first, []
        for turn in range(2, self.protocol.turns + 1):
            match self.protocol.second_turn:
                case "check":  # without a word on whether it was right (SCoRe)
                    steps = [(_part("second", turn), cfg.check_prompt, AttemptKind.CHECK)]
                case "retry":
                    steps = [(_part("second", turn), cfg.retry_prompt, AttemptKind.RETRY)]
                case "self_refine":
                    feedback = (_part("feedback", turn), cfg.feedback_prompt, AttemptKind.FEEDBACK)
                    steps = [feedback, (_part("refine", turn), cfg.refine_prompt, AttemptKind.REFINE)]
                case "reflect":
                    entries = [PoolEntry.of(a) for a in flat_groups(first)]
                    requests = [reflection_request(self.task, self.chat, cfg, entry, 1) for entry in entries]
                    return [flat_groups(self.sample(requests, prefix, name, "second", before))]
            for part, prompt, kind in steps:
                groups = self.sample(follow_ups(groups, prompt, kind), prefix, name, part, before)
                found.append(flat_groups(groups))
        return found

    def repairs(
        self, first: Sequence[Group], later: Sequence[Sequence[Attempt]], prefix: str, name: str, before: int = 0
    ) -> list[Attempt]:
        """One reflection and correction of every wrong first answer that was not cut off; nothing where the second
        turn reflects on every answer: it is the repair.
        """
        if later and self.protocol.second_turn == "reflect":
            return []
        errors = [PoolEntry.of(a) for a in flat_groups(first) if repairable(a)]
        requests = [reflection_request(self.task, self.chat, self.protocol.task, entry, 1) for entry in errors]
        return flat_groups(self.sample(requests, prefix, name, REPAIR, before)) if requests else []


def _part(name: str, turn: int) -> str:
    """`second`, then `turn3`, `turn4`, ...; `feedback`, then `feedback3`, ..."""
    return name if turn == 2 else f"{'turn' if name == 'second' else name}{turn}"


def follow_ups(groups: Sequence[Group], prompt: str, kind: AttemptKind) -> list[SampleRequest]:
    """One more turn after every attempt."""
    return [next_turn(g.request, a, prompt, kind) for g in groups for a in g.attempts]


def measure(answers: Answers, task: Task, protocol: Protocol) -> dict[str, Any]:
    """All metrics of an evaluation but its tokens (docs/evaluation.md); they need no model."""
    outcomes, classes = answers.outcomes, vote_classes(task, answers.first)
    if classes is not None:  # as wide as the outcomes, where a problem has fewer samples than others
        classes = [[*row, *[None] * (outcomes.first_NK.shape[1] - len(row))] for row in classes]
    metrics = summarize(outcomes.first_NK, answers.truncated, classes)
    metrics["left_out"] = left_out(answers)
    if len(outcomes.turns) > 1:
        metrics |= two_turn(*outcomes.turns[:2]) | changes(answers.first, answers.turns[1], protocol.task.reflection)
    if len(outcomes.turns) > 2:
        metrics["turns"] = by_turn(outcomes.turns)
    if protocol.repair or answers.repairs or answers.reflections:
        metrics["repair_rate"] = repair_rate(outcomes.first_NK, outcomes.repaired_NK)
    if protocol.scaling and len(outcomes.turns) > 1:
        metrics["scaling"] = scaling_metrics(answers, task)
    return metrics


def flat_groups(groups: Sequence[Group]) -> list[Attempt]:
    return [a for g in groups for a in g.attempts]
