"""`scrpo eval`: benchmarks with intervals, one answer or two turns."""

from __future__ import annotations

from typing import Annotated

import typer

from scrpo_cli.cli.common import (
    DEFAULT_RECIPE,
    AdapterOption,
    DbOption,
    DebugOption,
    FromOption,
    GateOption,
    JsonOption,
    MapOption,
    Output,
    QuietOption,
    ResumeOption,
    SetOption,
    ThresholdOption,
    refuse_with_resume,
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
    if run_ref and adapter:
        raise UserError("--run and --adapter both name an adapter.", "", "Give one of them.")
    sets = sets_of(context, KEYS)
    if benchmarks:
        sets.append(f"eval.benchmarks={[name.strip() for name in benchmarks.split(',')]}")
    from scrpo_cli.pool.db import Database
    from scrpo_cli.report.figures import plot_scalings

    database = Database.open(db)
    if resume:
        from scrpo_cli.jobs.evaluate import resume_evaluation

        summary = resume_evaluation(database, resume, output.say, plot_scalings)
    else:
        if run_ref is None:
            resolved = load_recipe(recipe or DEFAULT_RECIPE, sets)  # its mistakes show at once
        else:
            from scrpo_cli.jobs.evaluate import recipe_of_run

            resolved = recipe_of_run(database, run_ref, recipe, sets)
        from scrpo_cli.jobs.evaluate import evaluate_external, evaluate_model
        from scrpo_cli.tasks.external import parse_map, read_full_responses

        if from_jsonl:
            rows = read_full_responses(from_jsonl, parse_map(map_ or []))
            summary = evaluate_external(database, resolved, rows, against, plot_scalings, named=benchmarks is not None)
        else:
            summary = evaluate_model(database, resolved, against, output.say, plot_scalings)
    from scrpo_cli.cli.tables import evaluation_parts

    output.result({k: v for k, v in summary.items() if k not in HIDDEN}, *evaluation_parts(summary))


def show_benchmarks(output: Output) -> None:
    """`--list`: what `--benchmarks` takes by name."""
    from scrpo_cli.cli.tables import benchmark_list
    from scrpo_cli.recipe.benchmark import listing

    rows = listing()
    output.result({"benchmarks": rows}, *benchmark_list(rows))
