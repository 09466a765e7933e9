"""`scrpo eval`: benchmarks with intervals, one answer or two turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from scrpo_cli.cli import completion
from scrpo_cli.cli.common import (
    DEFAULT_RECIPE,
    EVERYWHERE,
    READS_A_FILE,
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
    idle_without,
    named,
    refuse_idle,
    refuse_idle_threshold,
    refuse_with_resume,
    sets_of,
    warn_of_idle_sets,
    warn_of_unread_sets,
)
from scrpo_cli.errors import UserError
from scrpo_cli.numbers import LARGEST, MOST_SAMPLES
from scrpo_cli.tracking.activity import now

if TYPE_CHECKING:
    from scrpo_cli.recipe.models import Recipe

TRAINING = ("optim", "checkpoint", "monitors")
"""Sections of a recipe of which an evaluation reads nothing."""
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
IDLE = {
    "--from-jsonl": (SAMPLING, "the answers of a file are there already"),
    "--run": (("--adapter",), "the run has an adapter"),
}
HIDDEN = ("options", "pinned", "engine")
"""Of a run's summary: what a resumed run has to know."""

RecipeOrRun = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="R",
        autocompletion=completion.recipes,
        help="A recipe; default: the run's, else tiny.",
    ),
]
RunOption = Annotated[
    str | None,
    typer.Option(
        "--run", metavar="RUN", autocompletion=completion.training_runs, help="A training run: its newest adapter."
    ),
]
BenchmarksOption = Annotated[
    str | None,
    typer.Option(
        "--benchmarks",
        metavar="A,B",
        autocompletion=completion.several(completion.benchmarks),
        help="Benchmarks and suites (--list), files.",
    ),
]
ListOption = Annotated[bool, typer.Option("--list", help="List the benchmarks and suites, and run nothing.")]
SamplesOption = Annotated[
    int | None, typer.Option("--samples", min=1, max=MOST_SAMPLES, metavar="N", help="Answers to each problem.")
]
TurnsOption = Annotated[
    int | None, typer.Option("--turns", min=1, max=10, metavar="N", help="2 or more: also ask for further answers.")
]
SecondTurnOption = Annotated[
    str | None,
    typer.Option(
        "--second-turn",
        metavar="HOW",
        autocompletion=completion.among("check", "self_refine", "reflect", "retry"),
        show_default="check",
        help="check, self_refine, reflect or retry.",
    ),
]
ScalingOption = Annotated[
    bool, typer.Option("--scaling", help="2K answers by majority against K answers with a correction each, and a plot.")
]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", min=1, max=LARGEST, metavar="N", help="At most so many problems of each benchmark."),
]
AgainstOption = Annotated[
    str | None,
    typer.Option("--against", metavar="RUN", autocompletion=completion.runs, help="Compare with an earlier run."),
]


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
        others = [name for name in given_options(context) if name not in (*EVERYWHERE, "--list")]
        refuse_idle(context, {}, {"--list": (others, "a list asks no model")})
        show_benchmarks(output)
        return
    refuse_with_resume(context, resume)
    refuse_idle(context, READS_A_FILE, IDLE)
    sets = sets_of(context, KEYS)
    warn_of_unread_sets(context, TRAINING, "an evaluation trains nothing")
    if benchmarks is not None:
        warn_of_idle_sets(context, {"--benchmarks": "eval.benchmarks"})
        sets.append(f"eval.benchmarks={names_of(benchmarks)}")
    output.begin(f"scrpo eval: {named(resume or run_ref, recipe)}")
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.queries import resolve_run
    from scrpo_cli.recipe.load import load_recipe
    from scrpo_cli.report.figures import plot_scalings

    if from_jsonl:
        resolved = load_recipe(recipe or DEFAULT_RECIPE, [*(["name=''"] if recipe is None else []), *sets])
        from scrpo_cli.jobs.external import evaluate_external
        from scrpo_cli.tasks.external import full_responses, parse_map, read_responses

        rows = full_responses(read_responses(from_jsonl, parse_map(map_ or []), format_))
        now().stage(f"grading {len(rows)} responses")
        how = {"named": benchmarks is not None, "choose": recipe is None and not names_task(sets)}
        summary = evaluate_external(Database.open(db), resolved, rows, against, output.say, plot_scalings, **how)
    elif resume:
        database = Database.open(db)
        resume = resolve_run(database, resume, command="eval").id  # before torch is loaded
        from scrpo_cli.jobs.evaluate import resume_evaluation

        summary = resume_evaluation(database, resume, output.say, plot_scalings)
    else:
        from scrpo_cli.jobs.checks import check_evaluation

        if run_ref is None:
            resolved = load_recipe(recipe or DEFAULT_RECIPE, sets)
            database = Database.open(db)
        else:
            database = Database.open(db)
            resolve_run(database, run_ref, command="train")  # before torch is loaded
            from scrpo_cli.jobs.evaluate import recipe_of_run

            resolved = recipe_of_run(database, run_ref, recipe, sets, output.say)
        refuse_idle_threshold(context, resolved)
        refuse_idle_turn(context, resolved)
        check_evaluation(database, resolved, against)
        from scrpo_cli.jobs.evaluate import evaluate_model

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


def refuse_idle_turn(context: typer.Context, recipe: Recipe) -> None:
    """UserError for --second-turn where no benchmark is asked for one."""
    from scrpo_cli.recipe.benchmark import plan

    if "--second-turn" not in given_options(context):
        return
    if all(recipe.protocol(benchmark.sampling).turns < 2 for benchmark in plan(recipe).benchmarks.values()):
        raise idle_without(context, "--second-turn", "--turns 2")


def names_task(sets: Sequence[str]) -> bool:
    """Whether a --set says which task grades."""
    return any(item.partition("=")[0].strip() in ("task", "task.name") for item in sets)


def show_benchmarks(output: Output) -> None:
    """`--list`: what `--benchmarks` takes by name."""
    from scrpo_cli.cli.tables import benchmark_list
    from scrpo_cli.recipe.benchmark import listing

    rows = listing()
    output.result({"benchmarks": rows}, *benchmark_list(rows))
