"""External responses: the interchange JSONL that `grade`, `eval` and `collect` read, and its rows as graded attempts.

A row is either a response (`id` or `problem`, `answer`, `response`, `sample`, `turn`, `model`) or a pair of final
answers (`gold`, `pred`). A response to a programming problem has `prompt`, `entry_point` and `tests` in place of
`answer`. Other field names are mapped: {"response": "model_solution"} reads ours from theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scrpo_cli.errors import UserError
from scrpo_cli.tasks.base import Task
from scrpo_cli.tasks.code.sources import FIELDS as CODE_FIELDS
from scrpo_cli.tasks.code.sources import code_problem
from scrpo_cli.tasks.sources import REFUSED, meta_field, read_rows, text_field
from scrpo_cli.types import Attempt, Completion, FinishReason, Problem

FIELDS = (
    *("id", "problem", "answer", "response", "sample", "turn", "model", "gold", "pred", "source", "meta"),
    *("prompt", "entry_point", "tests", "test_imports", "solution", "buggy"),
)


@dataclass(frozen=True, slots=True)
class ResponseRow:
    """One full response. `id` is the problem's, or its text where the row has no id; `where` is `file:line`."""

    id: str
    where: str
    response: str
    problem: str | None = None
    answer: str | None = None
    sample: int = 0
    turn: int = 1
    model: str | None = None
    source: str = "jsonl"
    meta: Mapping[str, Any] = field(default_factory=dict)
    benchmark: str | None = None
    kind: str | None = None
    """What `scrpo runs export` writes: a word of AttemptKind, or `repair`."""
    finish: str | None = None
    prefill: str = ""
    """What the chat template wrote at the start of the response; it is graded with it."""

    def as_problem(self) -> Problem:
        """The problem that the response answers; UserError where the row has no reference answer."""
        if self.answer is None:
            raise UserError("the field 'answer' is missing", self.where, "name it with --map answer=THEIRS")
        return Problem(self.id, self.source, self.problem or "", self.answer, dict(self.meta))

    @property
    def key(self) -> tuple[str, str, int]:
        """Of all turns of one sample."""
        return self.source, self.id, self.sample


@dataclass(frozen=True, slots=True)
class PairRow:
    """Two final answers of which only equivalence is asked."""

    id: str
    where: str
    gold: str
    pred: str


def parse_map(pairs: Sequence[str]) -> dict[str, str]:
    """`["response=model_solution", "id=problem_id,model=name"]` -> {ours: theirs}."""
    fields = {}
    for pair in (part.strip() for text in pairs for part in text.split(",")):
        ours, equals, theirs = pair.partition("=")
        if not (equals and theirs) or ours not in FIELDS:
            fix = f"write ours=theirs, ours being one of {', '.join(FIELDS)}"
            raise UserError(f"the field map {pair!r} cannot be read", "--map", fix)
        fields[ours] = theirs
    return fields


def read_responses(path: str | Path, fields: Mapping[str, str] | None = None) -> list[ResponseRow | PairRow]:
    """All rows of an interchange file; UserError with `file:line` for the first bad one, and nothing is read then."""
    rows = [_row(_renamed(row, fields or {}), where) for row, where in read_rows(Path(path))]
    if not rows:
        raise UserError("the file has no rows", str(path), "give a JSONL file with one response a line")
    return rows


def read_full_responses(path: Path, fields: Mapping[str, str]) -> list[ResponseRow]:
    """Responses with their problem and reference answer; UserError with the line of the first that is not one.

    Rows that do not name their source take the file's name, so that the ids of two files do not meet.
    """
    name = path.name.split(".")[0]
    fix = "Name the fields with --map ours=theirs; the whole file is refused."
    found = []
    for row in read_responses(path, fields):
        if isinstance(row, PairRow):
            raise UserError("A full response is needed, and this row is a (gold, pred) pair.", row.where, fix)
        if row.problem is None or row.answer is None:
            missing = "problem" if row.problem is None else "answer"
            raise UserError(f"The row has no `{missing}`.", row.where, fix)
        found.append(replace(row, source=name) if row.source == "jsonl" else row)
    return found


