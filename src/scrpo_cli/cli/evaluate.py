"""`scrpo eval`: benchmarks with intervals, one answer or two turns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrpo_cli.cli.collect import AdapterOption, FromOption, MapOption, read_rows
from scrpo_cli.cli.common import DEFAULT_RECIPE, DbOption, DebugOption, JsonOption, Output, QuietOption, SetOption
from scrpo_cli.errors import UserError
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import Recipe

if TYPE_CHECKING:
    from scrpo_cli.pool.db import Database
    from scrpo_cli.training.launch import Launch


RecipeOrRun = Annotated[
    str | None, typer.Option("--recipe", "-r", metavar="R", help="A recipe; default: the run's, else tiny.")
]
RunOption = Annotated[str | None, typer.Option("--run", metavar="RUN", help="A training run: its newest adapter.")]
BenchmarksOption = Annotated[str | None, typer.Option("--benchmarks", metavar="A,B", help="For eval.benchmarks.")]
TurnsOption = Annotated[int | None, typer.Option("--turns", min=1, max=2, help="2: also ask for a second answer.")]
SecondTurnOption = Annotated[
    str | None,
    typer.Option("--second-turn", metavar="HOW", show_default="check", help="check, self_refine, reflect or retry."),
]
GateOption = Annotated[
    str | None,
    typer.Option("--gate", metavar="SIGNAL", help="Reflect by logprob, surprisal, agreement or verdict."),
]
ThresholdOption = Annotated[
    str | None,
    typer.Option("--gate-threshold", metavar="X", help="Number, never or always; default: fitted on task.validation."),
]
AgainstOption = Annotated[str | None, typer.Option("--against", metavar="RUN", help="Compare with an earlier run.")]


def evaluate(
    recipe: RecipeOrRun = None,
    run_ref: RunOption = None,
    adapter: AdapterOption = None,
    benchmarks: BenchmarksOption = None,
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="Answers a problem.")] = None,
    turns: TurnsOption = None,
    second_turn: SecondTurnOption = None,
    gate: GateOption = None,
    gate_threshold: ThresholdOption = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many problems a benchmark.")] = None,
    from_jsonl: FromOption = None,
    map_: MapOption = None,
    against: AgainstOption = None,
    set_: SetOption = None,
    db: DbOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Benchmarks with 95% intervals clustered by problem; every sample is kept in the database."""
    from scrpo_cli.pool.db import Database
    from scrpo_cli.pool.queries import resolve_run
    from scrpo_cli.training.compare import compare_runs
    from scrpo_cli.training.launch import launch

    if run_ref and adapter:
        raise UserError("--run and --adapter both name an adapter.", "", "Give one of them.")
    output = Output(json, quiet)
    database = Database.open(db)
    base, trained = of_run(database, run_ref) if run_ref else (None, adapter)
    shorts = overrides(benchmarks, samples, turns, limit, trained)
    sets = [*(set_ or []), *shorts, *gate_overrides(gate, gate_threshold, second_turn)]
    resolved = with_sets(base, sets) if base and recipe is None else load_recipe(recipe or DEFAULT_RECIPE, sets)
    check(resolved, imported=from_jsonl is not None)
    rows = read_rows(from_jsonl, map_) if from_jsonl else None
    other = resolve_run(database, against, command="eval" if against == "last" else None).id if against else None
    with launch(database, "eval", resolved, resumable=False) as run:
        results = score_rows(database, run, rows) if rows is not None else sample(database, run, output)
        run.summary |= {"run": run.run_id, "benchmarks": results}
        if other is not None:
            run.summary["against"] = compare_runs(database, run.run_id, other)
    output.result(run.summary, *closing(run.summary))


def overrides(
    benchmarks: str | None, samples: int | None, turns: int | None, limit: int | None, adapter: str | None
) -> list[str]:
    """The options that are short for recipe keys, as --set items."""
    names = [b.strip() for b in benchmarks.split(",")] if benchmarks else None
    given = {
        "eval.benchmarks": names,
        "eval.samples": samples,
        "eval.turns": turns,
        "eval.limit": limit,
        "model.adapter": adapter,
    }
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def gate_overrides(gate: str | None, threshold: str | None, second_turn: str | None = None) -> list[str]:
    """The options of second turns as --set items."""
    given = {"eval.second_turn": second_turn, "eval.gate.signal": gate, "eval.gate.threshold": threshold}
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def check(recipe: Recipe, *, imported: bool) -> None:
    """Refuse a gate that cannot work, before anything is loaded."""
    from scrpo_cli.evaluation.gating import check_gate

    if imported and recipe.eval.gate.signal != "none":
        what = "A gate asks a model, and the answers of a file have no log-probs."
        raise UserError(what, "--from-jsonl with eval.gate", "Leave out one of the two.")
    check_gate(recipe)


