"""`scrpo eval`: benchmarks with intervals, one answer or two turns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli.collect import AdapterOption, FromOption, MapOption, ResumeOption, read_rows
from scrpo_cli.cli.common import (
    DEFAULT_RECIPE,
    DbOption,
    DebugOption,
    JsonOption,
    Output,
    QuietOption,
    SetOption,
    refuse_with_resume,
)
from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import earlier_recipe, load_recipe
from scrpo_cli.recipe.models import Recipe

if TYPE_CHECKING:
    from scrpo_cli.jobs.runs import ActiveRun
    from scrpo_cli.pool.db import Database
    from scrpo_cli.tasks.external import ResponseRow


RecipeOrRun = Annotated[
    str | None, typer.Option("--recipe", "-r", metavar="R", help="A recipe; default: the run's, else tiny.")
]
RunOption = Annotated[str | None, typer.Option("--run", metavar="RUN", help="A training run: its newest adapter.")]
BenchmarksOption = Annotated[
    str | None, typer.Option("--benchmarks", metavar="A,B", help="Benchmarks and suites (--list), files.")
]
TurnsOption = Annotated[
    int | None, typer.Option("--turns", min=1, max=10, help="2 or more: also ask for further answers.")
]
SecondTurnOption = Annotated[
    str | None,
    typer.Option("--second-turn", metavar="HOW", show_default="check", help="check, self_refine, reflect or retry."),
]
GateOption = Annotated[
    str | None,
    typer.Option("--gate", metavar="SIGNAL", help="Reflect by logprob, mean_logprob, agreement or verdict."),
]
ThresholdOption = Annotated[
    str | None,
    typer.Option("--gate-threshold", metavar="X", help="Number, never or always; default: fitted on task.validation."),
]
AgainstOption = Annotated[str | None, typer.Option("--against", metavar="RUN", help="Compare with an earlier run.")]


ScalingOption = Annotated[
    bool, typer.Option("--scaling", help="2K answers by majority against K answers with a correction each, and a plot.")
]
ListOption = Annotated[bool, typer.Option("--list", help="List the benchmarks and suites, and run nothing.")]


def evaluate(
    recipe: RecipeOrRun = None,
    run_ref: RunOption = None,
    adapter: AdapterOption = None,
    benchmarks: BenchmarksOption = None,
    list_: ListOption = False,
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="Answers a problem.")] = None,
    turns: TurnsOption = None,
    second_turn: SecondTurnOption = None,
    gate: GateOption = None,
    gate_threshold: ThresholdOption = None,
    scaling: ScalingOption = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many problems a benchmark.")] = None,
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
    started_with: dict[str, Any] = {
        "--recipe": recipe,
        "--run": run_ref,
        "--adapter": adapter,
        "--benchmarks": benchmarks,
        "--samples": samples,
        "--turns": turns,
        "--second-turn": second_turn,
        "--gate": gate,
        "--gate-threshold": gate_threshold,
        "--scaling": scaling or None,
        "--limit": limit,
        "--from-jsonl": from_jsonl,
        "--against": against,
        "--set": set_ or None,
    }
    refuse_with_resume(resume, started_with)
    from scrpo_cli.pool.db import Database

    database = Database.open(db)
    if resume:
        summary = continued(database, resume, output)
    else:
        if run_ref and adapter:
            raise UserError("--run and --adapter both name an adapter.", "", "Give one of them.")
        base, trained = of_run(database, run_ref) if run_ref else (None, adapter)
        sets = [*(set_ or []), *overrides(benchmarks, samples, turns, limit, trained, scaling)]
        sets += gate_overrides(gate, gate_threshold, second_turn)
        resolved = with_sets(base, sets) if base and recipe is None else load_recipe(recipe or DEFAULT_RECIPE, sets)
        if from_jsonl:
            rows = read_rows(from_jsonl, map_)
            summary = imported(database, resolved, rows, against, named=benchmarks is not None)
        else:
            summary = begun(database, resolved, against, output)
    from scrpo_cli.cli.eval_tables import closing

    output.result({k: v for k, v in summary.items() if k not in HIDDEN}, *closing(summary))


HIDDEN = ("options", "pinned")
"""Of a run's summary: what a resumed run has to know."""


