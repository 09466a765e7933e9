"""Answers made elsewhere as graded attempts: what `collect --from-jsonl` and `eval --from-jsonl` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from scrpo_cli.errors import UserError
from scrpo_cli.tasks.base import Task
from scrpo_cli.tasks.responses import PairRow, ResponseRow, read_responses
from scrpo_cli.types import Attempt, AttemptKind, Completion, FinishReason, Problem

RowKey = tuple[str, str, int]
FIX = "Name the fields with --map ours=theirs; the whole file is refused."


def read_answers(path: Path, fields: Mapping[str, str]) -> list[ResponseRow]:
    """Full responses with their problem and reference answer; UserError with the line of the first that is not one.

    Rows that do not name their source take the file's name, so that the ids of two files do not meet.
    """
    name = path.name.split(".")[0]
    rows = [checked(row) for row in read_responses(path, fields)]
    return [replace(row, source=name) if row.source == "jsonl" else row for row in rows]


def checked(row: ResponseRow | PairRow) -> ResponseRow:
    if isinstance(row, PairRow):
        raise UserError("A full response is needed, and this row is a (gold, pred) pair.", row.where, FIX)
    if row.problem is None or row.answer is None:
        missing = "problem" if row.problem is None else "answer"
        raise UserError(f"The row has no `{missing}`.", row.where, FIX)
    return row


def row_key(row: ResponseRow) -> RowKey:
    return row.source, row.id, row.sample


def by_problem(rows: Sequence[ResponseRow]) -> list[list[ResponseRow]]:
    """Rows of one problem together, in order of first appearance."""
    problems: dict[tuple[str, str], list[ResponseRow]] = {}
    for row in rows:
        problems.setdefault((row.source, row.id), []).append(row)
    return list(problems.values())


def attempts_of_rows(
    task: Task,
    columns: Sequence[Sequence[ResponseRow]],
    prefix: str,
    kind: AttemptKind = AttemptKind.FIRST,
    parents: Mapping[RowKey, str] | None = None,
) -> list[list[Attempt]]:
    """Grade all rows at once; one list a problem, attempt ids `prefix:problem:place`. They have no token ids."""
    problems = [problem_of(column[0]) for column in columns]
    pairs = [(problem, row.response) for problem, column in zip(problems, columns, strict=True) for row in column]
    grades = iter(task.grade(pairs))
    return [
        [
            Attempt(
                f"{prefix}:{g}:{s}",
                problem,
                Completion([], [], [], row.response, FinishReason.UNKNOWN),
                next(grades),
                kind,
                row.turn,
                row.sample,
                (parents or {}).get(row_key(row)),
                group=g,
            )
            for s, row in enumerate(column)
        ]
        for g, (problem, column) in enumerate(zip(problems, columns, strict=True))
    ]


def problem_of(row: ResponseRow) -> Problem:
    return Problem(row.id, row.source, row.problem or "", row.answer or "", dict(row.meta))
