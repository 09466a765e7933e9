"""`scrpo grade`: verdicts on answers given on the command line or in a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli import completion
from scrpo_cli.cli.common import (
    READS_A_FILE,
    DbOption,
    DebugOption,
    FormatOption,
    FromOption,
    JsonOption,
    MapOption,
    Output,
    QuietOption,
    refuse_idle,
)
from scrpo_cli.errors import UserError
from scrpo_cli.numbers import LONGEST_DEADLINE, MOST_PROCESSES

if TYPE_CHECKING:
    from scrpo_cli.tasks.external import PairRow, ResponseRow
    from scrpo_cli.types import Grade


def grade(
    context: typer.Context,
    task: Annotated[
        str,
        typer.Option(
            "--task",
            metavar="T",
            autocompletion=completion.among("math", "code", "tiny", "think"),
            help="math, code, tiny, think, or a task of your own.",
        ),
    ] = "math",
    grader: Annotated[
        str | None, typer.Option("--grader", metavar="G", help="A grader of your own instead (docs/plugins.md).")
    ] = None,
    gold: Annotated[str | None, typer.Option("--gold", metavar="G", help="The reference answer.")] = None,
    answer: Annotated[str | None, typer.Option("--answer", metavar="A", help="The final answer to judge.")] = None,
    from_jsonl: FromOption = None,
    format_: FormatOption = "jsonl",
    map_: MapOption = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=MOST_PROCESSES, metavar="N", help="Grading processes.")
    ] = None,
    deadline: Annotated[
        float, typer.Option("--deadline", min=0.1, max=LONGEST_DEADLINE, metavar="S", help="Seconds for each item.")
    ] = 5.0,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Grade answers: one pair (--gold, --answer) or a file of responses (--from-jsonl).

    A row with `answer` and `response` is graded as full model text; one with `gold` and `pred` holds two final
    answers, and only equivalence is asked. For --task code a row has `prompt`, `entry_point` and `tests` in place of
    `answer`. Example:

    scrpo grade --gold '\\frac{1}{2}' --answer 0.5
    """
    from contextlib import closing

    refuse_idle(context, READS_A_FILE)
    rows = _rows(gold, answer, from_jsonl, map_ or [], format_)
    from scrpo_cli.recipe.models import TaskConfig
    from scrpo_cli.recipe.references import is_plugin, located
    from scrpo_cli.tasks import make_task
    from scrpo_cli.tasks.external import PairRow

    name, own = located(task, "task.name", "--task"), grader and located(grader, "task.grader", "--grader")
    if not own and not is_plugin(name):
        _refuse_other_tasks(task, rows)
    responses = [(row.as_problem(), row.prefill + row.response) for row in rows if not isinstance(row, PairRow)]
    output = Output(json, quiet)
    output.begin(f"scrpo grade: {len(rows)} answer{'s' * (len(rows) != 1)}, task {task}")
    with closing(make_task(TaskConfig(name=name, grader=own), workers, deadline)) as judge:
        pairs = [row for row in rows if isinstance(row, PairRow)]
        grades = iter(judge.compare([(row.gold, row.pred) for row in pairs]))
        graded = iter(judge.grade(responses))
        result = [(row, next(grades) if isinstance(row, PairRow) else next(graded)) for row in rows]
    counts = Counter(str(g.verdict) for _, g in result)
    data = {"task": task, "grader": judge.grader, "rows": [_row(row.id, g) for row, g in result], "counts": counts}
    output.result(data, _text(result, counts))


def _rows(
    gold: str | None, answer: str | None, file: Path | None, maps: Sequence[str], format: str
) -> Sequence[ResponseRow | PairRow]:
    from scrpo_cli.tasks.external import PairRow, parse_map, read_responses

    if file is not None and gold is None and answer is None:
        return read_responses(file, parse_map(maps), format)
    if file is None and gold is not None and answer is not None:
        return [PairRow("answer", "--gold, --answer", gold, answer)]
    raise UserError("nothing to grade", "scrpo grade", "give --gold G and --answer A, or --from-jsonl FILE")


def _refuse_other_tasks(task: str, rows: Sequence[ResponseRow | PairRow]) -> None:
    """Programs have tests, and nothing else has."""
    from scrpo_cli.tasks.external import ResponseRow

    for row in rows:
        if isinstance(row, ResponseRow) and ("tests" in row.meta) is not (task == "code"):
            if task == "code":
                raise UserError("the fields 'entry_point' and 'tests' are missing", row.where, "name them with --map")
            raise UserError(f"the task {task!r} runs no tests", row.where, "grade programs with --task code")


def _row(key: str, grade: Grade) -> dict[str, Any]:
    row = {"id": key, "verdict": str(grade.verdict), "extracted": grade.extracted}
    return row | ({"reason": grade.reason} if grade.reason else {})


def _text(result: Sequence[tuple[ResponseRow | PairRow, Grade]], counts: Counter[str]) -> Any:
    if len(result) == 1:
        ((_, only),) = result
        return f"{only.verdict}" + (f" ({only.reason})" if only.reason else "")
    from scrpo_cli.layout import Table

    table = Table("verdict", "rows", "share")
    for verdict, n in counts.most_common():
        table.add_row(verdict, str(n), f"{n / len(result):.1%}")
    return table