def of_run(database: Database, ref: str) -> tuple[Recipe, str]:
    """The recipe of a training run and its newest adapter."""
    from scrpo_cli.pool.queries import resolve_run
    from scrpo_cli.training.checkpoint import newest

    row = resolve_run(database, ref, command="train")
    found = newest(Path(row.directory) / "checkpoints")
    if found is None:
        raise UserError(f"Run {row.id} has no complete checkpoint.", row.directory, "Resume it, or name another run.")
    return Recipe.model_validate_json(row.recipe_json), str(found)


def with_sets(recipe: Recipe, sets: list[str]) -> Recipe:
    """A stored recipe with --set items on top, under the same checks as a recipe file."""
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as handle:
        handle.write(recipe.model_dump_json())  # JSON is YAML
        handle.flush()
        return load_recipe(handle.name, sets)


def score_rows(database: Database, run: Launch, rows: list[Any]) -> dict[str, Any]:
    from contextlib import closing as closed

    from scrpo_cli.evaluation.benchmarks import evaluate_rows
    from scrpo_cli.pool.queries import record_evaluation
    from scrpo_cli.tasks import make_task

    with closed(make_task(run.recipe.task)) as task:
        result = evaluate_rows(task, rows, f"{run.run_id}:0")
    record_evaluation(database, run.run_id, 0, rows[0].source, result.metrics, result.attempts)
    return {rows[0].source: result.metrics}


def sample(database: Database, run: Launch, output: Output) -> dict[str, Any]:
    from scrpo_cli.evaluation.benchmarks import benchmark_problems
    from scrpo_cli.evaluation.gating import evaluate_gated
    from scrpo_cli.evaluation.runner import Evaluator
    from scrpo_cli.pool.queries import record_evaluation
    from scrpo_cli.rollout.prompts import check_prompt_budget
    from scrpo_cli.training.gates import gate_threshold
    from scrpo_cli.training.lab import open_lab

    recipe = run.recipe
    if not recipe.eval.benchmarks:
        raise UserError("No benchmarks to run.", "eval.benchmarks", "Name some with --benchmarks a,b.")
    results = {}
    with open_lab(recipe) as lab:
        problems = {name: benchmark_problems(recipe, lab.task, name) for name in recipe.eval.benchmarks}
        for each in problems.values():
            check_prompt_budget(recipe, lab.task, lab.chat, each)
        evaluator = Evaluator(recipe, lab.engine, lab.chat, lab.task)
        threshold = gate_threshold(database, run, evaluator, list(problems.values()), output.say)
        for name, each in problems.items():
            output.say(f"{name}: {len(each)} problems x {recipe.eval.samples} samples")
            prefix = f"{run.run_id}:0:{name}"
            if threshold is None:
                result = evaluator.run(each, prefix, name)
            else:
                result = evaluate_gated(evaluator, each, prefix, name, threshold)
            record_evaluation(database, run.run_id, 0, name, result.metrics, result.attempts)
            results[name] = result.metrics
    return results


def closing(summary: dict[str, Any]) -> list[Any]:
    from scrpo_cli.cli.tables import benchmark_table, gate_rule, points

    parts: list[Any] = [benchmark_table(summary["benchmarks"])]
    if fit := summary.get("gate_fit"):
        gain = points(fit["against_never"])
        parts.append(f"gate {gate_rule(fit)}, fitted on {fit['n']} validation problems ({gain} there against never)")
    for name, change in (summary.get("against") or {}).items():
        words = f"{points(change)}, p = {change['p']:.2g}"
        parts.append(f"{name} against {change['run']}: {words}: {change['verdict']}")
    parts.append(f"95% intervals, clustered by problem; every sample is in run {summary['run']}")
    return parts
