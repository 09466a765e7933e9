"""`scrpo overlap`: problems of one set that are also in another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli import completion
from scrpo_cli.cli.common import DbOption, DebugOption, JsonOption, Output, QuietOption

if TYPE_CHECKING:
    from scrpo_cli.evaluation.contamination import Overlap
    from scrpo_cli.evaluation.held_out import ProblemSet


def overlap(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A", autocompletion=completion.benchmarks, help="A benchmark, SOURCE:SPLIT, or a JSONL file."
        ),
    ],
    second: Annotated[
        str | None,
        typer.Argument(metavar="B", autocompletion=completion.benchmarks, help="Another one; none: repeats inside A."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Variants too: another question on the same set-up.")] = False,
    texts: Annotated[bool, typer.Option("--texts", help="Show both problems in full.")] = False,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="T",
            autocompletion=completion.among("math", "code", "tiny", "think"),
            help="Who reads the problems; default: math, or code for code.",
        ),
    ] = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Problems that two sets share: the same text, or reworded. Examples:

    scrpo overlap math:train math500

    scrpo overlap gsm8k:train
    """
    output = Output(json, quiet)
    output.begin(f"scrpo overlap: {' and '.join(filter(None, (first, second)))}")
    from scrpo_cli.evaluation.contamination import Kind, overlaps, repeats
    from scrpo_cli.layout import Prose

    named = [read(name, task) for name in (first, second) if name is not None]
    corpora = [problems.corpus() for problems in named]
    found = overlaps(*corpora) if second is not None else repeats(corpora[0])
    counts = {kind.value: sum(o.kind is kind for o in found) for kind in Kind}
    shown = [o for o in found if all_ or o.kind is not Kind.VARIANT]
    sizes = {str(problems): len(corpus.texts) for problems, corpus in zip(named, corpora, strict=True)}
    data = {"sets": sizes, "counts": counts, "pairs": [row(o, texts) for o in shown]}
    output.result(data, *parts(shown, texts), Prose(closing(sizes, counts, all_)))


def read(name: str, task: str | None) -> ProblemSet:
    """`olympiadbench` (a benchmark's problems), `math:train`, `mine.jsonl`, `hub:owner/name:split`."""
    from scrpo_cli.evaluation.held_out import GENERATED, ProblemSet
    from scrpo_cli.recipe.benchmark import Benchmark, shipped
    from scrpo_cli.recipe.models import ProblemsConfig, TaskConfig
    from scrpo_cli.tasks.code.sources import CODE_SETS

    known = shipped().get(name)
    if isinstance(known, Benchmark):
        return ProblemSet(known.task, known.problems)
    source, colon, split = name.rpartition(":")
    if not colon or source == "hub":
        source, split = name, "test"
    reader = task or ("code" if source in CODE_SETS else source if source in GENERATED else "math")
    return ProblemSet(TaskConfig(name=reader), ProblemsConfig(source=source, split=split))


def row(o: Overlap, texts: bool) -> dict[str, Any]:
    both = {"first_text": o.first.text, "second_text": o.second.text} if texts else {}
    found = {"kind": o.kind.value, "similarity": o.similarity, "first": o.first.id, "second": o.second.id}
    return found | {"first_answer": o.first.answer, "second_answer": o.second.answer} | both


def parts(found: Sequence[Overlap], texts: bool) -> list[Any]:
    from scrpo_cli.layout import Prose, Table

    if texts:
        return [Prose(f"{o.kind} {o.similarity:.2f}\n{side(o.first)}\n{side(o.second)}\n") for o in found]
    table = Table("kind", "similarity", "A", "B", records=True)
    for o in found:
        table.add_row(o.kind, f"{o.similarity:.2f}", o.first.id, o.second.id)
    return [table] if found else []


def side(problem: Any) -> str:
    return f"{problem.id}: {problem.text.strip()}\n  answer: {problem.answer[:200]}"


def closing(sizes: dict[str, int], counts: dict[str, int], all_: bool) -> str:
    sets = " against ".join(f"{name}: {n:,} problems" for name, n in sizes.items())
    pairs = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    hidden = "" if all_ or not counts["variant"] else " (variants are shown with --all)"
    return f"{sets}\n{pairs}{hidden}"