def rows_by_problem(rows: Sequence[ResponseRow]) -> list[list[ResponseRow]]:
    """Rows of one problem together, in order of first appearance."""
    problems: dict[tuple[str, str], list[ResponseRow]] = {}
    for row in rows:
        problems.setdefault((row.source, row.id), []).append(row)
    return list(problems.values())


def attempts_of_rows(task: Task, columns: Sequence[Sequence[ResponseRow]], prefix: str) -> list[list[Attempt]]:
    """Grades all rows at once; one list a problem, attempt ids `prefix:problem:place`. They have no token ids."""
    problems = [column[0].as_problem() for column in columns]
    pairs = [(problem, row.response) for problem, column in zip(problems, columns, strict=True) for row in column]
    grades = iter(task.grade(pairs))
    return [
        [
            Attempt(
                f"{prefix}:{g}:{s}",
                problem,
                Completion([], [], [], row.response, FinishReason.UNKNOWN),
                next(grades),
                turn=row.turn,
                sample=row.sample,
                group=g,
            )
            for s, row in enumerate(column)
        ]
        for g, (problem, column) in enumerate(zip(problems, columns, strict=True))
    ]


def _renamed(row: dict[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    """The row under our names; a field that is read as another one is not read under its own name too."""
    rest = {key: value for key, value in row.items() if key not in fields.values()}
    return rest | {ours: row[theirs] for ours, theirs in fields.items() if theirs in row}


def _row(row: Mapping[str, Any], where: str) -> ResponseRow | PairRow:
    if "gold" in row and "pred" in row:
        return PairRow(
            str(row.get("id", where)), where, text_field(row, "gold", where), _text(row, "pred", where) or ""
        )
    if "entry_point" in row or ("prompt" in row and "tests" in row):
        row = _with_problem(row, where)
    if "id" not in row and "problem" not in row:
        raise UserError("the line has neither 'id' nor 'problem'", where, f"name them with --map, or {REFUSED}")
    if "response" not in row:
        what = f"the field 'response' is missing (there: {', '.join(row)})"
        raise UserError(what, where, f"name it with --map, or {REFUSED}")
    key = text_field(row, "id" if "id" in row else "problem", where)
    return ResponseRow(
        id=key,
        where=where,
        response=_text(row, "response", where) or "",
        problem=_text(row, "problem", where),
        answer=_answer(row, where),
        sample=_whole(row, "sample", 0, where),
        turn=_whole(row, "turn", 1, where),
        model=_text(row, "model", where),
        source=_text(row, "source", where) or "jsonl",
        meta=meta_field(row, where),
        benchmark=_text(row, "benchmark", where),
        kind=_text(row, "kind", where),
        finish=_text(row, "finish", where),
        prefill=_text(row, "prefill", where) or "",
    )


def _answer(row: Mapping[str, Any], where: str) -> str | None:
    """None where there is none; a problem with tests needs none."""
    if "tests" in meta_field(row, where):
        return _text(row, "answer", where) or ""
    return text_field(row, "answer", where) if "answer" in row else None


def _with_problem(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The row of a programming problem with `problem`, `answer` and `meta` (what the grader runs) like any other."""
    own = {field: value for field, value in row.items() if field in CODE_FIELDS}
    problem = code_problem({"id": row.get("prompt"), **own}, where, "jsonl")
    return {**row, "id": problem.id, "problem": problem.text, "answer": problem.answer, "meta": problem.meta}


def _text(row: Mapping[str, Any], name: str, where: str) -> str | None:
    """Text or nothing; an empty response is a response. Numbers are read as text."""
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise UserError(f"the field {name!r} is no text", where, REFUSED)
    return value


def _whole(row: Mapping[str, Any], name: str, default: int, where: str) -> int:
    value = row.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UserError(f"the field {name!r} is no whole number", where, REFUSED)
    return value
