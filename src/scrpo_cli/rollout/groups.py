"""Asks to graded groups: the one path on which training, collect, correct and eval sample and grade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scrpo_cli.recipe.models import ReflectionConfig
from scrpo_cli.rollout.base import Engine, RowKey, Sampling
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.rollout.segments import graded_text
from scrpo_cli.tasks.base import Task
from scrpo_cli.tracking.activity import now
from scrpo_cli.types import Attempt, AttemptKind, Completion, Grade, Group, Problem, SampleRequest, Verdict


@dataclass(frozen=True)
class Origin:
    """Where attempts come from: ids are `prefix:group:sample`, with the part of an evaluation before the group;
    randomness is (seed, step, purpose, row). `group` is the number of the first group: a step that samples in rounds
    counts on, each round with draws of its own. An evaluation in parts counts its rows on as well, from `row`, so that
    the parts draw what the whole would.
    """

    prefix: str
    seed: int
    step: int
    purpose: str
    group: int = 0
    row: int = 0
    part: str = ""
    round: int = 0

    def attempt_id(self, group: int, sample: int) -> str:
        return ":".join([self.prefix, *filter(None, [self.part]), str(group), str(sample)])


def sample_requests(
    engine: Engine,
    chat: Chat,
    requests: Sequence[SampleRequest],
    sampling: Sampling,
    origin: Origin,
    known: dict[RowKey, Completion] | None = None,
) -> list[list[Completion]]:
    """`ask.samples` completions of every ask. Those that are `known`, after the same prompt, are not sampled again;
    each new one is put there as soon as it may be kept.
    """
    known = {} if known is None else known
    prompts = [ids for request in requests for ids in [chat.prompt(request)] * request.samples]
    counted_on = origin.group == 0 or origin.row > 0
    purpose = origin.purpose if counted_on else f"{origin.purpose}:{origin.group}"
    keys = [RowKey(origin.seed, origin.step, purpose, origin.row + i) for i in range(len(prompts))]
    rows = [(k, p) for k, p in zip(keys, prompts, strict=True) if k not in known or list(known[k].prompt_ids) != p]
    if rows:
        new, asked = zip(*rows, strict=True)

        def keep(found: Mapping[int, Completion]) -> None:
            known.update({new[row]: completion for row, completion in found.items()})

        known.update(zip(new, engine.generate(asked, sampling, new, keep), strict=True))
    rest = (known[key] for key in keys)
    return [[next(rest) for _ in range(request.samples)] for request in requests]


def grade_groups(
    task: Task,
    reflection: ReflectionConfig,
    requests: Sequence[SampleRequest],
    completions: Sequence[Sequence[Completion]],
    origin: Origin,
    prefill: str,
) -> list[Group]:
    """Grade all completions at once (the task does it in parallel) and put them into groups.

    What is graded is `prefill` (`Chat.prefill`) + what was given of the answer + completion: a box inside an unfinished
    thought is no answer.
    """
    pairs = [(request, c) for request, group in zip(requests, completions, strict=True) for c in group]
    grades = iter(grade_texts(task, reflection, [(r.problem, r.kind, prefill + r.begun + c.text) for r, c in pairs]))
    groups = []
    for g, (request, sampled) in enumerate(zip(requests, completions, strict=True), start=origin.group):
        attempts = [
            Attempt(
                origin.attempt_id(g, s),
                request.problem,
                c,
                next(grades),
                request.kind,
                request.turn,
                s,
                request.parent_id,
                origin.part,
                g,
                origin.round,
            )
            for s, c in enumerate(sampled)
        ]
        groups.append(Group(request, attempts))
    return groups


def grade_texts(
    task: Task, reflection: ReflectionConfig, rows: Sequence[tuple[Problem, AttemptKind, str]]
) -> list[Grade]:
    """One grade a row. Of a correction only the solution segment is graded; without it the verdict is unparsable. What
    is no answer to the problem (feedback) is not graded.
    """
    missing = Grade(Verdict.UNPARSABLE, None, f"no {reflection.solution!r} marker", task.grader)
    parts = [graded_text(text, reflection) if kind is AttemptKind.CORRECTION else text for _, kind, text in rows]
    known = [
        Grade(Verdict.UNGRADED) if not kind.answers else missing if part is None else None
        for (_, kind, _), part in zip(rows, parts, strict=True)
    ]
    given = [(row[0], part or "") for row, part, grade in zip(rows, parts, known, strict=True) if grade is None]
    with now().doing("grading"):
        grades = iter(task.grade(given))
    return [next(grades) if grade is None else grade for grade in known]
