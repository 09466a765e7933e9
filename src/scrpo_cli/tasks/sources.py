"""Where mathematics problems come from: JSONL files of SCRPO_DATA_DIR, a path, or the hub.

A JSONL row has `id`, `problem` and `answer`; `level`, `subject` and the like become meta. A file with one bad line
is refused whole: training on what is left of a broken file would go unnoticed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from scrpo_cli.errors import UserError
from scrpo_cli.files import REFUSED, read_rows
from scrpo_cli.recipe.models import ProblemsConfig
from scrpo_cli.tasks.grading.extract import extract
from scrpo_cli.tasks.grading.lists import is_list
from scrpo_cli.types import Problem

DATA_SETS = ("gsm8k", "math", "math500", "aime24", "aime25", "amc23", "olympiadbench", "minerva_math")
SUFFIXES = (".jsonl", ".jsonl.gz")
DATA_DIR = "SCRPO_DATA_DIR"
REL_TOL = {"minerva_math": 0.01}
"""Answers of these sources are rounded measurements: 1%, our choice."""
SOLUTION_SETS = ("math", "math500")
"""Bare comma lists of these sources are sets of solutions, unless the problem asks for an order."""

_ASKS_ORDER = re.compile(r"\b(?:increasing|decreasing|ascending|descending|the greatest|the least)\b|first write")


def load_problems(cfg: ProblemsConfig) -> list[Problem]:
    """The problems of a source and split, in file order, the first `cfg.limit` of them."""
    if cfg.source.startswith("hub:"):
        name, rows = cfg.source, hub_rows(cfg)
    else:
        path = find_file(cfg.source, cfg.split)
        name = cfg.source if cfg.source in DATA_SETS else path.name.split(".")[0]
        rows = read_rows(path)
    return selected(cfg, (_problem(row, where, name) for row, where in rows))


def find_file(source: str, split: str, known: Sequence[str] = DATA_SETS) -> Path:
    """The file of a data set's split, or the path itself; UserError with every path that was looked for."""
    if source.endswith(SUFFIXES):
        candidates = [Path(source)]
    else:
        root = Path(os.environ.get(DATA_DIR, "data"))
        candidates = [folder / f"{split}{suffix}" for folder in (root / source, Path(source)) for suffix in SUFFIXES]
    for path in candidates:
        if path.is_file():
            return path
    there = sorted(p.name.split(".")[0] for c in candidates for p in c.parent.glob("*.jsonl*") if len(candidates) > 1)
    splits = f"splits there: {', '.join(dict.fromkeys(there))}; or " if there else ""
    fix = f"{splits}set {DATA_DIR}, give a path to a .jsonl file, or hub:owner/name (known: {', '.join(known)})"
    raise UserError(f"no data for {source!r}, split {split!r}", f"looked for {', '.join(map(str, candidates))}", fix)


def hub_rows(cfg: ProblemsConfig) -> Iterator[tuple[dict[str, Any], str]]:
    """(row, where) of `hub:owner/name`, `hub:owner/name/config` or `hub:<local directory>`, which needs no revision.

    Where a row has no `id`, its position is one; `question` stands for `problem`, and a GSM8K-style `answer` or a
    `solution` with a box for the answer alone.
    """
    name = cfg.source.removeprefix("hub:")
    local = Path(name).is_dir()
    if not local and not cfg.revision:
        raise UserError(f"{cfg.source} has no revision", "task source", "add revision: <commit hash of the data set>")
    for i, row in enumerate(_load_dataset(name, cfg, local)):
        row = {key: value for key, value in row.items() if value is not None}
        row.setdefault("id", row.get("unique_id", f"{cfg.split}-{i}"))
        row.setdefault("problem", row.pop("question", None))
        worked = row.get("answer", row.get("solution"))
        if isinstance(worked, str) and ("answer" not in row or "####" in worked):
            row |= {"solution": worked, "answer": extract(worked).answer}
        yield row, f"{cfg.source} ({cfg.split}), row {i}"


def _load_dataset(name: str, cfg: ProblemsConfig, local: bool) -> Iterable[Mapping[str, Any]]:
    import datasets

    parts = [name] if local else [part for part in name.split("/", 2) if part]  # owner, name, config
    try:
        return datasets.load_dataset("/".join(parts[:2]), *parts[2:], split=cfg.split, revision=cfg.revision)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        what = f"cannot load {cfg.source}, split {cfg.split!r}: {str(error).splitlines()[0]}"
        raise UserError(what, "datasets.load_dataset", "check name, split, revision and network") from None


def _problem(row: Mapping[str, Any], where: str, source: str) -> Problem:
    values = [text_field(row, field, where) for field in ("id", "problem", "answer")]
    rest = {k: v for k, v in row.items() if k not in ("id", "problem", "answer", "source", "meta") and v is not None}
    name, (key, text, answer) = str(row.get("source", source)), values
    return Problem(key, name, text, answer, {**_rules(name, text, answer), **rest, **meta_field(row, where)})


def _rules(source: str, text: str, answer: str) -> dict[str, Any]:
    """What the grader has to know about answers of a source, as meta."""
    if source in REL_TOL:
        return {"rel_tol": REL_TOL[source]}
    if source in SOLUTION_SETS and is_list(answer) and not _ASKS_ORDER.search(text):
        return {"is_multiple_answer": True}
    return {}


def text_field(row: Mapping[str, Any], field: str, where: str) -> str:
    """A field that must be there and not empty; numbers are read as text."""
    value = written(row.get(field))
    if not isinstance(value, str) or not value.strip():
        state = "is empty or no text" if field in row else f"is missing (there: {', '.join(row)})"
        raise UserError(f"the field {field!r} {state}", where, REFUSED)
    return value


def written(value: Any) -> Any:
    """A number as text, all else as it is. 1e999 is a number for JSON and an infinity for Python."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    return str(value) if is_number else value


def meta_field(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    meta = row.get("meta") or {}
    if not isinstance(meta, Mapping):
        raise UserError("the field 'meta' is no object", where, REFUSED)
    return meta


def selected(cfg: ProblemsConfig, problems: Iterable[Problem]) -> list[Problem]:
    """The first `cfg.limit` problems; UserError where an id occurs twice among all of them, or there is none."""
    seen: dict[str, Problem] = {}
    for problem in problems:
        if problem.id in seen:
            raise UserError(f"the id {problem.id!r} occurs twice", problem.source, "give every problem its own id")
        seen[problem.id] = problem
    if not seen:
        raise UserError(f"the data set {cfg.source!r} ({cfg.split}) is empty", cfg.source, "use another file or split")
    return list(seen.values())[: cfg.limit]
