"""Score the tables of final answers by kind, our grader against math-verify; a table of docs/validation/grading.md.

    python tools/pair_scores.py                    # all kinds, as markdown
    python tools/pair_scores.py --kinds units      # kinds whose name holds a word
    python tools/pair_scores.py --json scores.json # and every row with both verdicts

Ours goes through `MathTask.grade`, as in training: the answer is put into a box, and the problem's text and rules are
known. math-verify's `verify(parse(reference), parse(answer))` sees both in boxes, with its defaults; it knows no
problem, no tolerance and no order of lists. A row is right where the verdict is `correct` exactly for `same`; an answer
left out of averages (`grader_error`) is right in no row.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scrpo_cli.recipe.models import TaskConfig
from scrpo_cli.tasks import make_task
from scrpo_cli.tasks.processes import KillableProcesses
from scrpo_cli.types import Problem, Verdict

TABLES = Path(__file__).resolve().parents[1] / "tests" / "tasks"
META: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "unordered": lambda value: {"is_multiple_answer": value},
    "rel_tol": lambda value: {"rel_tol": value},
    "abs_tol": lambda value: {"error": str(value)},
}
"""The rules of a row, as the meta of a problem."""
OURS_S, THEIRS_S = 5.0, 20.0
"""Deadlines; math-verify's own, of 5 s for each part, do not interrupt a power that Python computes."""
COLUMNS = ("kind", "rows", "ours right", "false +", "false -", "excluded", "math-verify right", "false +", "false -")


@dataclass(frozen=True)
class Row:
    """One row of a table, with the verdicts of both graders; `theirs` is None where math-verify gave none in time."""

    kind: str
    same: bool
    gold: str
    pred: str
    problem: str = ""
    rules: Mapping[str, Any] = field(default_factory=dict)
    ours: str = ""
    theirs: bool | None = None

    @property
    def excluded(self) -> bool:
        return self.ours == Verdict.GRADER_ERROR

    def asked(self) -> tuple[Problem, str]:
        meta = {key: value for rule, given in self.rules.items() for key, value in META[rule](given).items()}
        return Problem("1", "table", self.problem, self.gold, meta), boxed(self.pred)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", metavar="WORD", default=[""], help="only kinds whose name holds a word")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every row with both verdicts")
    options = parser.parse_args(arguments)
    rows = scored([row for row in read(TABLES) if any(word in row.kind for word in options.kinds)])
    print(markdown(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False))
    return 0


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def read(folder: Path) -> Iterator[Row]:
    """Every row of the tables in tests/tasks: pairs, pairs with their problem, hostile answers."""
    for path in [*sorted(folder.glob("pairs/*.yaml")), folder / "pairs_hostile.yaml"]:
        yield from rows_of(path, lambda gold, pred, rules=None: {"gold": gold, "pred": pred, "rules": rules or {}})
    yield from rows_of(
        folder / "pairs_problem.yaml", lambda problem, gold, pred: {"problem": problem, "gold": gold, "pred": pred}
    )


def rows_of(path: Path, fields: Callable[..., dict[str, Any]]) -> Iterator[Row]:
    for kind, table in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for verdict, rows in table.items():
            yield from (Row(kind, verdict == "same", **fields(*row)) for row in rows)


def scored(rows: Sequence[Row]) -> list[Row]:
    """The same rows with the verdicts of both graders."""
    ours = graded([row.asked() for row in rows])
    theirs = verified([(boxed(row.gold), boxed(row.pred)) for row in rows])
    return [Row(**{**vars(row), "ours": o, "theirs": t}) for row, o, t in zip(rows, ours, theirs)]


def graded(asked: Sequence[tuple[Problem, str]]) -> list[str]:
    task = make_task(TaskConfig(name="math"), workers=1, deadline_s=OURS_S)
    try:
        return [str(grade.verdict) for grade in task.grade(asked)]
    finally:
        task.close()


def verified(pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
    """math-verify's verdicts in a process that can be killed; None where there was none in time."""
    processes = KillableProcesses(1, THEIRS_S, _quiet)
    try:
        found = processes.map(_verify, pairs, "math-verify")
    finally:
        processes.close()
    return [None if isinstance(verdict, BaseException) else verdict for verdict in found]


def _quiet() -> None:
    import logging

    logging.disable(logging.ERROR)


def _verify(gold: str, response: str) -> bool:
    from math_verify import parse, verify

    return bool(verify(parse(gold), parse(response)))


def markdown(rows: Sequence[Row]) -> str:
    kinds = list(dict.fromkeys(row.kind for row in rows))
    lines = [line(kind, [row for row in rows if row.kind == kind]) for kind in kinds] + [line("**all**", rows)]
    return "\n".join(shown(cells) for cells in [COLUMNS, ["---"] * len(COLUMNS), *lines])


def line(kind: str, rows: Sequence[Row]) -> list[object]:
    kept = [row for row in rows if not row.excluded]
    positive, negative = errors(kept, lambda row: row.ours == Verdict.CORRECT)
    ours = [len(kept) - positive - negative, positive, negative, len(rows) - len(kept)]
    positive, negative = errors(rows, lambda row: bool(row.theirs))
    return [kind, len(rows), *ours, len(rows) - positive - negative, positive, negative]


def errors(rows: Sequence[Row], correct: Callable[[Row], bool]) -> tuple[int, int]:
    """How many are wrongly `correct`, and how many wrongly are not."""
    return sum(correct(row) and not row.same for row in rows), sum(row.same and not correct(row) for row in rows)


def shown(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    raise SystemExit(main())