def begun(database: Database, recipe: Recipe, against: str | None, output: Output) -> dict[str, Any]:
    """A new evaluation of a model."""
    from scrpo_cli.evaluation.held_out import check_held_out, held_out_of, trained_on, warnings
    from scrpo_cli.evaluation.protocol import Protocol
    from scrpo_cli.jobs.runs import started_run
    from scrpo_cli.recipe.benchmark import other_prompts, plan

    planned = plan(recipe)
    for name, benchmark in planned.benchmarks.items():
        Protocol.of(recipe, benchmark).check()  # before anything is loaded
        if recipe.eval.prompt == "benchmark" and (differ := other_prompts(benchmark, recipe)):
            output.say(f"{name} is asked with its own {', '.join(differ)}; --set eval.prompt=recipe takes the recipe's")
    found = check_held_out(recipe, trained_on(database, recipe), held_out_of(planned))
    for line in warnings(found):
        output.say(line)
    options = {"plan": planned.as_dict(), "against": other_run(database, against)}
    with started_run(database, "eval", recipe, summary={"options": options, "contamination": found}) as run:
        sample(database, run, output)
    return run.summary


def continued(database: Database, ref: str, output: Output) -> dict[str, Any]:
    """An interrupted evaluation, from where it stopped."""
    from scrpo_cli.jobs.runs import resumed_run

    with resumed_run(database, "eval", ref) as run:
        if "plan" not in run.summary.get("options", {}):
            what = "Only an evaluation that samples can be resumed, and this run has no plan."
            raise UserError(what, f"--resume {run.run_id}", "Run it again.")
        sample(database, run, output)
    return run.summary


def imported(
    database: Database, recipe: Recipe, rows: list[ResponseRow], against: str | None, *, named: bool
) -> dict[str, Any]:
    """External responses."""
    from scrpo_cli.jobs.evaluate import score_rows, sum_up
    from scrpo_cli.jobs.runs import started_run

    if recipe.eval.gate.signal != "none":
        what = "A gate asks a model, and the answers of a file have no log-probs."
        raise UserError(what, "--from-jsonl with eval.gate", "Leave out one of the two.")
    other = other_run(database, against)
    with started_run(database, "eval", recipe, resumable=False) as run:
        results = score_rows(database, run, rows, named=named)
        sum_up(database, run, results, {}, other)
        draw(run, results)
    return run.summary


def other_run(database: Database, against: str | None) -> str | None:
    from scrpo_cli.pool.queries import resolve_run

    return resolve_run(database, against, command="eval" if against == "last" else None).id if against else None


def overrides(
    benchmarks: str | None,
    samples: int | None,
    turns: int | None,
    limit: int | None,
    adapter: str | None,
    scaling: bool = False,
) -> list[str]:
    """The options that are short for recipe keys, as --set items."""
    names = [b.strip() for b in benchmarks.split(",")] if benchmarks else None
    given = {
        "eval.benchmarks": names,
        "eval.samples": samples,
        "eval.turns": turns,
        "eval.limit": limit,
        "model.adapter": adapter,
        "eval.scaling": "true" if scaling else None,
    }
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def gate_overrides(gate: str | None, threshold: str | None, second_turn: str | None = None) -> list[str]:
    """The options of second turns as --set items."""
    given = {"eval.second_turn": second_turn, "eval.gate.signal": gate, "eval.gate.threshold": threshold}
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def of_run(database: Database, ref: str) -> tuple[Recipe, str]:
    """The recipe of a training run and its newest adapter."""
    from scrpo_cli.pool.queries import resolve_run
    from scrpo_cli.training.checkpoint import newest

    row = resolve_run(database, ref, command="train")
    found = newest(Path(row.directory) / "checkpoints")
    if found is None:
        raise UserError(f"Run {row.id} has no complete checkpoint.", row.directory, "Resume it, or name another run.")
    return earlier_recipe(row.recipe_json), str(found)


def with_sets(recipe: Recipe, sets: list[str]) -> Recipe:
    """A stored recipe with --set items on top, under the same checks as a recipe file."""
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as handle:
        handle.write(recipe.model_dump_json())  # JSON is YAML
        handle.flush()
        return load_recipe(handle.name, sets)


def sample(database: Database, run: ActiveRun, output: Output) -> None:
    """The plan of a run, from where it stands."""
    from scrpo_cli.jobs.evaluate import evaluate_plan, sum_up
    from scrpo_cli.recipe.benchmark import EvalPlan

    options = run.summary["options"]
    planned = EvalPlan.read(options["plan"])
    results = evaluate_plan(database, run, planned, output.say)
    sum_up(database, run, results, planned.suites, options["against"])
    draw(run, results)


def draw(run: ActiveRun, results: dict[str, Any]) -> None:
    """The figures of inference scaling, beside the run's other files."""
    from scrpo_cli.report.figures import plot_scalings

    if plots := plot_scalings(results, run.directory):
        run.summary["plots"] = plots


def show_benchmarks(output: Output) -> None:
    """`--list`: what `--benchmarks` takes by name."""
    from scrpo_cli.cli.eval_tables import benchmark_list
    from scrpo_cli.recipe.benchmark import listing

    rows = listing()
    output.result({"benchmarks": rows}, *benchmark_list(rows))
