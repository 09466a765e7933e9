"""External responses as an evaluation: `scrpo eval --from-jsonl`, which also reads `scrpo runs export`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from scrpo_cli.errors import UserError
from scrpo_cli.evaluation.identity import source_name
from scrpo_cli.evaluation.outcomes import FIRST, NO_ANSWERS, REPAIR, Answers
from scrpo_cli.evaluation.protocol import Protocol, fingerprint
from scrpo_cli.evaluation.runner import Evaluation, measure
from scrpo_cli.recipe.models import Recipe, ReflectionConfig
from scrpo_cli.rollout.groups import grade_texts
from scrpo_cli.tasks.base import Task
from scrpo_cli.tasks.external import ResponseRow, models_of, rows_by_problem
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Grade, Verdict


@dataclass(frozen=True)
class ExternalEvaluation(Evaluation):
    """`models`: who gave each answer, by the attempt's id, where the rows say it."""

    models: Mapping[str, str]


def evaluate_rows(
    task: Task,
    rows: Sequence[ResponseRow],
    prefix: str,
    protocol: Protocol | None = None,
    about: Mapping[str, Any] | None = None,
) -> ExternalEvaluation:
    """Score external responses. `about`: what is known of them besides, for the protocol."""
    protocol = replace(protocol or Protocol.of(Recipe()), repair=False)
    turns, repairs = arranged(rows)
    attempts, models = graded(task, turns, repairs, prefix, protocol.task.reflection)
    answers = Answers.of(attempts)
    metrics = measure(answers, task, protocol)
    record = protocol_of_rows(task, answers, rows) | dict(about or {})
    return ExternalEvaluation(metrics | {"protocol": record}, answers, models)


def arranged(rows: Sequence[ResponseRow]) -> tuple[list[list[ResponseRow]], list[ResponseRow]]:
    """The rows of each turn, and the repairs. A row of turn t revises the row of turn t - 1 of its problem and sample;
    rows of kind `repair` are corrections of wrong first answers, and criticisms and self-verdicts are no answers.
    """
    answering = [r for r in rows if r.kind not in (*NO_ANSWERS, REPAIR)]
    first = [r for column in rows_by_problem([r for r in answering if r.turn == 1]) for r in column]
    if not first:
        raise UserError("The file has no first-turn rows.", rows[0].where, "Give rows with turn 1 (the default).")
    refuse_repeats(first)
    last = max(r.turn for r in answering)
    turns = [first, *(in_order(first, [r for r in answering if r.turn == turn], turn) for turn in range(2, last + 1))]
    return turns, [r for r in rows if r.kind == REPAIR]


def graded(
    task: Task,
    turns: Sequence[Sequence[ResponseRow]],
    repairs: Sequence[ResponseRow],
    prefix: str,
    reflection: ReflectionConfig,
) -> tuple[list[Attempt], dict[str, str]]:
    """Attempts of all rows, graded at once, and the models by attempt. Ids are those of an evaluation:
    `prefix:part:group:sample`.
    """
    columns = rows_by_problem(turns[0])
    answering = [row for column in columns for row in column]
    made = [
        blank(row, prefix, AttemptKind.FIRST, FIRST, g, s)
        for g, column in enumerate(columns)
        for s, row in enumerate(column)
    ]
    by_key = {row.key: a.id for row, a in zip(answering, made, strict=True)}
    earlier = [by_key[row.key] for row in turns[0]]
    for turn, rows in enumerate(turns[1:], start=2):
        part = "second" if turn == 2 else f"turn{turn}"
        later = [
            blank(row, prefix, AttemptKind.CHECK, part, i, 0, turn, parent)
            for i, (row, parent) in enumerate(zip(rows, earlier, strict=True))
        ]
        earlier = [a.id for a in later]
        made, answering = [*made, *later], [*answering, *rows]
    for i, row in enumerate(repairs):
        made.append(blank(row, prefix, AttemptKind.CORRECTION, REPAIR, i, 0, 2, by_key.get(row.key)))
        answering.append(row)
    asked = [(a.problem, a.kind, row.prefill + row.response) for a, row in zip(made, answering, strict=True)]
    grades = grade_texts(task, reflection, asked)
    models = {a.id: row.model for a, row in zip(made, answering, strict=True) if row.model}
    return [replace(a, grade=grade) for a, grade in zip(made, grades, strict=True)], models


def blank(
    row: ResponseRow,
    prefix: str,
    kind: AttemptKind,
    part: str,
    group: int,
    place: int,
    turn: int = 1,
    parent: str | None = None,
) -> Attempt:
    """Not graded yet. What the row says of its kind goes first: of a correction only the solution is graded."""
    if row.kind in [k.value for k in AttemptKind]:
        kind = AttemptKind(str(row.kind))
    completion = Completion([], [], [], row.response, FinishReason(row.finish))
    attempt_id, ungraded = f"{prefix}:{part}:{group}:{place}", Grade(Verdict.UNGRADED)
    return Attempt(attempt_id, row.as_problem(), completion, ungraded, kind, turn, row.sample, parent, part, group)


def refuse_repeats(rows: Sequence[ResponseRow]) -> None:
    seen: set[tuple[str, str, int]] = set()
    for row in rows:
        if row.key in seen:
            fix = "Number the samples of a problem with `sample`: 0, 1, 2, ..."
            raise UserError(f"Problem {row.id} has sample {row.sample} twice.", row.where, fix)
        seen.add(row.key)


def in_order(first: Sequence[ResponseRow], later: Sequence[ResponseRow], turn: int) -> list[ResponseRow]:
    """The rows of a further turn in the order of the first-turn ones; each must have exactly one partner."""
    refuse_repeats(later)
    by_key = {r.key: r for r in later}
    firsts = {r.key: r for r in first}
    if odd := firsts.keys() ^ by_key.keys():
        lonely = next(r for key, r in [*firsts.items(), *by_key.items()] if key in odd)
        raise UserError(
            f"{len(odd)} rows have no partner in turn {1 if lonely.key in by_key else turn}; the first is problem "
            f"{lonely.id}.",
            lonely.where,
            "Give every problem and sample all turns, or only the first.",
        )
    return [by_key[r.key] for r in first]


def protocol_of_rows(task: Task, answers: Answers, rows: Sequence[ResponseRow]) -> dict[str, Any]:
    """What is known of external responses: not how they were sampled."""
    problems = [column[0].problem for column in answers.first]
    return {
        "responses": "external",
        "model": models_of(rows) or None,
        "samples": max(map(len, answers.first)),
        "turns": len(answers.turns),
        "task": task.name,
        "grader": task.grader,
        "source": ", ".join(sorted({source_name(p.source) for p in problems})),
        "problems": len(problems),
        "problems_sha256": fingerprint(problems),
        "scrpo_version": version("scrpo-cli"),
    }
