"""External responses: the files that `grade`, `eval` and `collect` read, and their rows as graded attempts.

A row is either a response (`id` or `problem`, `answer`, `response`, `sample`, `turn`, `model`) or a pair of final
answers (`gold`, `pred`). A response to a programming problem has `prompt`, `entry_point` and `tests` in place of
`answer`. Other field names are mapped: {"response": "model_solution"} reads ours from theirs, and {"problem":
"doc.query"} from inside of a section. formats.py has the files that other programs write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scrpo_cli.errors import UserError, nearest
from scrpo_cli.files import REFUSED, name_of
from scrpo_cli.numbers import LARGEST
from scrpo_cli.tasks.base import Task
from scrpo_cli.tasks.code.sources import FIELDS as CODE_FIELDS
from scrpo_cli.tasks.code.sources import code_problem
from scrpo_cli.tasks.formats import Record, read_records
from scrpo_cli.tasks.sources import meta_field, text_field, written
from scrpo_cli.types import Attempt, Completion, FinishReason, Problem

FIELDS = (
    *("id", "problem", "answer", "response", "sample", "turn", "model", "gold", "pred", "source", "meta"),
    *("benchmark", "finish", "kind", "prefill"),
    *("prompt", "entry_point", "tests", "test_imports", "solution", "buggy"),
)
FINISHES = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence"), FinishReason.STOP),
    **dict.fromkeys(("length", "max_tokens", "max_length", "model_length"), FinishReason.LENGTH),
}
"""What programs and services call the two ends of an answer; any other word is `unknown`."""
UNNAMED = "jsonl"
"""The source of a row that names none."""
FULL = "Name the fields with --map ours=theirs; the whole file is refused."
ABSENT = object()
"""A field that a record does not have; null is a value."""


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
    source: str = UNNAMED
    meta: Mapping[str, Any] = field(default_factory=dict)
    benchmark: str | None = None
    kind: str | None = None
    """What `scrpo runs export` writes: a word of AttemptKind, or `repair`."""
    finish: FinishReason = FinishReason.UNKNOWN
    prefill: str = ""
    """What the chat template wrote at the start of the response; it is graded with it."""
    foreign: bool = field(default=False, compare=False)
    """`id` is what another program calls the problem, or its text: the text says which one of a benchmark it is."""
    numbered: bool = field(default=True, compare=False)
    """The row says which `sample` it is."""

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
    fields: dict[str, str] = {}
    for pair in (part.strip() for text in pairs for part in text.split(",")):
        ours, equals, theirs = pair.partition("=")
        if not (equals and theirs) or ours not in FIELDS:
            fix = nearest(ours, FIELDS) if equals and theirs else ""
            fix = f"{fix} Write ours=theirs, ours being one of {', '.join(FIELDS)}.".strip()
            raise UserError(f"the field map {pair!r} cannot be read", "--map", fix)
        if fields.setdefault(ours, theirs) != theirs:
            raise UserError(f"the field {ours!r} is mapped twice", "--map", f"it is {fields[ours]!r} or {theirs!r}")
    return fields


def read_responses(
    path: str | Path, fields: Mapping[str, str] | None = None, format: str = "jsonl"
) -> list[ResponseRow | PairRow]:
    """All rows of a file; UserError with its place for the first bad one, and nothing is read then."""
    fields, rows = fields or {}, []
    for record in read_records(Path(path), format):
        mapped = {ours: _inside(record.raw, theirs) for ours, theirs in fields.items()}
        if lacking := [ours for ours, value in mapped.items() if value is ABSENT]:
            what = f"the row has no field {fields[lacking[0]]!r}, which --map reads as {lacking[0]!r}"
            raise UserError(what, record.where, f"there: {', '.join(record.raw)}; the whole file is refused")
        foreign = record.row is not record.raw and "id" not in mapped
        rows.append(_row(_renamed(record, fields) | mapped, record.where, foreign))
    if not rows:
        raise UserError("the file has no rows", name_of(Path(path)), "give a file with one response a line")
    return rows


def read_full_responses(path: Path, fields: Mapping[str, str], format: str = "jsonl") -> list[ResponseRow]:
    """Responses with their problem and reference answer; UserError with the line of the first that is not one.

    Rows that do not name their source take the file's name, so that the ids of two files do not meet.
    """
    name = Path(name_of(path)).name.split(".")[0]
    rows = [with_problem(row) for row in full_responses(read_responses(path, fields, format))]
    return [replace(row, source=name) if row.source == UNNAMED else row for row in rows]


def full_responses(rows: Sequence[ResponseRow | PairRow]) -> list[ResponseRow]:
    """The rows, none of which may be a pair of final answers."""
    for row in rows:
        if isinstance(row, PairRow):
            raise UserError("A full response is needed, and this row is a (gold, pred) pair.", row.where, FULL)
    return [row for row in rows if isinstance(row, ResponseRow)]


def with_problem(row: ResponseRow, fix: str = FULL) -> ResponseRow:
    """The row itself, which has to bring its problem and reference answer."""
    for name, value in (("problem", row.problem), ("answer", row.answer)):
        if value is None:
            raise UserError(f"The row has no `{name}`.", row.where, fix)
    return row


def models_of(rows: Sequence[ResponseRow] | None) -> str | None:
    """Who answered, as far as the rows say it; None without rows."""
    return None if rows is None else ", ".join(sorted({row.model for row in rows if row.model}))


def rows_by_problem(rows: Sequence[ResponseRow]) -> list[list[ResponseRow]]:
    """Rows of one problem together, in order of first appearance."""
    problems: dict[tuple[str, str], list[ResponseRow]] = {}
    for row in rows:
        problems.setdefault((row.source, row.id), []).append(row)
    return list(problems.values())


def attempts_of_rows(task: Task, columns: Sequence[Sequence[ResponseRow]], prefix: str) -> list[list[Attempt]]:
    """Grades all rows at once; one list a problem, attempt ids `prefix:problem:place`. They have no token ids."""
    problems = [column[0].as_problem() for column in columns]
    pairs = [
        (problem, row.prefill + row.response)
        for problem, column in zip(problems, columns, strict=True)
        for row in column
    ]
    grades = iter(task.grade(pairs))
    return [
        [
            Attempt(
                f"{prefix}:{g}:{s}",
                problem,
                Completion([], [], [], row.response, row.finish),
                next(grades),
                turn=row.turn,
                sample=row.sample,
                group=g,
            )
            for s, row in enumerate(column)
        ]
        for g, (problem, column) in enumerate(zip(problems, columns, strict=True))
    ]


def _renamed(record: Record, fields: Mapping[str, str]) -> dict[str, Any]:
    """The row without what is read as another field: it is not read under its own name too."""
    own = record.row is record.raw
    return {key: value for key, value in record.row.items() if not (own and key in fields.values())}


def _inside(raw: Any, name: str) -> Any:
    """A field by its name, or by the names of its sections with dots between them."""
    if not isinstance(raw, Mapping):
        return ABSENT
    if name in raw:
        return raw[name]
    section, _, rest = name.partition(".")
    return _inside(raw.get(section), rest) if rest else ABSENT


def _row(row: Mapping[str, Any], where: str, foreign: bool) -> ResponseRow | PairRow:
    if "gold" in row and "pred" in row:
        return PairRow(str(row.get("id", where)), where, text_field(row, "gold", where), _answered(row, "pred", where))
    foreign = foreign or "id" not in row
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
        response=_answered(row, "response", where),
        problem=_text(row, "problem", where),
        answer=_answer(row, where),
        sample=_whole(row, "sample", 0, where),
        turn=_whole(row, "turn", 1, where, least=1),
        model=_text(row, "model", where),
        source=_text(row, "source", where) or UNNAMED,
        meta=meta_field(row, where),
        benchmark=_text(row, "benchmark", where),
        kind=_text(row, "kind", where),
        finish=FINISHES.get((_text(row, "finish", where) or "").lower(), FinishReason.UNKNOWN),
        prefill=_text(row, "prefill", where) or "",
        foreign=foreign,
        numbered="sample" in row,
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


def _answered(row: Mapping[str, Any], name: str, where: str) -> str:
    """What was answered, which may be empty. Null is what programs write where none came: no wrong one."""
    value = _text(row, name, where)
    if value is None:
        raise UserError(
            f"the field {name!r} is null", where, 'write "" where the answer is empty, or leave out the row'
        )
    return value


def _text(row: Mapping[str, Any], name: str, where: str) -> str | None:
    """Text or nothing. Numbers are read as text."""
    value = written(row.get(name))
    if value is not None and not isinstance(value, str):
        raise UserError(f"the field {name!r} is no text", where, REFUSED)
    return value


def _whole(row: Mapping[str, Any], name: str, default: int, where: str, least: int = 0) -> int:
    value = row.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST:
        raise UserError(f"the field {name!r} is no whole number from {least} to {LARGEST}", where, REFUSED)
    return value
