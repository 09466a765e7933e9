"""Which problem each row of external responses answers: one of a benchmark, found by its id, or the one that the row
itself brings, known by what it says. A file's name says nothing about its problems.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from textwrap import shorten

from scrpo_cli.errors import UserError, nearest
from scrpo_cli.recipe.benchmark import shipped
from scrpo_cli.tasks.code.sources import CODE_SETS
from scrpo_cli.tasks.external import UNNAMED, ResponseRow, with_problem
from scrpo_cli.tasks.sources import DATA_SETS
from scrpo_cli.tasks.tiny import is_tiny
from scrpo_cli.types import Problem

OR_A_BENCHMARK = "Name its benchmark with --benchmarks, or the fields with --map; the whole file is refused."
EXTERNAL = "external"
"""Where rows are stored that name neither a benchmark nor a source of their own."""


def by_benchmark(rows: Sequence[ResponseRow]) -> dict[str, list[ResponseRow]]:
    """Rows that are scored together: those of one benchmark, or of one source where rows name no benchmark. The name
    of a benchmark's problems is no source of one's own: what is stored under it was graded by the benchmark's rules.
    """
    found: dict[str, list[ResponseRow]] = {}
    for row in rows:
        found.setdefault(row.benchmark or (row.source if _has_source(row) else EXTERNAL), []).append(row)
    return found


def of_benchmark(rows: Sequence[ResponseRow], problems: Sequence[Problem], name: str) -> list[ResponseRow]:
    """The rows with text, reference answer and rules from the benchmark's problems, in their order.

    UserError with the line of the first row that names no problem of it, or says something else about one.
    """
    places = {p.id: i for i, p in enumerate(problems)}
    times = Counter(_words(p.text) for p in problems)
    texts = {_words(p.text): i for i, p in enumerate(problems) if times[_words(p.text)] == 1}
    found = []
    for row in rows:
        place = texts.get(_words(row.problem or "")) if row.foreign else None
        place = places.get(row.id) if place is None else place
        if place is None:
            raise _unknown(row, problems, name)
        _refuse_difference(row, problems[place], name)
        found.append((place, row))
    of_row = ((problems[place], row) for place, row in sorted(found, key=lambda pair: pair[0]))
    return [replace(r, id=p.id, source=p.source, problem=p.text, answer=p.answer, meta=p.meta) for p, r in of_row]


def _words(text: str) -> str:
    """The text whatever its line breaks."""
    return " ".join(text.split())


def _same(theirs: str, ours: str) -> bool:
    """The same words, or the same number: data sets write `73` as `073` and `73.0` too."""
    with suppress(InvalidOperation):
        if Decimal(theirs) == Decimal(ours):
            return True
    return _words(theirs) == _words(ours)


def _unknown(row: ResponseRow, problems: Sequence[Problem], name: str) -> UserError:
    what = f"{name} has no problem {shorten(row.id, 60, placeholder='...')!r}."
    if row.foreign:
        return UserError(what, row.where, "Name the problem by its id; a text has to be the benchmark's to the word.")
    fix = nearest(row.id, (p.id for p in problems), most=3) or f"Its ids are like {problems[0].id!r}."
    return UserError(what, row.where, f"{fix} The whole file is refused.")


def _refuse_difference(row: ResponseRow, problem: Problem, name: str) -> None:
    """A row may repeat what the benchmark says of its problem, and not say anything else."""
    said = {"problem": (row.problem, problem.text)} if row.problem is not None else {}
    said |= {"answer": (row.answer, problem.answer)} if row.answer else {}  # a program's may be left empty
    for field, (theirs, ours) in said.items():
        if not _same(theirs or "", ours):
            raise _different(row, problem, field, ours, name)
    for key, value in row.meta.items():
        if key not in problem.meta or problem.meta[key] != value:
            raise _different(row, problem, f"meta.{key}", str(problem.meta.get(key, "nothing")), name)


def _different(row: ResponseRow, problem: Problem, field: str, ours: str, name: str) -> UserError:
    what = f"The row's `{field}` of problem {problem.id} is not that of {name}."
    fix = f"It is {shorten(ours, 60, placeholder='...')!r} there. Leave the field out, or do not grade by {name}."
    return UserError(what, row.where, fix)


def of_their_own(rows: Sequence[ResponseRow]) -> list[ResponseRow]:
    """The rows as they are. Where they name no source of their own, one is made of the problem's text, reference
    answer and rules: the same problem is the same in every file, and another one is never taken for it.
    """
    first: dict[tuple[str, str], ResponseRow] = {}
    for row in rows:
        known = first.setdefault((row.source, row.id), with_problem(row, OR_A_BENCHMARK))
        for field in ("problem", "answer", "meta"):
            if getattr(row, field) != getattr(known, field):
                what = f"Problem {shorten(row.id, 60, placeholder='...')!r} has another `{field}` in {known.where}."
                raise UserError(what, row.where, "Give every problem its own id; the whole file is refused.")
    return [row if _has_source(row) else replace(row, source=f"{EXTERNAL}:{_content(row)}") for row in rows]


def _has_source(row: ResponseRow) -> bool:
    return row.source not in (UNNAMED, *DATA_SETS, *CODE_SETS, *shipped())


def _content(row: ResponseRow) -> str:
    said = json.dumps([row.problem, row.answer, dict(row.meta)], sort_keys=True, default=str)
    return hashlib.sha256(said.encode(errors="replace")).hexdigest()[:12]


def source_name(source: str) -> str:
    """A problem's source for a reader: without the mark of its content, if it has one."""
    return EXTERNAL if source.startswith(f"{EXTERNAL}:") else source


def with_samples(rows: Sequence[ResponseRow]) -> list[ResponseRow]:
    """Rows that do not say which sample they are get numbers in the order of the file. Of several models that would
    mix what is to be compared, and of further turns it would be a guess: these are left for `sample` to tell.
    """
    if any(row.turn != 1 or row.numbered for row in rows):
        return list(rows)
    models: dict[tuple[str, str], str | None] = {}
    counts: Counter[tuple[str, str]] = Counter()
    found = []
    for row in rows:
        key = (row.source, row.id)
        if models.setdefault(key, row.model) != row.model:
            what = f"Problem {shorten(row.id, 60, placeholder='...')!r} was answered by {models[key]} and {row.model}."
            fix = "Give each model its own file; answers that belong together are numbered with `sample`."
            raise UserError(what, row.where, fix)
        found.append(replace(row, sample=counts[key]))
        counts[key] += 1
    return found


def task_of(rows: Sequence[ResponseRow]) -> str:
    """The task that can grade the rows: those with tests are programs, chains such as `47+38=?` are the tiny world's,
    all else is mathematics.
    """
    programs = ["tests" in row.meta for row in rows]
    if any(programs) and not all(programs):
        odd = rows[programs.index(not programs[0])]
        what = "The row has no tests, and others have." if programs[0] else "The row has tests, and others have none."
        raise UserError(what, odd.where, "Give programs and other answers a file each, or name a --recipe.")
    if programs[0]:
        return "code"
    return "tiny" if all(is_tiny(row.problem or "", row.answer or "") for row in rows) else "math"
