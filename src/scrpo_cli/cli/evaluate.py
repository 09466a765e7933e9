"""`scrpo eval`: benchmarks with intervals, one answer or two turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from scrpo_cli.cli.common import (
    DEFAULT_RECIPE,
    AdapterOption,
    DbOption,
    DebugOption,
    FormatOption,
    FromOption,
    GateOption,
    JsonOption,
    MapOption,
    Output,
    QuietOption,
    ResumeOption,
    SetOption,
    ThresholdOption,
    given_options,
    refuse_with_resume,
    refuse_without_file,
    sets_of,
)
from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import load_recipe

KEYS = {
    "--samples": "eval.samples",
    "--turns": "eval.turns",
    "--limit": "eval.limit",
    "--scaling": "eval.scaling",
    "--adapter": "model.adapter",
    "--second-turn": "eval.second_turn",
    "--gate": "eval.gate.signal",
    "--gate-threshold": "eval.gate.threshold",
}
SAMPLING = ("--run", "--adapter", "--samples", "--turns", "--second-turn", "--gate", "--gate-threshold", "--limit")
"""Options that say how a model is asked."""
HIDDEN = ("options", "pinned")
"""Of a run's summary: what a resumed run has to know."""

RecipeOrRun = Annotated[
    str | None, typer.Option("--recipe", "-r", metavar="R", help="A recipe; default: the run's, else tiny.")
]
RunOption = Annotated[str | None, typer.Option("--run", metavar="RUN", help="A training run: its newest adapter.")]
BenchmarksOption = Annotated[
    str | None, typer.Option("--benchmarks", metavar="A,B", help="Benchmarks and suites (--list), files.")
]
ListOption = Annotated[bool, typer.Option("--list", help="List the benchmarks and suites, and run nothing.")]
SamplesOption = Annotated[int | None, typer.Option("--samples", min=1, metavar="N", help="Answers to each problem.")]
TurnsOption = Annotated[
    int | None, typer.Option("--turns", min=1, max=10, metavar="N", help="2 or more: also ask for further answers.")
]
SecondTurnOption = Annotated[
    str | None,
    typer.Option("--second-turn", metavar="HOW", show_default="check", help="check, self_refine, reflect or retry."),
]
ScalingOption = Annotated[
    bool, typer.Option("--scaling", help="2K answers by majority against K answers with a correction each, and a plot.")
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="At most so many problems of each benchmark.")
]
AgainstOption = Annotated[str | None, typer.Option("--against", metavar="RUN", help="Compare with an earlier run.")]


def evaluate(
    context: typer.Context,
    recipe: RecipeOrRun = None,
    run_ref: RunOption = None,
    adapter: AdapterOption = None,
    benchmarks: BenchmarksOption = None,
    list_: ListOption = False,
    samples: SamplesOption = None,
    turns: TurnsOption = None,
    second_turn: SecondTurnOption = None,
    gate: GateOption = None,
    gate_threshold: ThresholdOption = None,
    scaling: ScalingOption = False,
    limit: LimitOption = None,
    from_jsonl: FromOption = None,
    format_: FormatOption = "jsonl",
    map_: MapOption = None,
    against: AgainstOption = None,
    resume: ResumeOption = None,
    set_: SetOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Benchmarks with 95% intervals clustered by problem; every sample is kept in the database."""
    output = Output(json, quiet)
    if list_:
        show_benchmarks(output)
        return
    refuse_with_resume(context, resume)
    refuse_without_file(context, from_jsonl)
    if run_ref and adapter:
        raise UserError("--run and --adapter both name an adapter.", "", "Give one of them.")
    sets = sets_of(context, KEYS)
    if benchmarks is not None:
        sets.append(f"eval.benchmarks={names_of(benchmarks)}")
    from scrpo_cli.pool.db import Database
    from scrpo_cli.report.figures import plot_scalings

    if from_jsonl:
        refuse_sampling(context)
        resolved = load_recipe(recipe or DEFAULT_RECIPE, [*(["name=''"] if recipe is None else []), *sets])
        from scrpo_cli.jobs.external import evaluate_external
        from scrpo_cli.tasks.external import full_responses, parse_map, read_responses

        rows = full_responses(read_responses(from_jsonl, parse_map(map_ or []), format_))
        how = {"named": benchmarks is not None, "choose": recipe is None and not names_task(sets)}
        summary = evaluate_external(Database.open(db), resolved, rows, against, output.say, plot_scalings, **how)
    elif resume:
        from scrpo_cli.jobs.evaluate import resume_evaluation

        summary = resume_evaluation(Database.open(db), resume, output.say, plot_scalings)
    else:
        database = Database.open(db)
        from scrpo_cli.jobs.evaluate import evaluate_model, recipe_of_run

        if run_ref is None:
            resolved = load_recipe(recipe or DEFAULT_RECIPE, sets)
        else:
            resolved = recipe_of_run(database, run_ref, recipe, sets, output.say)
        summary = evaluate_model(database, resolved, against, output.say, plot_scalings)
    from scrpo_cli.cli.tables import evaluation_parts

    output.result({k: v for k, v in summary.items() if k not in HIDDEN}, *evaluation_parts(summary))


def names_of(benchmarks: str) -> list[str]:
    """Of `--benchmarks a,b`."""
    names = [name.strip() for name in benchmarks.split(",")]
    if not all(names):
        what = "--benchmarks has an empty name." if any(names) else "--benchmarks names nothing."
        raise UserError(what, f"--benchmarks {benchmarks!r}", "`scrpo eval --list` lists the benchmarks.")
    return names


def names_task(sets: Sequence[str]) -> bool:
    """Whether a --set says which task grades."""
    return any(item.partition("=")[0].strip() in ("task", "task.name") for item in sets)


def refuse_sampling(context: typer.Context) -> None:
    """UserError for options that say how a model is asked: what a file holds is not sampled."""
    if extra := [name for name in given_options(context) if name in SAMPLING]:
        what = f"{', '.join(extra)}: the answers of a file are there already."
        raise UserError(what, "--from-jsonl", f"Leave out {', '.join(extra)}, or --from-jsonl.")


def show_benchmarks(output: Output) -> None:
    """`--list`: what `--benchmarks` takes by name."""
    from scrpo_cli.cli.tables import benchmark_list
    from scrpo_cli.recipe.benchmark import listing

    rows = listing()
    output.result({"benchmarks": rows}, *benchmark_list(rows))
